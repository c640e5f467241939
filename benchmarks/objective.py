"""The k-means objective, exactly and the same for everyone: float64 distances to the nearest centroid."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_SCORES = 1_500_000  # float32 scores a block, which then fit the cache
_ULP = 2.0**-24


def mean_squared_distance(rows: NDArray[np.float32], centroids: NDArray[Any]) -> float:
    """Mean of squared Euclidean distances of rows (n, d) to their nearest of the centroids (k, d).

    A float32 product finds every centroid that its rounding errors leave in doubt, and float64 decides
    among them; so the result is as exact as a float64 search over all of them, in a third of the time.

    Raises:
        ValueError: A centroid is not finite.
    """
    values = np.ascontiguousarray(centroids, np.float32)
    if not np.isfinite(values).all():
        raise ValueError(f"{(~np.isfinite(values).all(axis=1)).sum()} centroids are not finite")
    k, d = values.shape
    squares = np.square(values, dtype=np.float64).sum(axis=1)
    halves, longest = (squares / 2).astype(np.float32), np.sqrt(squares.max())
    transposed = np.ascontiguousarray(values.T)
    gamma = d * _ULP / (1 - d * _ULP)  # of a float32 product over d terms, in any order
    total = 0.0
    step = max(1, _SCORES // k)
    for start in range(0, len(rows), step):
        block = rows[start : start + step]
        lengths = np.sqrt(np.square(block, dtype=np.float64).sum(axis=1)) * longest
        error = gamma * lengths + _ULP * (longest**2 + lengths)
        scores = halves - block @ transposed
        limit = np.nextafter((scores.min(axis=1) + 2.01 * error).astype(np.float32), np.float32(np.inf))
        row, centroid = np.divmod(np.flatnonzero(scores <= limit[:, None]), k)
        squared = np.square(block[row].astype(np.float64) - values[centroid]).sum(axis=1)
        firsts = np.flatnonzero(np.diff(row, prepend=-1))
        total += float(np.minimum.reduceat(squared, firsts).sum())
    return total / len(rows)
