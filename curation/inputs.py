"""What goes into a fit: rows on their grid, keys, weights, and the refusal of what cannot be clustered."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from curation import exact
from curation.assign import Assigner
from curation.block import PointBlock
from curation.chance import keys_of
from curation.descent import Distance
from curation.errors import CurationError, UnfitRowError
from curation.points import SHORT
from curation.workers import LocalWorkers, Workers


def check_points(workers: Workers, exponent: int, distance: Distance, rounding: Callable[[], float]) -> int:
    """Checks that the grid has not rounded away what sets the points apart; returns how many there are.

    Args:
        workers: Who holds the points.
        exponent: Of the grid.
        distance: How they are compared.
        rounding: `Grid.rounding` of all rows. Asked for only where the points lie close together on the
            grid: many may be equal, or be on it exactly, and then nothing is lost.

    Raises:
        CurationError: They lie too far from the origin for their spread, or a few outliers are so far out
            that the grid leaves no steps for the others.
    """
    told = workers.ask("describe")
    count = sum(int(about.count) for about in told)
    weight = sum(about.weight for about in told)
    squares = sum(about.squares for about in told)
    sums = np.sum([about.sums.astype(object) for about in told], axis=0)
    # n^2 times the variance, an exact integer
    spread = float(weight * squares - int(np.dot(sums, sums))) ** 0.5 / weight  # in steps
    scale, instead = 2.0**exponent, "" if distance == "cosine" else ", or cluster with distance='cosine'"
    close = SHORT * exact.UNIT
    short, near = sum(about.short for about in told) * 2 > count, 0 < spread < close
    lost = rounding() if short or near else 0.0
    if short and lost > 0:
        raise CurationError(
            f"the longest embedding has a norm of about {scale:.2g}, and more than half of them are shorter "
            f"than {scale * SHORT:.2g}: too short to tell apart beside it; remove the outliers{instead}"
        )
    if near and close * (lost / count) ** 0.5 > spread:
        raise CurationError(
            f"the points spread by {spread / exact.UNIT * scale:.2g} around their mean but lie up to "
            f"{scale:.2g} from the origin, too far to tell them apart exactly: subtract their mean first"
            f"{instead}"
        )
    return count


def held(
    rows: NDArray[Any],
    distance: Distance,
    ids: Sequence[str] | None = None,
    assigner: Assigner | None = None,
    weights: NDArray[np.int64] | None = None,
) -> tuple[LocalWorkers, exact.Grid]:
    """Rows (n, d) in one block of this process, and their grid.

    Raises:
        CurationError: They or their ids are unfit.
    """
    try:
        points, grid = grid_rows(rows, distance)
    except UnfitRowError as error:
        if ids is None or len(ids) != len(rows):
            raise
        raise CurationError(f"row {error.row}, {str(list(ids)[error.row])!r}, {error.why}") from error
    workers = LocalWorkers([PointBlock(points, point_keys(len(points), ids), assigner, weights)])
    check_points(
        workers,
        grid.exponent,
        distance,
        lambda: grid.rounding(unit_rows(rows) if distance == "cosine" else rows),
    )
    return workers, grid


def grid_rows(rows: NDArray[Any], distance: Distance) -> tuple[NDArray[np.float32], exact.Grid]:
    """Rows (n, d) on their grid; unit-normalised first where the distance is cosine.

    Raises:
        CurationError: The rows are not two-dimensional, are not finite, or (cosine) one is all zero.
    """
    if rows.ndim != 2 or 0 in rows.shape:
        raise CurationError(f"points must be a non-empty array of shape (n, d), not {rows.shape}")
    exponent = exact.pool_exponent([exact.grid_exponent(rows)])
    if distance == "cosine":
        rows, exponent = unit_rows(rows), 0
    grid = exact.Grid(exponent)
    return grid.encode(rows), grid


def unit_rows(rows: NDArray[Any]) -> NDArray[np.float32]:
    """Rows (n, d) scaled to unit norm.

    Raises:
        CurationError: One is all zero.
    """
    if not (nonzero := np.any(rows, axis=1)).all():
        row = int(np.flatnonzero(~nonzero)[0])
        raise UnfitRowError(row, "is all zero and has no direction; drop it to cluster by cosine")
    return exact.normalize_rows(rows)


def point_keys(count: int, ids: Sequence[str] | None) -> NDArray[np.uint64]:
    """Keys (n, 2) of ids, or of the row numbers as text.

    Raises:
        CurationError: There are not as many ids as points, or two are equal.
    """
    if ids is None:
        return keys_of(pa.array(np.arange(count)).cast(pa.string()))
    names = [str(i) for i in ids]
    if len(names) != count:
        raise CurationError(f"there are {len(names)} ids for {count} points; give one id a point")
    if len(set(names)) != count:
        twice = Counter(names).most_common(1)[0][0]
        raise CurationError(f"the id {twice!r} names two points; ids must differ")
    return keys_of(names)


def checked_weights(weights: Any, count: int) -> NDArray[np.float64]:
    """Weights (n,) as they are.

    Raises:
        CurationError: There are not as many as points, or one is negative or not finite.
    """
    values = np.asarray(weights, np.float64)
    if values.shape != (count,):
        raise CurationError(
            f"sample_weight has the shape {values.shape} for {count} points; give one a point"
        )
    if not np.isfinite(values).all() or (values < 0).any():
        row = int(np.flatnonzero(~np.isfinite(values) | (values < 0))[0])
        raise CurationError(f"sample_weight[{row}] is {values[row]}; weights are finite and not negative")
    return values


def point_weights(weights: Any, count: int) -> NDArray[np.int64] | None:
    """Weights (n,) as whole numbers of sum at most 2^36; None where all are equal.

    Whole numbers are taken as they are, so that a point of weight 2 adds what two points do; others
    are scaled up by a power of two and rounded.

    Raises:
        CurationError: There are not as many as points, one is negative or not finite, or all are zero.
    """
    if weights is None:
        return None
    values = checked_weights(weights, count)
    if not values.any():
        raise CurationError("every sample_weight is zero, so there is nothing to cluster; give some a weight")
    if (values == values[0]).all():
        return None
    with np.errstate(over="ignore"):
        as_they_are = values.sum() <= exact.MAX_WEIGHT and (values == np.rint(values)).all()
    if not as_they_are:
        values = np.ldexp(values, -int(np.frexp(values.max())[1]))  # at most 1, so that the sum is finite
        values = np.ldexp(values, int(np.floor(np.log2(exact.MAX_WEIGHT / values.sum()))) - 1)
    return np.rint(values).astype(np.int64)
