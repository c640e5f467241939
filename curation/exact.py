"""Arithmetic without rounding: the grid, and sums on it that no order can change.

Rows are held as float32 multiples of 2^-24 with norms of at most 65/64, after a division by a power
of two 2^e that is fixed once for a pool (`Grid`). A product of two coordinates is then a multiple of
2^-48, and a squared distance or an inner product stays below 2^5, so float64 (53 bits) adds them
exactly in any order, with or without fused multiply-add, in any BLAS. Sums over rows are int64
multiples of 2^-24 (`cluster_sums`, exact for 2^38 rows in one cluster); sums of squares over rows
are Python integers in units of 2^-48 (`total`).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curation.errors import CurationError, UnfitRowError
from curation.kernels import native
from curation.kernels.threads import allowed, each

UNIT = 2.0**24  # grid steps in 1.0
SQUARE_UNIT = 2.0**48  # steps of a squared distance in 1.0
SPREAD_UNIT = 2.0**30
"""Steps of 1.0 in which the spread of a cluster is added up."""

LIMB = 16
"""Bits of the lower of the two sums in which that is done: int64 holds either for weights of sum 2^36."""

_BLOCK = 8192  # rows a block: float64 copies stay in cache and below 2^53 steps
_LEAST_EXPONENT, _LARGEST_EXPONENT = -39, 61
_NOTHING = -(2**20)  # the exponent of rows that are all zero: any other is larger
_SPAN = 2**18  # coordinates a thread takes at a time
_RUN = 16_384  # rows a thread takes at a time for sums of clusters
MAX_WEIGHT = 2**36
"""Sum of weights (or number of rows) up to which every int64 sum here surely holds."""


@dataclass(frozen=True)
class Grid:
    """A pool's grid: rows are multiples of 2^(exponent - 24), bounded by 2^exponent in norm.

    Raises:
        CurationError: Squared distances on the grid, down to 2^(2 exponent - 48), would leave float32.
    """

    exponent: int

    def __post_init__(self) -> None:
        if not _LEAST_EXPONENT <= self.exponent <= _LARGEST_EXPONENT:
            raise CurationError(
                f"the longest embedding has a norm of about 2^{self.exponent}, so squared distances leave "
                f"float32; multiply the embeddings by 2^{-self.exponent} or so first"
            )

    def encode(self, rows: NDArray[Any]) -> NDArray[np.float32]:
        """Rows (n, d) divided by 2^exponent and rounded to multiples of 2^-24, as float32."""
        out = np.empty(rows.shape, np.float32)
        scale = 2.0 ** (24 - self.exponent)

        def fill(spans: Iterator[slice]) -> None:
            for span in spans:
                native.to_grid(_floats(rows[span]), scale, out[span])

        each(allowed(), fill, _spans(len(rows)))
        return out

    def rounding(self, rows: NDArray[Any]) -> float:
        """Sum of the squares of what `encode` rounds off of rows (n, d), in squared steps of the grid.

        Each square counts in whole 2^-24, so the sum is exact in any order.
        """
        lost = 0
        for start in range(0, len(rows), _BLOCK):
            part = rows[start : start + _BLOCK]
            scaled = np.ldexp(np.asarray(part, np.float64), 24 - self.exponent)
            squares = np.square(scaled - self.encode(part) * UNIT)
            lost += int(np.rint(squares * UNIT).astype(np.int64).sum())
        return lost / UNIT

    def decode(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Rows on the grid in the pool's own scale (exact)."""
        return np.ldexp(rows, self.exponent)

    def decode_squared(self, squared: NDArray[np.float64]) -> NDArray[np.float64]:
        """Squared distances on the grid in the pool's own scale (exact)."""
        return np.ldexp(squared, 2 * self.exponent)


