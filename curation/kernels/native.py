"""The loops over rows that NumPy has no word for, compiled by numba: sums, exact distances, groups.

All of them release the interpreter's lock. Reassociation and fused multiply-add are allowed: float64
operands are multiples of 2^-24 and every sum is exact (`curation.exact`), so no order can change it.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

FAST: dict[str, Any] = {
    "nogil": True,
    "cache": True,
    "fastmath": {"nnan", "nsz", "reassoc", "contract"},  # not ninf: infinities mark what is taken
    "error_model": "numpy",
}


STRICT: dict[str, Any] = {"nogil": True, "cache": True, "error_model": "numpy"}


@njit(**FAST)
def square_distance(row: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Exact squared distance between two rows (d,) on the grid."""
    total = 0.0
    for i in range(row.shape[0]):
        difference = np.float64(row[i]) - np.float64(other[i])
        total += difference * difference
    return total


@njit(**FAST)
def square_norms(rows: NDArray[np.float32], out: NDArray[np.float64]) -> None:
    """Exact squared norms (n,) of rows (n, d) on the grid."""
    for i in range(rows.shape[0]):
        total = 0.0
        for j in range(rows.shape[1]):
            value = np.float64(rows[i, j])
            total += value * value
        out[i] = total


@njit(**STRICT)
def means(sums: NDArray[np.int64], counts: NDArray[np.int64], out: NDArray[np.float32]) -> None:
    """Means (k, d) of sums in steps of 2^-24, rounded to the grid; zero where nothing was counted."""
    for i in range(sums.shape[0]):
        count = np.float64(max(counts[i], 1))
        for j in range(sums.shape[1]):
            out[i, j] = np.rint(np.float64(sums[i, j]) / count) * (1 / 16777216)


@njit(**FAST)
def products(
    rows: NDArray[np.float32],
    sums: NDArray[np.int64],
    squares: NDArray[np.int64],
    high: NDArray[np.int64],
    low: NDArray[np.int64],
) -> None:
    """Of rows (k, d) on the grid with themselves, and with the upper and the lower 24 bits of sums (k, d)."""
    for i in range(rows.shape[0]):
        square = upper = lower = np.int64(0)
        for j in range(rows.shape[1]):
            step = np.int64(np.float64(rows[i, j]) * 16777216)
            square += step * step
            upper += step * (sums[i, j] >> 24)
            lower += step * (sums[i, j] & 0xFFFFFF)
        squares[i], high[i], low[i] = square, upper, lower


@njit(**FAST)
def take_best(
    rows: NDArray[np.float32],
    worth: NDArray[np.float64],
    left: NDArray[np.float64],
    taken: NDArray[np.int64],
) -> None:
    """Takes the row of the largest worth x left, again and again, the first of equals.

    Args:
        rows: Rows (m, d) on the grid.
        worth: What one of left is worth (m,), positive.
        left: Exact squared distances (m,), which are lowered to those of the rows taken.
        taken: Filled with rows in the order in which they are taken; ends early where nothing is left.
    """
    for number in range(taken.shape[0]):
        most, new = 0.0, -1
        for i in range(rows.shape[0]):
            value = worth[i] * left[i]
            if value > most:
                most, new = value, i
        if new < 0:
            break
        taken[number] = new
        for i in range(rows.shape[0]):
            left[i] = min(left[i], square_distance(rows[i], rows[new]))


@njit(**FAST)
def gather(rows: NDArray[np.float32], index: NDArray[np.int64], out: NDArray[np.float32]) -> None:
    """Copies rows[index] into the first rows of `out`."""
    for i in range(index.shape[0]):
        source = rows[index[i]]
        for j in range(source.shape[0]):
            out[i, j] = source[j]


