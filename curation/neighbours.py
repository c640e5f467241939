"""Which centroids are near which: a point looks at those near its last one.

Centroids are gathered into groups of about sixteen. The candidates of a group are the nearest
neighbours of its members, found among the members of the nearest groups. Everything is a function
of the centroids alone, in exact arithmetic, so that every worker finds the same.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from curation import exact
from curation.assign import Assigner, Centroids
from curation.candidates import Candidates
from curation.kernels import native
from curation.kernels.threads import each

GROUP = 16  # centroids a group
NEIGHBOURS = 24  # nearest centroids of each that its group looks at
NEAR_GROUPS = 16  # groups in which these are looked for
_BLOCK_SCORES = 250_000  # float64 scores at a time: 2 MB
_ROUNDS = 2  # of k-means over the centroids, to make the groups


def nearby(
    centroids: NDArray[np.float32], neighbours: int = NEIGHBOURS, assigner: Assigner | None = None
) -> Candidates:
    """Candidates of k centroids (k, d) on the grid.

    About 6 k (k / 16) d operations for the groups, as the assigner makes them, k (k / 128) d for those
    nearest to each and k 512 d for the neighbours, both in float64.

    Args:
        centroids: The centroids.
        neighbours: Nearest centroids of each that its group looks at.
        assigner: How to look for the nearest group; changes no result.
    """
    assigner = assigner or Assigner()
    threads = assigner.n_threads
    groups, middles = _grouped(centroids, assigner)
    index, edges = native.sort_by_label(groups, len(middles))
    near = _nearest(middles, middles, min(NEAR_GROUPS, len(middles)), threads)
    room = np.concatenate([[0], np.cumsum(np.diff(edges)[near].sum(axis=1))])
    found, counts = np.empty(room[-1], np.int32), np.empty(len(middles), np.int64)
    squares = exact.squared_norms(centroids)

    def look(numbers: Iterator[NDArray[np.int64]]) -> None:
        for some in numbers:
            native.group_candidates(
                some, near, index, edges, centroids, squares, neighbours, room, found, counts
            )

    each(threads, look, np.array_split(np.arange(len(middles)), 4 * threads))
    offsets = np.concatenate([[0], np.cumsum(counts)])
    places = np.arange(offsets[-1]) + np.repeat(room[:-1] - offsets[:-1], counts)
    return Candidates(groups, offsets, found[places], middles)


def _grouped(
    centroids: NDArray[np.float32], assigner: Assigner
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Group of each centroid (k,) and the groups' means (g, d): a few rounds of k-means, none empty."""
    norms = np.sqrt(exact.squared_norms(centroids, assigner.n_threads))
    middles = centroids[::GROUP]
    for _ in range(_ROUNDS):
        groups = assigner.nearest(centroids, norms, Centroids(middles)).labels
        sums, counts = assigner.cluster_sums(centroids, groups, len(middles), None)
        middles = exact.mean_on_grid(sums[counts > 0], counts[counts > 0], unit_norm=False)
    groups = assigner.nearest(centroids, norms, Centroids(middles)).labels
    kept, numbered = np.unique(groups, return_inverse=True)
    return numbered.astype(np.int32), middles[kept]


def _nearest(
    rows: NDArray[np.float32], others: NDArray[np.float32], m: int, threads: int = 1
) -> NDArray[np.int64]:
    """The m nearest of the others for every row (n, m), ascending by index, ties to the lower index."""
    squares = exact.squared_norms(others)
    transposed = others.T.astype(np.float64)
    out = np.empty((len(rows), m), np.int64)
    step = max(1, _BLOCK_SCORES // len(others))

    def look(starts: Iterator[int]) -> None:
        for start in starts:
            scores = squares - 2 * (rows[start : start + step].astype(np.float64) @ transposed)
            native.smallest_columns(scores, out[start : start + step])

    each(threads, look, range(0, len(rows), step))
    return out
