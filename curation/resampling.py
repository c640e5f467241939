"""Resampling: the few points of each cluster that stand for it in the next fit.

A resampling step keeps the points that lie closest to their centroids, or random ones, up to a limit a
cluster. No limit is a position in an order of all points: each block names its first points of every
cluster, a centroid worker finds where the limit lies among them, and each block keeps what lies within.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from curation import chance
from curation.assign import Assigner, Centroids
from curation.points import Points

if TYPE_CHECKING:
    from curation.centroids import Leaders, Limits
    from curation.workers import Handle, Workers

Strategy = Literal["closest", "random"]


def resample(
    workers: Workers,
    own: list[Handle],
    slices: list[Handle],
    strategy: Strategy,
    salt: int,
    limit: int,
    view: str,
) -> int:
    """Enters the view of the points that stand for their clusters; returns how many there are."""
    leaders = workers.points("leaders", strategy, salt, limit, *slices, own=own, returns=len(slices))
    if len(slices) == 1:
        leaders = [(part,) for part in leaders]
    limits = [
        workers.slice(i, "limits", part, limit, *(block[i] for block in leaders))
        for i, part in enumerate(slices)
    ]
    return workers.enter(own, view, strategy, salt, len(slices), *slices, *limits)


def preference(
    points: Points,
    labels: NDArray[np.int32],
    strategy: Strategy,
    salt: int,
    assigner: Assigner,
    slices: Sequence[NDArray[np.float32]],
) -> NDArray[np.float64]:
    """What resampling takes the smallest of (n,): distances to the centroids, or draws."""
    if strategy == "random":
        return chance.draws(points.mixed, np.uint64(salt))
    return points.distances(assigner, labels, Centroids(np.concatenate(slices)))


def leaders(
    points: Points, labels: NDArray[np.int32], values: NDArray[np.float64], limit: int, sizes: Sequence[int]
) -> list[Leaders]:
    """The first `limit` points of every cluster, by value and key.

    Args:
        points: The points.
        labels: Their clusters (n,).
        values: See `preference`.
        limit: Most points a cluster.
        sizes: Clusters of each slice.

    Returns:
        For each slice (cluster within the slice, value, keys (m, 2)), sorted.
    """
    order = chance.order(values, points.keys, labels)
    order = order[chance.rank_in_group(labels[order]) < limit]
    clusters = labels[order]
    parts: list[Leaders] = []
    start = 0
    for size in sizes:
        mine = order[(clusters >= start) & (clusters < start + size)]
        parts.append((labels[mine] - start, values[mine], points.keys[mine]))
        start += size
    return parts


def within(
    points: Points, labels: NDArray[np.int32], values: NDArray[np.float64], limits: Sequence[Limits]
) -> NDArray[np.int64]:
    """Indices of the points up to their clusters' limits: (value, first word, second word) a cluster."""
    value, first, second = (np.concatenate(column)[labels] for column in zip(*limits, strict=True))
    one, two = points.keys[:, 0], points.keys[:, 1]
    inside = (values < value) | ((values == value) & ((one < first) | ((one == first) & (two <= second))))
    return np.flatnonzero(inside)
