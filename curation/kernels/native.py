"""The loops that NumPy has no word for, compiled by numba: settling scores, sums, exact distances.

All of them release the interpreter's lock. Reassociation and fused multiply-add are allowed: float64
operands are multiples of 2^-24 and every sum is exact (`curation.exact`), so no order can change it,
and float32 scores are only compared, with a margin that covers their error.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

_FAST: dict[str, Any] = {
    "nogil": True,
    "cache": True,
    "fastmath": {"nnan", "nsz", "reassoc", "contract"},  # not ninf: infinities mark what is taken
    "error_model": "numpy",
}


_STRICT: dict[str, Any] = {"nogil": True, "cache": True, "error_model": "numpy"}


@njit(**_FAST)
def square_distance(row: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Exact squared distance between two rows (d,) on the grid."""
    total = 0.0
    for i in range(row.shape[0]):
        difference = np.float64(row[i]) - np.float64(other[i])
        total += difference * difference
    return total


@njit(**_FAST)
def square_norms(rows: NDArray[np.float32], out: NDArray[np.float64]) -> None:
    """Exact squared norms (n,) of rows (n, d) on the grid."""
    for i in range(rows.shape[0]):
        total = 0.0
        for j in range(rows.shape[1]):
            value = np.float64(rows[i, j])
            total += value * value
        out[i] = total


# Scores are positive, so that their bit patterns, as integers, have their order: LLVM turns a minimum of
# integers into vector instructions, one of floats only where NaN may be ignored, which numba cannot say.
# No reassociation here: a score must come out the same each time that it is computed.
_SAME: dict[str, Any] = {**_FAST, "fastmath": {"nnan", "nsz"}}
_LARGEST = np.int32(0x7FFFFFFF)
_RUN = 512  # columns whose least score is remembered, so that most need not be looked at again


@njit(**_SAME)
def _bits(half_square: np.float32, product: np.float32, shift: np.float32) -> np.int32:
    """A score, by its bits."""
    return np.float32((half_square - product) + shift).view(np.int32)


@njit(**_SAME)
def _least(half_squares: NDArray[np.float32], products: NDArray[np.float32], shift: np.float32) -> np.int32:
    """The least score of some columns."""
    least = _LARGEST
    for j in range(products.shape[0]):
        least = min(least, _bits(half_squares[j], products[j], shift))
    return least


@njit(**_SAME)
def _close(
    half_squares: NDArray[np.float32], products: NDArray[np.float32], shift: np.float32, limit: np.int32
) -> tuple[np.int32, np.int32]:
    """How many scores are up to a limit, and the sum of their columns: the column, of one."""
    count = place = np.int32(0)
    for j in range(products.shape[0]):
        inside = _bits(half_squares[j], products[j], shift) <= limit
        count += np.int32(1) if inside else np.int32(0)
        place += np.int32(j) if inside else np.int32(0)
    return count, place


@njit(**_SAME)
def _nearest_of(
    lowest: np.int32,
    margin: np.float32,
    runs: NDArray[np.int32],
    half_squares: NDArray[np.float32],
    products: NDArray[np.float32],
    shift: np.float32,
    members: NDArray[np.int32],
    row: NDArray[np.float32],
    centroids: NDArray[np.float32],
) -> int:
    """Column of the exactly nearest of those whose score is the lowest, or within the margin; the first."""
    least = np.int32(lowest).view(np.float32)
    limit = max(
        lowest, np.float32(np.nextafter(np.float32(least + margin), np.float32(np.inf))).view(np.int32)
    )
    total, column = np.int32(0), 0
    for run in range(runs.shape[0]):
        if runs[run] <= limit:
            start = run * _RUN
            count, place = _close(
                half_squares[start : start + _RUN], products[start : start + _RUN], shift, limit
            )
            total += count
            column = start + place
    if total == 1:
        return column
    best, smallest = -1, np.inf
    for run in range(runs.shape[0]):
        if runs[run] <= limit:
            for j in range(run * _RUN, min(products.shape[0], (run + 1) * _RUN)):
                if _bits(half_squares[j], products[j], shift) <= limit:
                    exact = square_distance(row, centroids[members[j]])
                    if exact < smallest:
                        best, smallest = j, exact
    return best


