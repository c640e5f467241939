"""A block of points and everything a fit asks of it; the driver of a fit never sees the points.

Each method returns something whose merge over blocks does not depend on how the points are spread:
exact sums, counts, or short lists ordered by (value, key). A block may be replaced by a fresh one at
any time: what it computes follows from its arguments, save two states that are announced, the view
(`select`) and the seeding (`Seeding`), whose absence raises `WorkerRestartedError`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curation import chance, exact
from curation.assign import Assigner, Centroids
from curation.errors import WorkerRestartedError
from curation.seeding import Seeding

EVERYTHING = "everything"  # the view that needs no selection

SHORT = 2.0**-14
"""Norm on the grid below which a point has fewer than 2^10 steps of length."""

Slices = tuple[NDArray[np.float32], ...]
Writer = Callable[[NDArray[np.int64], NDArray[np.float64]], Any]


@dataclass(frozen=True)
class About:
    """Exact figures of a block; those of a pool are their sums.

    Attributes:
        count: Number of points.
        squares: Sum of their squared norms, in units of 2^-48.
        sums: Sum of the points (d,), in steps of 2^-24.
        short: Points that are not zero and have a norm below `SHORT`.
    """

    count: int
    squares: int
    sums: NDArray[np.int64]
    short: int


class PointBlock:
    """Points (n, d) on the grid with their keys.

    Args:
        rows: Points (n, d), float32 multiples of 2^-24 with norms up to 65/64; not copied.
        keys: Keys (n, 2), uint64, all different.
        assigner: How to look for nearest centroids.
    """

    def __init__(
        self, rows: NDArray[np.float32], keys: NDArray[np.uint64], assigner: Assigner | None = None
    ) -> None:
        self.rows = rows
        self.keys = keys
        self.assigner = assigner or Assigner()
        self.mixed = chance.mixed(keys)
        self.squares = exact.squared_norms(rows)
        self.norms = np.sqrt(self.squares)
        self._view: tuple[str, NDArray[np.int64]] = (EVERYTHING, np.arange(len(rows)))
        self._seeding: Seeding | None = None
        self._assigned: tuple[str, NDArray[np.int64]] | None = None

    # --- what the block holds ---------------------------------------------------------------

    def count(self) -> int:
        """Number of points."""
        return len(self.rows)

    def describe(self) -> About:
        """What `check_points` wants to know; reads the rows once."""
        everything = np.zeros(len(self.rows), np.int64)
        sums, _ = exact.cluster_sums(self.rows, everything, 1)
        short = (self.squares > 0) & (self.squares < SHORT**2)
        squares = exact.total(exact.square_units(self.squares))
        return About(len(self.rows), squares, sums[0], int(short.sum()))

    def rows_of(self, keys: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Positions in `keys` (m, 2) of the points that this block holds, and their rows."""
        mine = np.argsort(self.keys[:, 0], kind="stable")
        sorted_words = self.keys[mine, 0]
        low = np.searchsorted(sorted_words, keys[:, 0], side="left")
        high = np.searchsorted(sorted_words, keys[:, 0], side="right")
        span = high - low
        position = np.repeat(np.arange(len(keys)), span)
        row = mine[np.repeat(low, span) + chance.rank_in_group(position)]
        same = self.keys[row, 1] == keys[position, 1]
        return position[same], self.rows[row[same]]

    # --- views ------------------------------------------------------------------------------

    def select(self, view: str, strategy: str, salt: int, n_slices: int, *slices: Any) -> int:
        """Enters the view of a resampling step: of each cluster, the rows up to a limit.

        Args:
            view: Name of the view.
            strategy: "closest" or "random", see `leaders`.
            salt: Salt of the random strategy.
            n_slices: Number of centroid slices.
            slices: The centroid slices, then for each a (value, first word, second word) limit a cluster.

        Returns:
            Number of this block's points in the view.
        """
        if self._view[0] != view:
            centroids, limits = slices[:n_slices], slices[n_slices:]
            labels = self._labels(centroids)
            values = self._preference(strategy, salt, labels, centroids)
            value, first, second = (np.concatenate(column)[labels] for column in zip(*limits, strict=True))
            first_word, second_word = self.keys[:, 0], self.keys[:, 1]
            inside = (values < value) | (
                (values == value) & ((first_word < first) | ((first_word == first) & (second_word <= second)))
            )
            self._view = (view, np.flatnonzero(inside))
        return len(self._view[1])

    def _index(self, view: str) -> NDArray[np.int64] | None:
        """Rows of a view; None for all of them."""
        if view == EVERYTHING:
            return None
        if self._view[0] != view:
            raise WorkerRestartedError(f"this block has not selected the view {view!r}")
        return self._view[1]

    # --- seeding ----------------------------------------------------------------------------

    def start_seeding(self, view: str, *slices: NDArray[np.float32]) -> int:
        """Begins (or takes up, from the seeds found so far) a seeding over a view; returns its points."""
        index = self._index(view)
        pick = slice(None) if index is None else index
        rows, squares = self.rows[pick], self.squares[pick]
        distances = None
        if slices:
            centroids = Centroids(np.concatenate(slices))
            labels = self.assigner.nearest(rows, self.norms[pick], centroids)
            distances = exact.squared_distances(rows, centroids.values, None, labels)
        self._seeding = Seeding(rows, self.keys[pick], squares, distances, self.assigner.matmul)
        return len(rows)

    def propose(self, step: int, salt: int, count: int, chosen: int | None) -> Any:
        """`Seeding.propose`; the block must have begun a seeding."""
        return self._seeder().propose(step, salt, count, chosen)

    def gains(self, step: int, picks: list[tuple[int, int]], *proposed: NDArray[np.float32]) -> list[int]:
        """`Seeding.gains`; the block must have begun a seeding."""
        return self._seeder().gains(step, picks, *proposed)

    def end_seeding(self) -> None:
        """Frees what seeding held."""
        self._seeding = None

    def _seeder(self) -> Seeding:
        if self._seeding is None:
            raise WorkerRestartedError("this block has no seeding under way")
        return self._seeding

    # --- assignment -------------------------------------------------------------------------

    def assign_sums(self, view: str, *slices: NDArray[np.float32]) -> Any:
        """Assigns a view to its nearest centroids: for each slice, exact sums (k_i, d) and counts (k_i,).

        Returns:
            One (sums, counts) pair a slice; the bare pair if there is a single slice.
        """
        index = self._index(view)
        pick = slice(None) if index is None else index
        rows = self.rows[pick]
        centroids = Centroids(np.concatenate(slices))
        labels = self.assigner.nearest(rows, self.norms[pick], centroids)
        sums, counts = exact.cluster_sums(rows, labels, len(centroids.values))
        edges = np.cumsum([len(part) for part in slices])[:-1]
        parts = tuple(zip(np.split(sums, edges), np.split(counts, edges), strict=True))
        return parts[0] if len(parts) == 1 else parts

    def square_total(self, view: str) -> int:
        """Sum of the squared norms of a view, in units of 2^-48."""
        index = self._index(view)
        squares = self.squares if index is None else self.squares[index]
        return exact.total(exact.square_units(squares))

    def counts(self, *slices: NDArray[np.float32]) -> tuple[NDArray[np.int64], int]:
        """Points (k,) of this block nearest to each centroid, and their exact inertia (units of 2^-48)."""
        labels = self._labels(slices)
        values = np.concatenate(slices)
        distances = exact.squared_distances(self.rows, values, None, labels)
        return np.bincount(labels, minlength=len(values)), exact.total(exact.square_units(distances))

    def labels(self, renumbered: NDArray[np.int64], *slices: NDArray[np.float32]) -> NDArray[np.int64]:
        """Cluster of every point, numbered by `renumbered` (k,)."""
        return renumbered[self._labels(slices)]

    def save(self, writer: Writer, renumbered: NDArray[np.int64], *slices: NDArray[np.float32]) -> Any:
        """Hands every point's cluster and exact squared distance to a writer; returns what it returns."""
        labels = self._labels(slices)
        distances = exact.squared_distances(self.rows, np.concatenate(slices), None, labels)
        return writer(renumbered[labels], distances)

    def leaders(self, strategy: str, salt: int, limit: int, *slices: NDArray[np.float32]) -> Any:
        """The first `limit` points of every cluster: closest to its centroid, or smallest draws.

        Returns:
            For each slice (cluster within the slice, value, keys (m, 2)), sorted; bare if there is one.
        """
        labels = self._labels(slices)
        values = self._preference(strategy, salt, labels, slices)
        by_cluster = chance.order(values, self.keys, labels)
        by_cluster = by_cluster[chance.rank_in_group(labels[by_cluster]) < limit]
        clusters = labels[by_cluster]
        parts = []
        start = 0
        for part in slices:
            mine = by_cluster[(clusters >= start) & (clusters < start + len(part))]
            parts.append((labels[mine] - start, values[mine], self.keys[mine]))
            start += len(part)
        return parts[0] if len(parts) == 1 else tuple(parts)

    def _preference(
        self, strategy: str, salt: int, labels: NDArray[np.int64], slices: Slices
    ) -> NDArray[np.float64]:
        if strategy == "random":
            return chance.draws(self.mixed, np.uint64(salt))
        return exact.squared_distances(self.rows, np.concatenate(slices), None, labels)

    def _labels(self, slices: Slices) -> NDArray[np.int64]:
        """Nearest centroid of every point; the last answer is kept, since steps ask for it in a row."""
        values = np.concatenate(slices)
        token = hashlib.blake2b(np.ascontiguousarray(values).data, digest_size=16).hexdigest()
        if self._assigned is None or self._assigned[0] != token:
            labels = self.assigner.nearest(self.rows, self.norms, Centroids(values))
            self._assigned = (token, labels)
        return self._assigned[1]
