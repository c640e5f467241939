"""GPUs that a plan knows, by their data sheets, and the time that clustering would take on one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from curation.cost import Work

BEST_SHARE = 0.75
"""Of the peak, that the kernels come to where rows are long."""
HALF_LENGTH = 110
"""Dimensions at which they come to half of that: a short row is over before the units are full."""
STATE_BYTES, TABLE_BYTES = 60, 14
"""Of a point beside its coordinates, and of a coordinate of a centroid with its sums."""
ROUND = 0.001
"""Seconds that a step takes at least."""


@dataclass(frozen=True)
class Gpu:
    """A GPU.

    Attributes:
        name: As it is sold.
        rate: Dense float16 operations a second with float32 sums.
        bandwidth: Bytes a second of its memory.
        memory: Bytes.
        link: Bytes a second from the machine's memory, one way.
    """

    name: str
    rate: float
    bandwidth: float
    memory: float
    link: float


GPUS = (
    Gpu("H200", 989e12, 4.8e12, 141e9, 55e9),
    Gpu("H100", 989e12, 3.35e12, 80e9, 55e9),
    Gpu("A100 80 GB", 312e12, 2.0e12, 80e9, 25e9),
    Gpu("L40S", 362e12, 864e9, 48e9, 25e9),
    Gpu("L4", 121e12, 300e9, 24e9, 25e9),
    Gpu("T4", 65e12, 300e9, 16e9, 12e9),
)


def streams(gpu: Gpu, n: int, d: int, k: int) -> bool:
    """Whether the points do not fit beside the centroids, so that every pass copies them over the link."""
    return n * (2 * d + STATE_BYTES) + k * d * TABLE_BYTES > 0.9 * gpu.memory


def gpu_seconds(gpu: Gpu, levels: Sequence[Work], n: int, d: int, k: int) -> float:
    """Time of the levels of a tree over n points (n, d) with k leaves on one GPU."""
    rate = gpu.rate * BEST_SHARE * d / (d + HALF_LENGTH)
    total = sum(levels, Work())
    busy = max(total.operations(d) / rate, total.row_bytes(d, 2) / gpu.bandwidth)
    copied = levels[0].read * 2 * d / gpu.link if streams(gpu, n, d, k) else 0.0
    return max(busy, copied) + total.rounds * ROUND
