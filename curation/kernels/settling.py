"""From float32 scores to exact answers, compiled by numba: who is nearest, and whom a seed attracts.

Scores are only compared, with a margin that covers their error; what is close is settled in float64. All of
these loops release the interpreter's lock.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

# numba's cache knows the file of a function alone: whoever changes `square_distance` touches this one, too.
from curation.kernels.native import FAST, square_distance

# Scores are positive, so that their bit patterns, as integers, have their order: LLVM turns a minimum of
# integers into vector instructions, one of floats only where NaN may be ignored, which numba cannot say.
# No reassociation here: a score must come out the same each time that it is computed.
_SAME: dict[str, Any] = {**FAST, "fastmath": {"nnan", "nsz"}}
_LARGEST = np.int32(0x7FFFFFFF)
_RUN = 128  # columns whose least score is remembered, so that most need not be looked at again


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
