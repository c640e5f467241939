"""Nearest centroids, exactly: float32 products decide what is clear, float64 the close calls.

The score of centroid c for row x is s = |c|^2 / 2 - x.c, smallest for the nearest centroid. Float32
computes it with an error of at most

    B = gamma_d |x||c| + u |c|^2 / 2 + u (|x||c| + |c|^2 / 2),      u = 2^-24,

(the product, the rounding of |c|^2 / 2, and the subtraction). Every centroid whose score lies within
2B of a row's best is compared again in exact float64 arithmetic, ties going to the lower index. So
labels are those of infinite precision, whatever the matrix product, its tiles or its threads.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from curation.exact import squared_distances, squared_norms
from curation.kernels.cpu import product_bound, route

_ULP = 2.0**-24
_TILE_SCORES = 1_500_000  # float32 scores a tile: 6 MB, so that a tile is still in cache when it is read


@dataclass(frozen=True)
class Assigner:
    """How to look for the nearest centroid. Only speed depends on it, never a label.

    Attributes:
        matmul: Route of the float32 product, one of `curation.kernels.cpu.ROUTES`.
        tile: Rows a tile; 0 chooses the number whose scores fit the cache.
        recheck: Settle close calls in float64. Off, labels depend on tiles and threads: for tests alone.
    """

    matmul: str = "numpy"
    tile: int = 0
    recheck: bool = True

    def nearest(
        self, rows: NDArray[np.float32], norms: NDArray[np.float64], centroids: Centroids
    ) -> NDArray[np.int64]:
        """Index of the nearest centroid of every row, ties to the lower index, shape (n,).

        2 n k d floating-point operations; reads the rows once and the centroids once a tile.

        Args:
            rows: Rows (n, d) on the grid.
            norms: Their Euclidean norms (n,).
            centroids: Centroids (k, d) on the grid.
        """
        matmul = route(self.matmul, rows.shape[1])
        tile = self.tile or max(64, _TILE_SCORES // len(centroids.values))
        labels = np.empty(len(rows), np.int64)
        for start in range(0, len(rows), tile):
            block = rows[start : start + tile]
            scores = matmul(block, centroids.transposed)
            np.subtract(centroids.half_squares, scores, out=scores)
            best = scores.argmin(axis=1)
            if self.recheck:
                margin = 2 * _score_bound(norms[start : start + tile], centroids.norm, rows.shape[1])
                _settle(block, scores, best, margin, centroids)
            labels[start : start + tile] = best
        return labels


@dataclass(frozen=True)
class Centroids:
    """Centroids (k, d) on the grid with what every tile needs of them."""

    values: NDArray[np.float32]
    transposed: NDArray[np.float32] = field(init=False)
    half_squares: NDArray[np.float32] = field(init=False)
    norm: float = field(init=False)

    def __post_init__(self) -> None:
        squares = squared_norms(self.values)
        object.__setattr__(self, "transposed", np.ascontiguousarray(self.values.T))
        object.__setattr__(self, "half_squares", (squares / 2).astype(np.float32))
        object.__setattr__(self, "norm", float(np.sqrt(squares.max(initial=0.0))))


def _score_bound(norms: NDArray[np.float64], centroid_norm: float, dimensions: int) -> NDArray[np.float64]:
    """B of the module's docstring for rows of these norms, rounded up."""
    product = norms * centroid_norm
    half = centroid_norm**2 / 2
    return (product_bound(dimensions) * product + _ULP * half + _ULP * (product + half)) * (1 + 1e-3)


def _settle(
    block: NDArray[np.float32],
    scores: NDArray[np.float32],
    best: NDArray[np.int64],
    margin: NDArray[np.float64],
    centroids: Centroids,
) -> None:
    """Replaces the best of rows with a second score within the margin by the exact nearest, in place."""
    every = np.arange(len(block))
    lowest = scores[every, best]
    limit = np.nextafter((lowest + margin).astype(np.float32), np.float32(np.inf))
    scores[every, best] = np.inf
    close = np.flatnonzero(scores.min(axis=1) <= limit)
    if not len(close):
        return
    scores[every, best] = lowest
    # `nonzero` yields pairs by row, then by centroid: the first minimum of a row is the lowest index
    pair_row, pair_centroid = np.nonzero(scores[close] <= limit[close, None])
    exact = squared_distances(block, centroids.values, close[pair_row], pair_centroid)
    starts = np.flatnonzero(np.r_[True, pair_row[1:] != pair_row[:-1]])
    nearest = np.minimum.reduceat(exact, starts)
    hits = np.flatnonzero(exact == nearest[pair_row])
    first = hits[np.unique(pair_row[hits], return_index=True)[1]]
    best[close] = pair_centroid[first]
