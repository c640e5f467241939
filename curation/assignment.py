"""One pass over the points of a view: the nearest centroid of each, and the exact sums of every cluster."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from curation.assign import Assigner, Centroids
from curation.candidates import Candidates, Lists
from curation.kernels.threads import in_runs
from curation.points import Labels, Partial, Points

if TYPE_CHECKING:
    from curation.assign import Chunk

APPROACHES = 2
"""Looks at candidates after the first, each from where the last one led."""


class Sums:
    """Exact sums of labelled points, added up chunk by chunk.

    Args:
        assigner: Who adds.
        points: Whose weights count.
        n_clusters: Number of clusters, k.
        centroids: Given, spread and loss are added up as well, see `Partial`.
    """

    def __init__(
        self, assigner: Assigner, points: Points, n_clusters: int, centroids: Centroids | None = None
    ) -> None:
        self.assigner, self.points, self.centroids = assigner, points, centroids
        self.sums = np.zeros((n_clusters, points.rows.shape[1]), np.int64)
        self.counts = np.zeros(n_clusters, np.int64)
        self.spread = self.loss = None
        if centroids is not None:
            self.spread, self.loss = np.zeros((2, n_clusters, 2), np.int64)

    def add(
        self,
        where: slice,
        rows: Chunk,
        labels: NDArray[np.int32],
        seconds: NDArray[np.int32] | None = None,
    ) -> None:
        """Adds a chunk of the points; a label beyond the clusters is an error."""
        weights = None if self.points.weights is None else self.points.weights[where]
        sums, counts = self.assigner.cluster_sums(rows, labels, len(self.counts), weights)
        self.sums += sums
        self.counts += counts
        if self.centroids is None or self.spread is None or self.loss is None or seconds is None:
            return
        spread, loss = self.assigner.spread_and_loss(rows, self.centroids, labels, seconds, weights)
        self.spread += spread
        self.loss += loss

    def partials(self, sizes: Sequence[int]) -> list[Partial]:
        """What was added up, in slices of so many clusters."""
        edges = np.cumsum(sizes)[:-1]
        columns = [
            np.split(column, edges) if column is not None else [None] * len(sizes)
            for column in (self.sums, self.counts, self.spread, self.loss)
        ]
        return [Partial(*part) for part in zip(*columns, strict=True)]


def assigned(
    points: Points,
    assigner: Assigner,
    centroids: Centroids,
    candidates: Candidates | Lists | None,
    start: NDArray[np.int32] | None,
    last: NDArray[np.int32] | None,
    sums: Sums | None = None,
) -> Labels:
    """Labels of all points; reads the rows once.

    Args:
        points: The points.
        assigner: How to look.
        centroids: The centroids.
        candidates: Which of them a point looks at; None for all.
        start: A centroid (n,) whose group names the candidates of a point, -1 to look at all; None:
            all points look at all centroids.
        last: Labels (n,) that are kept where they are nearer, -1 for none; ties go to the lower number.
        sums: Where the points are added up; the second nearest are found as well if it adds up spread
            and loss. None: nowhere.
    """
    swaps = sums is not None and sums.centroids is not None
    labels = np.empty(len(points), np.int32)
    others = np.empty(len(points), np.int32) if swaps else None
    groups = group_of = None
    if isinstance(candidates, Candidates) and start is not None:
        group_of = np.append(candidates.groups, np.int32(-1))  # of no centroid, -1, as well
    # FAISS takes rows of this process alone
    chunks = points.rows.chunks() if isinstance(candidates, Lists) else points.chunks(assigner)
    for where, rows in chunks:
        if group_of is not None and start is not None:
            groups = _looked_up(group_of, start[where])
        norms = points.norms(where)
        found = assigner.nearest(rows, norms, centroids, candidates=candidates, groups=groups, seconds=swaps)
        nearest = found.labels
        if last is not None:
            nearest = _nearer(assigner, rows, centroids, last[where], nearest)
        labels[where] = nearest
        if others is not None and found.seconds is not None:
            others[where] = found.seconds
        if sums is not None:
            sums.add(where, rows, nearest, found.seconds)
    return Labels(labels, others)


def approached(
    points: Points, assigner: Assigner, centroids: Centroids, candidates: Candidates
) -> NDArray[np.int32]:
    """A near centroid (n,) of each point that has none yet, most often the nearest.

    A point looks at the middles of all groups, at the candidates of the two nearest, and twice more at
    those of the centroid that it found: k / 16 + 4 times its candidates, in place of k.

    Args:
        points: The points, or their sketch.
        assigner: How to look.
        centroids: The centroids, or their sketch.
        candidates: Groups of these centroids, with their middles.
    """
    assert candidates.middles is not None
    middles, found = Centroids(candidates.middles), np.empty(len(points), np.int32)
    for where, rows in points.chunks(assigner):
        norms = points.norms(where)
        look = partial(assigner.nearest, rows, norms, centroids, candidates=candidates)
        two = assigner.nearest(rows, norms, middles, seconds=True)
        assert two.seconds is not None
        best, other = look(groups=two.labels).labels, look(groups=np.maximum(two.seconds, 0)).labels
        best = _nearer(assigner, rows, centroids, best, other)
        for _ in range(APPROACHES):
            best = look(groups=candidates.groups[best]).labels
        found[where] = best
    return found


def moved(own: Labels, dissolved: NDArray[np.bool_] | None) -> NDArray[np.int32]:
    """Where points begin to look: at their centroid, or their second where that was dissolved, or nowhere."""
    if dissolved is None or own.second is None:
        return own.first
    first, second, gone = own.first, own.second, dissolved
    out = np.empty(len(first), np.int32)

    def fill(run: slice) -> None:
        start = np.where(gone[first[run]], second[run], first[run])
        out[run] = np.where((start < 0) | gone[start], np.int32(-1), start)

    in_runs(len(out), fill)
    return out


def _looked_up(table: NDArray[np.int32], index: NDArray[np.int32]) -> NDArray[np.int32]:
    """Entries (n,) of a table."""
    out = np.empty(len(index), np.int32)
    in_runs(len(out), lambda run: np.take(table, index[run], out=out[run], mode="wrap"))
    return out


def _nearer(
    assigner: Assigner,
    rows: Chunk,
    centroids: Centroids,
    last: NDArray[np.int32],
    found: NDArray[np.int32],
) -> NDArray[np.int32]:
    """Of two labels the nearer one, ties to the lower."""
    new = assigner.squared_distances(rows, centroids, found)
    known = assigner.squared_distances(rows, centroids, last)
    keep = (known < new) | ((known == new) & (last < found))
    return np.where(keep, last, found)
