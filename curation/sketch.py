"""A sketch of the points: their coordinates along a few directions in which they vary most.

Looking for near centroids in the sketch costs a fraction of looking in all dimensions, and finds
nearly the same. It only proposes: which centroids are candidates, where a fit begins. What a point is
assigned to is decided in all dimensions.

The directions come from a few rounds of subspace iteration (Halko, Martinsson and Tropp, SIAM Review
2011, section 4.5) on a sample. Every operand is a multiple of a power of two and every product sum is
exact in float64, so the directions, and with them all that follows, are the same on every machine.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from curation import chance
from curation.exact import UNIT
from curation.kernels import native
from curation.kernels.threads import each

SIZE = 48  # directions
SAMPLE = 4096  # rows that they come from; at most 2^13, which the exactness below relies on
_ROUNDS = 4
_COARSE, _MIDDLE, _FINE = 2.0**12, 2.0**14, 2.0**20  # steps in 1: iterates, their products, directions
_BLOCK = 512  # rows whose float64 copy stays in cache
_MOST = 2**13  # columns of the points, which the exactness below relies on as well


def pays(dimensions: int) -> bool:
    """Whether a sketch is enough smaller than the points to be worth its while, and exact."""
    return 3 * SIZE <= dimensions <= _MOST


def directions(rows: NDArray[np.float32], size: int = SIZE) -> NDArray[np.float64]:
    """Orthonormal directions (d, size) of large variance, in steps of 2^-20.

    4 m d s operations a round. Columns beyond the rank of the rows are arbitrary, or zero.

    Args:
        rows: A sample of points (m, d) on the grid, m at most 2^13, d at most 2^13.
        size: Number of directions s.
    """
    sample = rows.astype(np.float64)
    d = rows.shape[1]
    bits = chance.splitmix64(np.arange(d * size, dtype=np.uint64)) >> np.uint64(63)
    found: NDArray[np.float64] = np.where(bits, 1.0, -1.0).reshape(d, size) / 2.0 ** np.ceil(np.log2(d) / 2)
    for _ in range(_ROUNDS):
        # multiples of 2^-36 below 2, then of 2^-38 below 2^14: both fit 53 bits
        products = np.rint(sample @ (np.rint(found * _COARSE) / _COARSE) * _MIDDLE) / _MIDDLE
        columns = np.ascontiguousarray((sample.T @ products).T)
        for _ in range(2):  # what is left of columns beyond the rank of the rows is rounding, not orthogonal
            native.orthonormal(columns, _FINE)
        found = np.ascontiguousarray(columns.T)
    return found


def project(
    rows: NDArray[np.float32], directions: NDArray[np.float64], threads: int = 1
) -> NDArray[np.float32]:
    """The sketch (n, s) of rows (n, d), on the grid; 2 n d s operations in float64, exact before rounding."""
    out = np.empty((len(rows), directions.shape[1]), np.float32)
    along = np.ascontiguousarray(directions)

    def fill(starts: Iterator[int]) -> None:
        wide = np.empty((_BLOCK, rows.shape[1]))
        flat = np.empty((_BLOCK, out.shape[1]))
        for start in starts:
            part = out[start : start + _BLOCK]
            block, product = wide[: len(part)], flat[: len(part)]
            block[:] = rows[start : start + _BLOCK]
            np.matmul(block, along, out=product)
            product *= UNIT
            np.rint(product, out=product)
            np.divide(product, UNIT, out=part, casting="same_kind")

    each(threads, fill, range(0, len(rows), _BLOCK))
    return out