def grid_exponent(rows: NDArray[Any]) -> int:
    """The smallest e with every row's norm at most 65/64 * 2^e and every coordinate at most 2^e.

    A row's norm is bounded in integers from the row alone, so the maximum over blocks is the same
    however the rows are spread. The slack of 1/64 lets unit rows that were rounded keep e = 0; it
    costs nothing, float64 has five bits to spare. `pool_exponent` takes what the parts of a pool gave.

    Raises:
        CurationError: A row holds NaN or an infinity.
    """
    tops, powers = np.empty(len(rows)), np.empty(len(rows), np.int64)

    def fill(spans: Iterator[slice]) -> None:
        for span in spans:
            part = _floats(rows[span])
            kind = np.dtype(f"i{part.itemsize}")
            bits = np.empty(len(part), np.int64)
            native.row_tops(part.view(kind), kind.type(np.iinfo(kind).max), bits)
            tops[span] = bits.astype(kind).view(part.dtype)
            mantissa, power = np.frexp(tops[span])
            powers[span] = power - (mantissa == 0.5)  # top <= 2^power
            with np.errstate(invalid="ignore"):
                native.row_exponents(part, powers[span])

    each(allowed(), fill, _spans(len(rows)))
    if len(bad := np.flatnonzero(~np.isfinite(tops))):
        raise UnfitRowError(int(bad[0]), "holds NaN or an infinity; drop it or repair it first")
    return int(powers[tops > 0].max(initial=_NOTHING))


