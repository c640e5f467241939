"""GPUs that a plan knows, by their data sheets, and the time that clustering would take on one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from curation.cost import Work

BEST_SHARE = 0.64
"""Of the peak, that a scan comes to where rows are long; this and what follows was measured on an H200."""
HALF_LENGTH = 56
"""Dimensions at which it comes to half of that: a short row is over before the units are full."""
RESTRICTED = 2.3
"""Time of a pair that is looked at in a group over one in a scan: rows are gathered, and tiles padded."""
HOST = 5e-8
"""Seconds a point and pass that the machine around the GPU takes, of 16 cores: labels, draws, copies."""
PREPARED = 2.5e-9
"""Seconds a coordinate, once, until the points are on the GPU: the grid, checks, copies and the sketch."""
DOUBLE = 6e11
"""Float64 operations a second of those cores, which look for the neighbours of centroids."""
STATE_BYTES, TABLE_BYTES = 60, 14
"""Of a point beside its coordinates, and of a coordinate of a centroid with its sums."""
ROUND = 0.02
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


def kernel_seconds(gpu: Gpu, levels: Sequence[Work], n: int, d: int, k: int) -> float:
    """Time that the GPU itself is busy, or waits for rows that do not fit it."""
    rate = gpu.rate * BEST_SHARE * d / (d + HALF_LENGTH)
    total = sum(levels, Work())
    operations = total.operations(d) - total.between + 2.0 * d * total.restricted * (RESTRICTED - 1)
    busy = max(operations / rate, total.row_bytes(d, 2) / gpu.bandwidth)
    copied = levels[0].read * 2 * d / gpu.link if streams(gpu, n, d, k) else 0.0
    return max(busy, copied)


def gpu_seconds(gpu: Gpu, levels: Sequence[Work], n: int, d: int, k: int) -> float:
    """Time of the levels of a tree over n points (n, d) with k leaves on one GPU in a machine of 16 cores."""
    total = sum(levels, Work())
    host = (total.read + total.updated) * HOST + n * d * PREPARED + total.between / DOUBLE
    return kernel_seconds(gpu, levels, n, d, k) + host + total.rounds * ROUND
