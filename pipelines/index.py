"""Where do samples begin in the files of a large pool? The cluster looks, a file a task."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import ray

from modalities.mapper import R, T, in_order
from pipelines.resources import Resources
from pipelines.sizing import task_cpus
from pipelines.steps import alike, telling

LARGE = 2**31
"""Bytes to read for which it is worth to start Ray first; less is read here."""


def on_cluster(look: Callable[[T], R], items: Iterable[T], there: Resources) -> Iterator[R]:
    """Yield ``look(item)`` of every item, in their order: a `modalities.mapper.Mapper` of tasks.

    Twice as many tasks as there may be CPUs are under way, so that an autoscaler sees what is wanted.

    Raises:
        RequestError: What an item has to say against itself.
    """
    task = ray.remote(num_cpus=task_cpus(there))(alike(telling(look)))
    ahead = 2 * max(1, int(there.most_cpus))
    yield from in_order(items, task.remote, ray.get, ahead, ray.cancel)
