"""Short work on parts, some in a task: an autoscaler would bring machines for a long queue of tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import ray

T = TypeVar("T")

PARTS_A_TASK = 256
"""Fewer are done before a machine that is not there yet has come, which takes minutes."""


def groups(parts: Sequence[T]) -> list[Sequence[T]]:
    """Cut parts into runs, a task each: one for each CPU that is there, or each `PARTS_A_TASK` if more."""
    return runs(parts, int(ray.cluster_resources().get("CPU", 0)))


def runs(parts: Sequence[T], cpus: int) -> list[Sequence[T]]:
    """The runs, of nearly equal length, for so many CPUs."""
    n = len(parts)
    count = min(n, max(1, cpus, -(-n // PARTS_A_TASK)))
    return [parts[i * n // count : (i + 1) * n // count] for i in range(count)]
