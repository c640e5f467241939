"""The points that a block holds, and which of them it looks at: all, or those of a resampling step.

A block may be replaced by a fresh one at any time. Then the view that it had entered is gone with it, which a
question about that view tells by `WorkerRestartedError`; entering it again gives the same points.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curation import chance, exact, resampling, sketch
from curation.assign import Assigner
from curation.errors import WorkerRestartedError
from curation.points import EVERYTHING, SHORT, About, Directions, Labels, Points
from curation.resampling import Strategy
from curation.rows import ResidentRows, Rows, StoredRows

_RUN = 1 << 14  # rows that a thread adds up at a time


class Views:
    """Points (n, d) on the grid with their keys, and a view of some of them.

    Args:
        rows: Points (n, d), float32 multiples of 2^-24 with norms up to 65/64; not copied.
        keys: Keys (n, 2), uint64, all different.
        assigner: How to look for nearest centroids.
        weights: Whole-numbered weights (n,), int64, of sum at most 2^36; None: all one.
    """

    def __init__(
        self,
        rows: Rows | NDArray[np.float32],
        keys: NDArray[np.uint64],
        assigner: Assigner | None = None,
        weights: NDArray[np.int64] | None = None,
    ) -> None:
        self.assigner = assigner or Assigner()
        stored = rows if isinstance(rows, Rows) else ResidentRows(rows)
        squares = np.empty(len(keys))
        for where, part in stored.chunks():
            squares[where] = exact.squared_norms(part, self.assigner.n_threads)
        self.everything = Points(stored, keys, squares, weights)
        self._scratch = (
            tempfile.TemporaryDirectory(prefix="sketch-", dir=stored.path.parent)
            if isinstance(stored, StoredRows)
            else None
        )
        self._view: tuple[str, Points] = (EVERYTHING, self.everything)

    def _points(self, view: str, directions: Directions | None = None) -> Points:
        """The points of a view, or their sketch."""
        name, points = (EVERYTHING, self.everything) if view == EVERYTHING else self._view
        if name != view:
            raise WorkerRestartedError(f"this block has not selected the view {view!r}")
        scratch = Path(self._scratch.name) if self._scratch else None
        return points.sketched(directions, self.assigner, scratch)

    # --- what the block holds ---------------------------------------------------------------

    def count(self) -> int:
        """Number of points."""
        return len(self.everything)

    def dimensions(self) -> int:
        """Columns of the points."""
        return self.everything.rows.shape[1]

    def describe(self) -> About:
        """What `check_points` wants to know; reads the rows once."""
        points = self.everything
        sums = np.zeros(points.rows.shape[1], np.int64)
        for where, rows in points.rows.chunks():
            weights = None if points.weights is None else points.weights[where]
            runs = (np.arange(len(rows)) // _RUN).astype(np.int32)  # shared out among threads
            threads = self.assigner.n_threads
            sums += exact.cluster_sums(rows, runs, len(rows) // _RUN + 1, weights, threads)[0].sum(axis=0)
        short = (points.squares > 0) & (points.squares < SHORT**2)
        weight = len(points) if points.weights is None else int(points.weights.sum())
        return About(len(points), weight, points.total(points.squares), sums, int(short.sum()))

    def rows_of(
        self, keys: NDArray[np.uint64], directions: Directions | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Positions in `keys` (m, 2) of the points that this block holds, and their (sketched) rows."""
        position, row = self._located(keys)
        rows = self.everything.rows.take(row)
        return position, rows if directions is None else sketch.project(rows, directions)

    def _located(self, keys: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Positions in `keys` (m, 2) of the points that this block holds, and their rows."""
        points = self.everything
        words = points.keys[:, 0]
        low = np.searchsorted(words, keys[:, 0], side="left", sorter=points.by_key)
        span = np.searchsorted(words, keys[:, 0], side="right", sorter=points.by_key) - low
        position = np.repeat(np.arange(len(keys)), span)
        row = points.by_key[np.repeat(low, span) + chance.rank_in_group(position)]
        same = points.keys[row, 1] == keys[position, 1]
        return position[same], row[same]

    def sample(self, salt: int, count: int) -> tuple[NDArray[np.float64], NDArray[np.uint64]]:
        """Values and keys of a uniform draw of `count` points."""
        draws = self.everything.draws(salt)
        index = chance.smallest(draws, self.everything.keys, count)
        index = index[np.isfinite(draws[index])]
        return draws[index], self.everything.keys[index]

    def square_total(self, view: str) -> int:
        """Weighted sum of the squared norms of a view, in units of 2^-48."""
        points = self._points(view)
        return points.total(points.squares)

    # --- views ------------------------------------------------------------------------------

    def select(
        self, own: Labels, view: str, strategy: Strategy, salt: int, n_slices: int, *slices: Any
    ) -> int:
        """Enters the view of a resampling step: of each cluster, the points up to a limit.

        Args:
            own: Labels of the block's points.
            view: Name of the view.
            strategy: See `curation.resampling.preference`.
            salt: Salt of the random strategy.
            n_slices: Number of centroid slices.
            slices: The centroid slices, then for each a (value, first word, second word) limit a cluster.

        Returns:
            Number of this block's points in the view.
        """
        if self._view[0] != view:
            points, (centroids, limits) = self.everything, (slices[:n_slices], slices[n_slices:])
            values = resampling.preference(points, own.first, strategy, salt, self.assigner, centroids)
            self._view = (view, points.select(resampling.within(points, own.first, values, limits)))
        return len(self._view[1])

    def leaders(
        self, own: Labels, strategy: Strategy, salt: int, limit: int, *slices: NDArray[np.float32]
    ) -> Any:
        """`curation.resampling.leaders` for each slice; bare if there is one."""
        points = self.everything
        values = resampling.preference(points, own.first, strategy, salt, self.assigner, slices)
        sizes = [len(part) for part in slices]
        parts = resampling.leaders(points, own.first, values, limit, sizes)
        return parts[0] if len(parts) == 1 else tuple(parts)