@njit(**_SAME)
def settle(
    products: NDArray[np.float32],
    half_squares: NDArray[np.float32],
    members: NDArray[np.int32],
    rows: NDArray[np.float32],
    centroids: NDArray[np.float32],
    shifts: NDArray[np.float32],
    margins: NDArray[np.float32],
    labels: NDArray[np.int32],
    seconds: NDArray[np.int32],
) -> None:
    """Nearest candidate of every row from a tile of products, exact; `products` may be overwritten.

    One pass over the scores of a row, and another over the few runs of columns that hold close calls.

    Args:
        products: x.c for the rows and candidates of a tile (m, c).
        half_squares: |c|^2 / 2 of the candidates (c,).
        members: Their indices (c,), ascending.
        rows: The rows (m, d).
        centroids: All centroids (k, d).
        shifts: At least x.c of a row for all candidates (m,), which makes its scores positive.
        margins: Twice the bound of the error of a score (m,), rounded up; negative leaves close calls
            to float32.
        labels: Filled with the nearest candidate (m,).
        seconds: Filled with the second nearest, -1 if there is none; empty if not wanted.
    """
    runs = np.empty((products.shape[1] + _RUN - 1) // _RUN, np.int32)
    for i in range(products.shape[0]):
        mine, shift, lowest = products[i], shifts[i], _LARGEST
        for run in range(runs.shape[0]):
            start = run * _RUN
            runs[run] = _least(half_squares[start : start + _RUN], mine[start : start + _RUN], shift)
            lowest = min(lowest, runs[run])
        best = _nearest_of(lowest, margins[i], runs, half_squares, mine, shift, members, rows[i], centroids)
        labels[i] = members[best]
        if seconds.shape[0]:
            seconds[i] = -1
            if mine.shape[0] > 1:
                mine[best] = -np.inf
                start = best // _RUN * _RUN
                runs[best // _RUN] = _least(
                    half_squares[start : start + _RUN], mine[start : start + _RUN], shift
                )
                lowest = _LARGEST
                for run in range(runs.shape[0]):
                    lowest = min(lowest, runs[run])
                best = _nearest_of(
                    lowest, margins[i], runs, half_squares, mine, shift, members, rows[i], centroids
                )
                seconds[i] = members[best]


_FEW = 64  # columns of a run that is passed over where its least score is above the limit


@njit(**_SAME)
def _limit(least: float, distance: float) -> np.int32:
    """The score, by its bits, above which no candidate is nearer than a squared distance."""
    limit = np.float32(max(0.0, least + distance / 2))
    return np.float32(np.nextafter(limit, np.float32(np.inf))).view(np.int32)


@njit(**_SAME)
def attract(
    rows: NDArray[np.float32],
    centroids: NDArray[np.float32],
    distances: NDArray[np.float64],
    labels: NDArray[np.int32],
    offset: int,
    products: NDArray[np.float32],
    half_squares: NDArray[np.float32],
    shifts: NDArray[np.float32],
    least: NDArray[np.float64],
) -> None:
    """Labels the rows of a tile with new centroids that are nearer than what they have.

    Args:
        rows: The rows (m, d).
        centroids: The new centroids (c, d).
        distances: Exact squared distances of the rows (m,), which are lowered.
        labels: Labels of the rows (m,), which become `offset` and the number of the nearest.
        offset: Label of the first new centroid.
        products: x.c for the rows and centroids (m, c).
        half_squares: |c|^2 / 2 of the centroids (c,).
        shifts: At least x.c of a row for all centroids (m,), which makes its scores positive.
        least: The most that the score of a centroid may be that is as near as can be (m,).
    """
    for i in range(products.shape[0]):
        mine, shift = products[i], shifts[i]
        limit = _limit(least[i], distances[i])
        for start in range(0, mine.shape[0], _FEW):
            if _least(half_squares[start : start + _FEW], mine[start : start + _FEW], shift) > limit:
                continue
            for j in range(start, min(start + _FEW, mine.shape[0])):
                if _bits(half_squares[j], mine[j], shift) <= limit:
                    distance = square_distance(rows[i], centroids[j])
                    if distance < distances[i]:
                        distances[i] = distance
                        labels[i] = offset + j
                        limit = _limit(least[i], distance)


@njit(**_SAME)
def gains(
    rows: NDArray[np.float32],
    centroids: NDArray[np.float32],
    distances: NDArray[np.float64],
    weights: NDArray[np.int64],
    out: NDArray[np.int64],
    products: NDArray[np.float32],
    half_squares: NDArray[np.float32],
    shifts: NDArray[np.float32],
    least: NDArray[np.float64],
) -> None:
    """Adds up by how much each centroid is nearer to the rows of a tile than what they have.

    Args:
        rows: As in `attract`.
        centroids: As in `attract`.
        distances: Exact squared distances of the rows (m,).
        weights: Whole-numbered weights of the rows (m,); empty: all one.
        out: Gains (2, c) to add to: upper bits in steps of 2^-24, lower bits in steps of 2^-48.
        products: As in `attract`, and so on.
        half_squares: See there.
        shifts: See there.
        least: See there.
    """
    for i in range(products.shape[0]):
        mine, shift = products[i], shifts[i]
        limit = _limit(least[i], distances[i])
        weight = weights[i] if weights.shape[0] else np.int64(1)
        for start in range(0, mine.shape[0], _FEW):
            if _least(half_squares[start : start + _FEW], mine[start : start + _FEW], shift) > limit:
                continue
            for j in range(start, min(start + _FEW, mine.shape[0])):
                if _bits(half_squares[j], mine[j], shift) <= limit:
                    gain = distances[i] - square_distance(rows[i], centroids[j])
                    if gain > 0:
                        units = np.int64(gain * 281474976710656.0)
                        out[0, j] += (units >> 24) * weight
                        out[1, j] += (units & 0xFFFFFF) * weight


@njit(**_FAST)
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


@njit(**_FAST)
def gather(rows: NDArray[np.float32], index: NDArray[np.int64], out: NDArray[np.float32]) -> None:
    """Copies rows[index] into the first rows of `out`."""
    for i in range(index.shape[0]):
        source = rows[index[i]]
        for j in range(source.shape[0]):
            out[i, j] = source[j]


@njit(**_FAST)
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


@njit(**_FAST)
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


@njit(**_FAST)
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


@njit(**_FAST)
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


@njit(**_FAST)
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


@njit(**_FAST)
def mark_nearest(scores: NDArray[np.float64], m: int, marks: NDArray[np.bool_]) -> None:
    """Marks the entries that are among the m smallest of some scores (c,), the first of equals."""
    values, where = np.full(m, np.inf), np.full(m, -1, np.int64)  # the smallest so far, ascending
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
    for found in where:
        if found >= 0:
            marks[found] = True


@njit(**_FAST)
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
            scores = np.empty(size)
            for member in index[edges[group] : edges[group + 1]]:
                _scores(rows[member], across, squares, pool, scores)
                mark_nearest(scores, m, marks)
            for member in index[edges[group] : edges[group + 1]]:
                marks[np.searchsorted(pool, member)] = True  # more of them than that may be equal
        at = begin[group]
        for j in range(size):
            if marks[j]:
                out[at] = pool[j]
                at += 1
        counts[group] = at - begin[group]


@njit(**_FAST)
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


@njit(**_FAST)
def to_grid(rows: NDArray[Any], scale: float, out: NDArray[np.float32]) -> None:
    """rint(scale x) / 2^24 of every coordinate of rows (n, d), float32 or float64; scale is 2^e."""
    for i in range(rows.shape[0]):
        for j in range(rows.shape[1]):
            out[i, j] = np.rint(np.float64(rows[i, j]) * scale) * 5.9604644775390625e-08


@njit(**_FAST)
def row_tops(bits: NDArray[Any], mask: int, out: NDArray[np.int64]) -> None:
    """The largest size in every row (n, d), by the bits of floats without their sign (`mask`)."""
    for i in range(bits.shape[0]):
        top = bits[i, 0] & mask
        for j in range(bits.shape[1]):
            top = max(top, bits[i, j] & mask)
        out[i] = top


@njit(**_STRICT)
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


@njit(**_STRICT)
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


@njit(**_STRICT)
def _round_columns(columns: NDArray[np.float64], first: int, fine: float) -> None:
    """Scales rows from `first` on by powers of two to a largest entry in [1/2, 1), in steps of 1 / `fine`."""
    for m in range(first, columns.shape[0]):
        largest = 0.0
        for i in range(columns.shape[1]):
            largest = max(largest, abs(columns[m, i]))
        scale = math.ldexp(1.0, -math.frexp(largest)[1])
        for i in range(columns.shape[1]):
            columns[m, i] = np.rint(columns[m, i] * scale * fine) / fine
