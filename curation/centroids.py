"""What a centroid worker does to its slice: gather seeds, reduce sums, update, find resampling limits.

Pure functions of their arguments, so that a centroid worker may die and lose nothing.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from curation import chance, exact

Found = tuple[NDArray[np.int64], NDArray[np.float32]]
Partial = tuple[NDArray[np.int64], NDArray[np.int64]]
Leaders = tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.uint64]]
Limits = tuple[NDArray[np.float64], NDArray[np.uint64], NDArray[np.uint64]]


def gather(low: int, high: int, *found: Found) -> NDArray[np.float32]:
    """Rows low..high-1 of a list of points, put together from what each block found of the list."""
    out = np.empty((high - low, found[0][1].shape[1]), np.float32)
    for position, rows in found:
        mine = (position >= low) & (position < high)
        out[position[mine] - low] = rows[mine]
    return out


def update(
    centroids: NDArray[np.float32], unit_norm: bool, *partials: Partial
) -> tuple[NDArray[np.float32], tuple[bool, int]]:
    """Reduces the blocks' exact sums and moves each centroid of a slice to its mean, on the grid.

    A cluster without points keeps its centroid, as does one whose mean has no direction (`unit_norm`).

    Returns:
        The new slice (k, d), and (whether it moved, its part of the objective before the move less
        the sum of squared norms, in units of 2^-48).
    """
    sums = np.sum([partial[0] for partial in partials], axis=0)
    counts = np.sum([partial[1] for partial in partials], axis=0)
    moved = exact.mean_on_grid(sums, counts, unit_norm=unit_norm)
    stays = (counts == 0) | (unit_norm & ~sums.any(axis=1))
    moved[stays] = centroids[stays]
    return moved, (not np.array_equal(moved, centroids), exact.inertia_terms(centroids, sums, counts))


def limits(centroids: NDArray[np.float32], limit: int, *leaders: Leaders) -> Limits:
    """Merges the blocks' first points of every cluster: the last one that a resampling step takes.

    Args:
        centroids: The slice (k, d).
        limit: Points wanted of each cluster.
        leaders: What `PointBlock.leaders` returned for this slice.

    Returns:
        Value, first and second word of the key of each cluster's last point, each (k,); all points
        of a smaller cluster lie within.
    """
    clusters, values, keys = (np.concatenate(column) for column in zip(*leaders, strict=True))
    by_cluster = chance.order(values, keys, clusters)
    by_cluster = by_cluster[chance.rank_in_group(clusters[by_cluster]) < limit]
    last = np.flatnonzero(np.diff(np.r_[clusters[by_cluster], -1]))
    chosen = by_cluster[last]
    value = np.full(len(centroids), -1.0)
    words = np.zeros((len(centroids), 2), np.uint64)
    value[clusters[chosen]] = values[chosen]
    words[clusters[chosen]] = keys[chosen]
    return value, words[:, 0], words[:, 1]


def compress(centroids: NDArray[np.float32], keep: NDArray[np.bool_]) -> NDArray[np.float32]:
    """The centroids of a slice that are kept."""
    return centroids[keep]


def size(centroids: NDArray[np.float32]) -> int:
    """Number of centroids in a slice."""
    return len(centroids)