@njit(**FAST)
def sort_by_label(labels: NDArray[np.int32], count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """A counting sort: indices (n,) in the order of labels 0..count-1, stable, and the edges (count + 1,)."""
    edges = np.zeros(count + 1, np.int64)
    for i in range(labels.shape[0]):
        edges[labels[i] + 1] += 1
    for label in range(count):
        edges[label + 1] += edges[label]
    position = edges[:-1].copy()
    index = np.empty(labels.shape[0], np.int64)
    for i in range(labels.shape[0]):
        label = labels[i]
        index[position[label]] = i
        position[label] += 1
    return index, edges


@njit(**FAST)
def add_segments(
    rows: NDArray[np.float32],
    index: NDArray[np.int64],
    edges: NDArray[np.int64],
    low: int,
    high: int,
    sums: NDArray[np.int64],
) -> None:
    """Adds rows[index[edges[c]:edges[c + 1]]] to sums[c] in steps of 2^-24, for clusters low..high-1.

    A float64 sum of multiples of 2^-24 below 65/64 is exact for 2^28 rows; longer runs are cut there.
    """
    d = rows.shape[1]
    for cluster in range(low, high):
        start = edges[cluster]
        while start < edges[cluster + 1]:
            stop = min(edges[cluster + 1], start + 268435456)
            total = np.zeros(d)
            for i in range(start, stop):
                row = rows[index[i]]
                for j in range(d):
                    total[j] += row[j]
            for j in range(d):
                sums[cluster, j] += np.int64(total[j] * 16777216.0)
            start = stop


@njit(**FAST)
def add_weighted_segments(
    rows: NDArray[np.float32],
    index: NDArray[np.int64],
    edges: NDArray[np.int64],
    weights: NDArray[np.int64],
    low: int,
    high: int,
    sums: NDArray[np.int64],
) -> None:
    """As `add_segments`, each row times its whole-numbered weight (n,), in integers."""
    for cluster in range(low, high):
        for i in range(edges[cluster], edges[cluster + 1]):
            row = rows[index[i]]
            for j in range(rows.shape[1]):
                sums[cluster, j] += np.int64(np.float64(row[j]) * 16777216.0) * weights[index[i]]


@njit(**FAST)
def pair_distances(
    rows: NDArray[np.float32],
    index: NDArray[np.int64],
    others: NDArray[np.float32],
    other_index: NDArray[np.int32],
    out: NDArray[np.float64],
) -> None:
    """Exact squared distances of pairs (p,) of rows; infinity where the other's index is -1."""
    for i in range(out.shape[0]):
        other = other_index[i]
        out[i] = np.inf if other < 0 else square_distance(rows[index[i]], others[other])


@njit(**FAST)
def sides(
    rows: NDArray[np.float32],
    index: NDArray[np.int64],
    pair: NDArray[np.int32],
    first: NDArray[np.float32],
    second: NDArray[np.float32],
    out: NDArray[np.int32],
) -> None:
    """2 p where row index[i] is at least as close to first[p] as to second[p], else 2 p + 1, p = pair[i]."""
    for i in range(index.shape[0]):
        p = pair[i]
        row = rows[index[i]]
        out[i] = 2 * p + (square_distance(row, first[p]) > square_distance(row, second[p]))


@njit(**FAST)
def smallest(scores: NDArray[np.float64], where: NDArray[np.int64]) -> None:
    """Places of the m smallest of some scores (c,), the first of equals, ascending; -1 for none."""
    m = where.shape[0]
    values = np.full(m, np.inf)
    where[:] = -1
    last = np.inf
    for j in range(scores.shape[0]):
        score = scores[j]
        if score < last:
            place = m - 1
            while place > 0 and values[place - 1] > score:
                values[place] = values[place - 1]
                where[place] = where[place - 1]
                place -= 1
            values[place] = score
            where[place] = j
            last = values[m - 1]


@njit(**FAST)
def smallest_columns(scores: NDArray[np.float64], out: NDArray[np.int64]) -> None:
    """Columns of the m smallest of every row of scores (n, c), the first of equals, ascending (n, m)."""
    for i in range(scores.shape[0]):
        smallest(scores[i], out[i])
        out[i].sort()


@njit(**FAST)
def group_candidates(
    groups: NDArray[np.int64],
    near: NDArray[np.int64],
    index: NDArray[np.int64],
    edges: NDArray[np.int64],
    rows: NDArray[np.float32],
    squares: NDArray[np.float64],
    m: int,
    begin: NDArray[np.int64],
    out: NDArray[np.int32],
    counts: NDArray[np.int64],
) -> None:
    """The m nearest rows of each member of some groups, ascending, and the members themselves.

    2 d operations a pair of rows in float64; a group's pool, transposed, fits a core's cache.

    Args:
        groups: Numbers of the groups.
        near: Groups in which they are looked for (all groups, near), each its own among them.
        index: Rows (k,), group after group, ascending within each.
        edges: Where each group begins in `index` (all groups + 1,).
        rows: All rows (k, d) on the grid.
        squares: Their exact squared norms (k,).
        m: Neighbours of a row, itself included.
        begin: Where each group's room in `out` begins (all groups,): for all rows of its near groups.
        out: Receives them.
        counts: Receives how many they are (all groups,).
    """
    width = rows.shape[1]
    for group in groups:
        size = 0
        for g in near[group]:
            size += edges[g + 1] - edges[g]
        pool = np.empty(size, np.int64)
        at = 0
        for g in near[group]:
            for i in range(edges[g], edges[g + 1]):
                pool[at] = index[i]
                at += 1
        pool.sort()
        marks = np.ones(size, np.bool_)
        if size > m:
            marks[:] = False
            across = np.empty((width, size))
            for j in range(size):
                for i in range(width):
                    across[i, j] = rows[pool[j], i]
            scores, where = np.empty(size), np.empty(m, np.int64)
            for member in index[edges[group] : edges[group + 1]]:
                _scores(rows[member], across, squares, pool, scores)
                smallest(scores, where)
                for place in where:
                    marks[place] = True
            for member in index[edges[group] : edges[group + 1]]:
                marks[np.searchsorted(pool, member)] = True  # more of them than that may be equal
        at = begin[group]
        for j in range(size):
            if marks[j]:
                out[at] = pool[j]
                at += 1
        counts[group] = at - begin[group]


@njit(**FAST)
def _scores(
    row: NDArray[np.float32],
    across: NDArray[np.float64],
    squares: NDArray[np.float64],
    pool: NDArray[np.int64],
    out: NDArray[np.float64],
) -> None:
    """|c|^2 - 2 x.c of a row (d,) and the columns of `across` (d, p), exact."""
    for j in range(pool.shape[0]):
        out[j] = squares[pool[j]]
    whole = row.shape[0] // 4 * 4
    for i in range(0, whole, 4):  # four at a time, so that sums are loaded and stored less often
        a, b, c, d = row[i], row[i + 1], row[i + 2], row[i + 3]
        for j in range(out.shape[0]):
            out[j] -= 2.0 * (
                a * across[i, j] + b * across[i + 1, j] + c * across[i + 2, j] + d * across[i + 3, j]
            )
    for i in range(whole, row.shape[0]):
        for j in range(out.shape[0]):
            out[j] -= 2.0 * row[i] * across[i, j]


@njit(**FAST)
def to_grid(rows: NDArray[Any], scale: float, out: NDArray[np.float32]) -> None:
    """rint(scale x) / 2^24 of every coordinate of rows (n, d), float32 or float64; scale is 2^e."""
    for i in range(rows.shape[0]):
        for j in range(rows.shape[1]):
            out[i, j] = np.rint(np.float64(rows[i, j]) * scale) * 5.9604644775390625e-08


@njit(**FAST)
def row_tops(bits: NDArray[Any], mask: int, out: NDArray[np.int64]) -> None:
    """The largest size in every row (n, d), by the bits of floats without their sign (`mask`)."""
    for i in range(bits.shape[0]):
        top = bits[i, 0] & mask
        for j in range(bits.shape[1]):
            top = max(top, bits[i, j] & mask)
        out[i] = top


@njit(**STRICT)
def row_exponents(rows: NDArray[Any], powers: NDArray[np.int64]) -> None:
    """Raises each exponent (n,) until the norm of its row (n, d) is at most 65/64 of its power of two.

    At first no coordinate is larger than that power.
    """
    for i in range(rows.shape[0]):
        power = powers[i]
        # in two halves: neither is too large for a float64
        one = math.ldexp(1.0, (20 - power) // 2)
        other = math.ldexp(1.0, 20 - power - (20 - power) // 2)
        square = np.int64(0)
        for j in range(rows.shape[1]):
            step = np.int64(math.ceil(abs(np.float64(rows[i, j])) * one * other))
            square += step * step
        # norm <= 2^power * sqrt(square) / 2^20, and 4225 / 4096 = (65/64)^2
        while square > 4225 << 28:
            square >>= 2
            power += 1
        powers[i] = power


@njit(**STRICT)
def orthonormal(columns: NDArray[np.float64], fine: float) -> None:
    """Modified Gram-Schmidt on the rows of `columns` (s, d), each rounded to steps of 1 / `fine` every time.

    Not a sum is rounded, and what is rounded is rounded once: there is no fused multiply-add here.
    """
    size, d = columns.shape
    _round_columns(columns, 0, fine)
    for k in range(size):
        square = 0.0
        for i in range(d):
            square += columns[k, i] * columns[k, i]
        norm = math.sqrt(square)
        if norm == 0:
            continue
        for i in range(d):
            columns[k, i] = np.rint(columns[k, i] / norm * fine) / fine
        for m in range(k + 1, size):
            along = 0.0
            for i in range(d):
                along += columns[k, i] * columns[m, i]
            for i in range(d):
                columns[m, i] -= columns[k, i] * along
        _round_columns(columns, k + 1, fine)


@njit(**STRICT)
def _round_columns(columns: NDArray[np.float64], first: int, fine: float) -> None:
    """Scales rows from `first` on by powers of two to a largest entry in [1/2, 1), in steps of 1 / `fine`."""
    for m in range(first, columns.shape[0]):
        largest = 0.0
        for i in range(columns.shape[1]):
            largest = max(largest, abs(columns[m, i]))
        scale = math.ldexp(1.0, -math.frexp(largest)[1])
        for i in range(columns.shape[1]):
            columns[m, i] = np.rint(columns[m, i] * scale * fine) / fine
