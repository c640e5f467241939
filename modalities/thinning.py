"""Which chips of a pool are left out, because others lie too near or are too many of one cell or date?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field, PositiveInt, model_validator

from modalities.base import Settings
from modalities.earth import MOST, cells, points, straight
from modalities.rules import Apart, AtMost, Rule

Dates = Literal["day", "month", "year", "any"] | PositiveInt

COLUMNS = ("lon", "lat", "datetime")
"""What has to be known of a chip."""

NOWHERE = "have no place on Earth (their scene has no CRS, or they are pictures)"

_UNDATED = np.iinfo(np.int64).min
"""What NumPy has for no time: the chips without a date are of one date more, which they share."""


class Thin(Settings):
    """How near chips of one date may lie to each other."""

    distance_m: Annotated[float, Field(gt=0, le=MOST)] | None = None
    """metres: of chips of one date whose centres are nearer to each other, a hash keeps one"""
    dates: Dates = "day"
    """what one date is: day, month, year (of UTC), a number of days, or any: all dates are one"""

    @model_validator(mode="after")
    def _is_whole(self) -> Thin:
        if self.distance_m is None and self.dates != "day":
            raise ValueError(f"satellite.thin.dates {self.dates} needs satellite.thin.distance_m beside it")
        return self


class Cap(Settings):
    """How many chips there may be of one cell of a grid, and of one date."""

    cell_m: Annotated[float, Field(ge=1, le=MOST)] | None = None
    """metres a side of a cell of the grid; cells are squares of about one area, wherever on Earth"""
    per_cell: PositiveInt | None = None
    """chips of a cell at most, of all dates together"""
    per_date: PositiveInt | None = None
    """chips of a date at most, wherever they lie"""
    dates: Dates = "day"
    """what one date is, as in thin.dates"""

    @model_validator(mode="after")
    def _is_whole(self) -> Cap:
        if (self.cell_m is None) != (self.per_cell is None):
            there, lacks = ("per_cell", "cell_m") if self.cell_m is None else ("cell_m", "per_cell")
            raise ValueError(
                f"satellite.cap.{there} {getattr(self, there):g} needs satellite.cap.{lacks} beside it"
            )
        if self.per_date is None and self.dates != "day":
            raise ValueError(f"satellite.cap.dates {self.dates} needs satellite.cap.per_date beside it")
        return self


def chip_rules(columns: pa.Table, thin: Thin, cap: Cap) -> Iterator[Rule]:
    """Yield what must hold of chips: first how far apart they are, then how many of a cell, then of a date.

    Args:
        columns: of the pool, `COLUMNS`.
        thin: how near chips may lie.
        cap: how many there may be.
    """
    lon, lat = (columns[name].to_numpy() for name in ("lon", "lat"))
    if thin.distance_m is not None:
        reason = (
            f"Nearer than {thin.distance_m:,g} m to a chip{_of_date(thin.dates)} that stays"
            " (satellite.thin.distance_m)."
        )
        within = date_cells(columns["datetime"], thin.dates)
        yield Apart(points(lon, lat), straight(thin.distance_m), reason, within, NOWHERE)
    if cap.cell_m is not None and cap.per_cell is not None:
        cell = cells(lon, lat, cap.cell_m)
        reason = (
            f"Its cell of {cap.cell_m:,g} m has {cap.per_cell:,} other chips that stay"
            " (satellite.cap.per_cell)."
        )
        yield AtMost(cap.per_cell, pa.array(cell, mask=cell < 0), reason, NOWHERE)
    if cap.per_date is not None:
        reason = (
            f"There are {cap.per_date:,} other chips{_of_date(cap.dates)} that stay (satellite.cap.per_date)."
        )
        yield AtMost(cap.per_date, date_cells(columns["datetime"], cap.dates), reason)


def date_cells(moments: pa.ChunkedArray, dates: Dates) -> NDArray[np.int64]:
    """Return the date (n,) of each chip as a number; those without one share a number that no other has.

    Args:
        moments: times in UTC, null where there is none.
        dates: what one date is.
    """
    if dates == "any":
        return np.zeros(len(moments), np.int64)
    micros = moments.cast(pa.int64()).fill_null(_UNDATED).to_numpy()
    unit: Literal["D", "M", "Y"] = "M" if dates == "month" else "Y" if dates == "year" else "D"
    found: NDArray[np.int64] = micros.view("datetime64[us]").astype(f"datetime64[{unit}]").astype(np.int64)
    if isinstance(dates, int):
        found = np.where(found == _UNDATED, found, found // dates)
    return found


def _of_date(dates: Dates) -> str:
    if dates == "any":
        return ""
    return f" of the same {dates}" if isinstance(dates, str) else f" of the same {dates:,} days"