def _spans(count: int, width: int = 0) -> list[slice]:
    """Slices of rows for threads to take: fewer at a time where they are of a width that is given."""
    step = max(1, min(_BLOCK, _SPAN // width)) if width else _BLOCK
    return [slice(start, start + step) for start in range(0, count, step)]


def _floats(rows: NDArray[Any]) -> NDArray[Any]:
    """Rows in a dtype that compiled loops take, side by side in memory."""
    return np.ascontiguousarray(rows, np.float32 if np.can_cast(rows.dtype, np.float32) else np.float64)


def pool_exponent(found: Iterable[int]) -> int:
    """The exponent of a pool from those of its parts; 0 where every row is zero."""
    largest = max(found, default=_NOTHING)
    return 0 if largest == _NOTHING else largest


def sum_of_squares(rows: NDArray[Any]) -> NDArray[np.float64]:
    """Squared norms (n,) of any finite rows (n, d), added column by column: one order everywhere."""
    out = np.empty(len(rows))
    for start in range(0, len(rows), _BLOCK // 4):
        columns = np.ascontiguousarray(rows[start : start + _BLOCK // 4].T, dtype=np.float64)
        acc = np.zeros(columns.shape[1])
        for column in columns:  # one ufunc a column: each addition is rounded in the same order
            acc += column * column
        out[start : start + _BLOCK // 4] = acc
    return out


def normalize_rows(rows: NDArray[Any]) -> NDArray[np.float32]:
    """Rows (n, d) scaled to unit norm, float32, bit-identical on every machine; zero rows stay zero."""
    out = np.empty(rows.shape, np.float32)
    for start in range(0, len(rows), _BLOCK):
        block = rows[start : start + _BLOCK].astype(np.float64)
        # an exact division by a power of two, so that no square leaves float64
        block = np.ldexp(block, -np.frexp(np.abs(block).max(axis=1, initial=0.0))[1][:, None])
        norms = np.sqrt(sum_of_squares(block))
        norms[norms == 0] = 1.0
        out[start : start + _BLOCK] = block / norms[:, None]
    return out


def squared_norms(rows: NDArray[np.float32], threads: int = 1) -> NDArray[np.float64]:
    """Exact squared norms (n,) of rows on the grid."""
    out = np.empty(len(rows))

    def fill(spans: Iterator[slice]) -> None:
        for span in spans:
            native.square_norms(rows[span], out[span])

    each(threads, fill, _spans(len(rows)))
    return out


def squared_distances(
    rows: NDArray[np.float32],
    others: NDArray[np.float32],
    row_index: NDArray[np.int64] | None,
    other_index: NDArray[Any],
    threads: int = 1,
) -> NDArray[np.float64]:
    """Exact squared distances between pairs of rows on the grid, shape (pairs,).

    Args:
        rows: Rows (n, d).
        others: Rows (k, d).
        row_index: Row of each pair, or None for 0, 1, ..., n-1.
        other_index: Other row of each pair; the distance to -1 is infinite.
        threads: Threads to use.
    """
    out = np.empty(len(other_index))
    index = np.arange(len(out)) if row_index is None else row_index
    other = other_index.astype(np.int32, copy=False)

    def fill(spans: Iterator[slice]) -> None:
        for span in spans:
            native.pair_distances(rows, index[span], others, other[span], out[span])

    each(threads, fill, _spans(len(out)))
    return out


def cluster_sums(
    rows: NDArray[np.float32],
    labels: NDArray[np.int32],
    n_clusters: int,
    weights: NDArray[np.int64] | None = None,
    threads: int = 1,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Exact sums (k, d) of the rows of each cluster in steps of 2^-24, and their counts (k,).

    Reads every row once, in the order of the clusters, which threads share out among themselves.

    Args:
        rows: Rows (n, d) on the grid.
        labels: Cluster of each row (n,); rows of -1 do not count.
        n_clusters: Number of clusters k.
        weights: Whole-numbered weights (n,), whose sum is at most 2^36; counts are then sums of weights.
        threads: Threads to use.
    """
    index, edges = native.sort_by_label(labels + np.int32(1), n_clusters + 1)
    edges = edges[1:]
    sums = np.zeros((n_clusters, rows.shape[1]), np.int64)

    def add(spans: Iterator[tuple[int, int]]) -> None:
        for low, high in spans:
            if weights is None:
                native.add_segments(rows, index, edges, low, high, sums)
            else:
                native.add_weighted_segments(rows, index, edges, weights, low, high, sums)

    # runs of clusters with about as many rows each
    cuts = np.searchsorted(edges, np.arange(edges[0], len(rows), _RUN)[1:])
    each(threads, add, itertools.pairwise(np.unique(np.r_[0, cuts, n_clusters]).tolist()))
    if weights is None:
        return sums, np.diff(edges)
    counts = np.zeros(n_clusters, np.int64)
    counted = labels >= 0
    np.add.at(counts, labels[counted], weights[counted])
    return sums, counts


def mean_on_grid(
    sums: NDArray[np.int64], counts: NDArray[np.int64], *, unit_norm: bool
) -> NDArray[np.float32]:
    """Means (k, d) of exact sums, rounded to the grid; rows without points come out as zero.

    Args:
        sums: Sums (k, d) in grid steps.
        counts: Points (k,) behind each sum.
        unit_norm: Scale each mean to unit norm (spherical k-means).
    """
    if unit_norm:
        norms = np.sqrt(sum_of_squares(sums))
        scale = np.where(norms > 0, norms, 1.0)[:, None]
        return (np.rint(sums / scale * UNIT) / UNIT).astype(np.float32)
    out = np.empty(sums.shape, np.float32)

    def fill(spans: Iterator[slice]) -> None:
        for span in spans:
            native.means(sums[span], counts[span], out[span])

    each(allowed(), fill, _spans(len(sums), sums.shape[1]))
    return out


def limb_sums(
    values: NDArray[np.float64],
    labels: NDArray[np.int32],
    n_clusters: int,
    weights: NDArray[np.int64] | None = None,
) -> NDArray[np.int64]:
    """Weighted sums (k, 2) of values (n,) that are not negative, rounded down to steps of 2^-30, by cluster.

    Of their upper bits, and of their lower `LIMB` bits.
    """
    out = np.zeros((n_clusters, 2), np.int64)
    units = (values * SPREAD_UNIT).astype(np.int64)
    weight = np.int64(1) if weights is None else weights
    np.add.at(out[:, 0], labels, (units >> LIMB) * weight)
    np.add.at(out[:, 1], labels, (units & (2**LIMB - 1)) * weight)
    return out


def total(units: NDArray[np.int64], weights: NDArray[np.int64] | None = None) -> int:
    """(Weighted) sum of int64 values as a Python integer, without overflow: 24 bits and the rest apart.

    Weights are of sum at most 2^36.
    """
    high, low = units >> 24, units & 0xFFFFFF
    if weights is not None:
        return (total(high * weights) << 24) + total(low * weights)
    return (int(high.sum(dtype=np.int64)) << 24) + int(low.sum(dtype=np.int64))


def square_units(squared: NDArray[np.float64]) -> NDArray[np.int64]:
    """Exact squared distances as int64 multiples of 2^-48."""
    return (squared * SQUARE_UNIT).astype(np.int64)


def inertia_terms(centroids: NDArray[np.float32], sums: NDArray[np.int64], counts: NDArray[np.int64]) -> int:
    """Sum over clusters of n |c|^2 - 2 c.S in units of 2^-48: the objective less the sum of |x|^2."""
    squares, high, low = np.empty((3, len(counts)), np.int64)

    def fill(spans: Iterator[slice]) -> None:
        for span in spans:
            native.products(centroids[span], sums[span], squares[span], high[span], low[span])

    each(allowed(), fill, _spans(len(counts), sums.shape[1]))
    return total(squares, counts) - 2 * ((total(high) << 24) + total(low))
