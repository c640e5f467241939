"""Where on Earth do pool and curated set lie? Counts by cells of equal area; footprints where they are few.

Comes in: `lon` and `lat` of the rows, file by file. Goes out: `Places`. Memory is O(cells) plus one file.
All is laid out in Lambert's cylindrical equal-area projection (Snyder, Map projections: a working manual,
USGS 1987, section 10), true to shape at the pool's mean latitude: cells of one size cover the same area
anywhere, and a place that is no more than a region looks as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy import ndimage

from pipelines.errors import RequestError
from pipelines.store import Store

FEW = 4000
"""Samples of a pool whose footprints are drawn one by one: more are too many to tell apart."""

REGIONS = 6
"""Regions whose footprints are drawn, those with most samples of the pool."""

KM_A_DEGREE = 111.195
"""Of a great circle, on a sphere with Earth's mean radius."""

_ACROSS = (48, 24, 12, 6)
"""Cells along the longer side of the map, before their side is rounded: the first number for which cells that
hold any samples hold `_FILLED` on average, so that a draw can hit or miss them."""

_FILLED = 4

_STEEPEST = 75.0
"""Degrees of latitude at which shapes are true at most: beyond, the map would be too tall to look at."""

_NO_GAP = 30.0
"""Degrees of longitude: a pool with no wider gap goes round the world, and its map begins at 180 degrees."""

_LEAST = 1e-3
"""Degrees that a map shows at least."""

Line = NDArray[np.float64]
"""x and y on the map of the corners of one polygon, shape (m, 2), closed."""


@dataclass(frozen=True)
class Frame:
    """How longitudes and latitudes are laid out: x in degrees of longitude, y to the same scale.

    Attributes:
        west: longitude where the map is cut open, in the middle of where the pool is not.
        parallel: latitude at which shapes are true, degrees.
    """

    west: float
    parallel: float

    @property
    def km(self) -> float:
        """Kilometres that a unit measures at the parallel; a square unit has that area everywhere."""
        return KM_A_DEGREE * float(np.cos(np.radians(self.parallel)))

    def x(self, lon: NDArray[np.float64]) -> NDArray[np.float64]:
        """Longitudes on the map: they run on eastwards from `west`."""
        return self.west + (lon - self.west) % 360

    def y(self, lat: NDArray[np.float64]) -> NDArray[np.float64]:
        """Latitudes on the map."""
        y: NDArray[np.float64] = np.degrees(np.sin(np.radians(lat))) / np.cos(np.radians(self.parallel)) ** 2
        return y

    def line(self, ring: NDArray[np.float64]) -> Line:
        """A ring of longitudes and latitudes, shape (m, 2), on the map; it is not torn where the map ends."""
        turns = np.floor((ring[:, 0].min() / 2 + ring[:, 0].max() / 2 - self.west) / 360)
        return np.stack([ring[:, 0] - 360 * turns, self.y(ring[:, 1])], axis=1)


@dataclass(frozen=True)
class Grid:
    """Square cells on the map.

    Attributes:
        frame: the map.
        left: x of the first column, and `bottom` y of the first row.
        bottom: see there.
        side: of a cell, in units of the map.
        columns: their number, and that of `rows`.
        rows: see there.
    """

    frame: Frame
    left: float
    bottom: float
    side: float
    columns: int
    rows: int

    @property
    def km(self) -> float:
        """Side of a cell in kilometres, at the map's parallel."""
        return self.side * self.frame.km

    def cells(self, lon: NDArray[np.float64], lat: NDArray[np.float64]) -> NDArray[np.int64]:
        """The cell of each point, shape (n,), int64, counted row by row."""
        column = ((self.frame.x(lon) - self.left) / self.side).astype(np.int64).clip(0, self.columns - 1)
        row = ((self.frame.y(lat) - self.bottom) / self.side).astype(np.int64).clip(0, self.rows - 1)
        cells: NDArray[np.int64] = row * self.columns + column
        return cells

    def counts(self, store: Store, files: list[str]) -> NDArray[np.int64]:
        """Samples of some files in each cell, shape (rows, columns), int64."""
        total = np.zeros(self.rows * self.columns, np.int64)
        for file in files:
            total += np.bincount(self.cells(*_lon_lat(store, file)[:2]), minlength=len(total))
        return total.reshape(self.rows, self.columns)


@dataclass(frozen=True)
class Region:
    """A stretch of cells without a gap.

    Attributes:
        frame: a map of it alone, true to shape in its middle.
        lon: longitude of its middle, and `lat` the latitude.
        lat: see there.
        samples: of the pool, and `curated` those of the curated set.
        curated: see there.
        lines: their footprints, of pool and curated set.
    """

    frame: Frame
    lon: float
    lat: float
    samples: int
    curated: int
    lines: tuple[list[Line], list[Line]]


@dataclass(frozen=True)
class Places:
    """Where pool and curated set lie.

    Attributes:
        grid: of cells.
        pool: samples of the pool in each cell, shape (rows, columns), int64.
        curated: distinct curated samples in each cell, likewise.
        nowhere: samples of the pool without a place.
        regions: those to look at closely, the fullest first; none where samples are many or no footprints.
    """

    grid: Grid
    pool: NDArray[np.int64]
    curated: NDArray[np.int64]
    nowhere: int
    regions: list[Region]

    def metrics(self) -> dict[str, float]:
        """The numbers of the map: how many cells of which size the pool, the set and a random draw reach.

        Of a draw of m among n samples, a cell with c of them is missed with a chance of about (1 - m / n)^c.
        """
        chance = self.curated.sum() / self.pool.sum()
        return {
            "cell_km": float(f"{self.grid.km:.6g}"),
            "pool_cells": int(np.count_nonzero(self.pool)),
            "curated_cells": int(np.count_nonzero(self.curated)),
            "random_cells": round(float((1 - (1 - chance) ** self.pool).sum()), 1),
            "nowhere": self.nowhere,
        }


def read_places(
    store: Store, pool: list[str], curated: list[str], advance: Callable[[], None]
) -> Places | None:
    """Find out where the samples lie.

    Args:
        store: run directory.
        pool: files of `embeddings/`.
        curated: files of `curated/`.
        advance: called for every file: twice for one of the pool, once for a curated one.

    Returns:
        None where no sample has a place.
    """
    if not has_places(store, pool):
        return None
    extent = _Extent()
    for file in pool:
        extent.add(*_lon_lat(store, file))
        advance()
    places = _places(store, pool, curated, extent) if extent.points else None
    for _ in (*pool, *curated):
        advance()
    return places


def _places(store: Store, pool: list[str], curated: list[str], extent: _Extent) -> Places:
    for across in _ACROSS:
        grid = extent.grid(across)
        counts = grid.counts(store, pool)
        if extent.points >= _FILLED * np.count_nonzero(counts):
            break
    chosen = grid.counts(store, curated)
    regions = _regions(store, pool, curated, grid, counts) if extent.points <= FEW else []
    return Places(grid, counts, chosen, extent.nowhere, regions)


def has_places(store: Store, pool: list[str]) -> bool:
    """Whether rows of the pool have columns of longitude and latitude."""
    return {"lon", "lat"} <= {*store.metadata(pool[0]).schema.to_arrow_schema().names}


def _lon_lat(store: Store, file: str) -> tuple[NDArray[np.float64], NDArray[np.float64], int]:
    """Longitudes and latitudes of the rows of a file that have them, shape (n,) each; how many have none."""
    table = store.read_table(file, ["lon", "lat"])
    lon, lat = (table[name].to_numpy().astype(np.float64) for name in ("lon", "lat"))
    placed = np.isfinite(lon) & np.isfinite(lat)
    return lon[placed], lat[placed], int(np.count_nonzero(~placed))


class _Extent:
    """Where the pool begins and ends, degree of longitude by degree."""

    def __init__(self) -> None:
        self.points = self.nowhere = 0
        self._least, self._most = np.full(360, np.inf), np.full(360, -np.inf)
        self._south, self._north, self._steepness = 90.0, -90.0, 0.0

    def add(self, lon: NDArray[np.float64], lat: NDArray[np.float64], nowhere: int) -> None:
        """Take in points, shape (n,) each, and a number of samples without a place."""
        self.points, self.nowhere = self.points + len(lon), self.nowhere + nowhere
        if len(lon):
            lon = lon % 360 % 360  # of a tiny negative number, the first alone makes 360
            degree = lon.astype(np.int64) % 360
            np.minimum.at(self._least, degree, lon)
            np.maximum.at(self._most, degree, lon)
            self._south, self._north = min(self._south, lat.min()), max(self._north, lat.max())
            self._steepness += float(np.abs(lat).sum())

    def grid(self, across: int) -> Grid:
        """Cells over all points, about so many along the longer side."""
        there = np.isfinite(self._least)
        least, most = self._least[there], self._most[there]
        frame = Frame(_cut(least, most), min(self._steepness / self.points, _STEEPEST))
        left, right = frame.x(least).min(), frame.x(most).max()
        bottom, top = frame.y(np.array([self._south, self._north]))
        side = _round_up(max(right - left, top - bottom, _LEAST) * frame.km / across) / frame.km
        columns, rows = int((right - left) / side) + 1, int((top - bottom) / side) + 1
        left, bottom = left - (columns * side - right + left) / 2, bottom - (rows * side - top + bottom) / 2
        return Grid(frame, float(left), float(bottom), side, columns, rows)


def _cut(least: NDArray[np.float64], most: NDArray[np.float64]) -> float:
    """The longitude at which a map of these stretches of it, in order from 0 to 360, is best cut open."""
    gaps = np.append(least[1:], least[0] + 360) - most
    widest = gaps.argmax()
    if gaps[widest] < _NO_GAP or (180 - most[widest]) % 360 <= gaps[widest]:
        return -180.0
    return float((most[widest] + gaps[widest] / 2 + 180) % 360 - 180)


def _round_up(value: float) -> float:
    """The next of 1, 2, 5, 10, 20, ..."""
    power = 10.0 ** np.floor(np.log10(value))
    return float(power * next(step for step in (1, 2, 5, 10) if step * power >= value * (1 - 1e-9)))


def _regions(
    store: Store, pool: list[str], curated: list[str], grid: Grid, counts: NDArray[np.int64]
) -> list[Region]:
    """The regions of a pool with most samples and their footprints, if there are any to be had."""
    try:
        from pipelines.footprints import COLUMNS, Ring, footprints
    except RequestError:  # as it says, rasterio is missing; cells need none
        return []
    names = store.metadata(pool[0]).schema.to_arrow_schema().names
    if not {*COLUMNS} <= {*names}:
        return []
    wanted = ["lon", "lat", *COLUMNS, *({"corners"} & {*names})]
    labels: NDArray[np.int64] = ndimage.label(counts, structure=np.ones((3, 3)))[0].ravel().astype(np.int64)

    def located(files: list[str]) -> tuple[NDArray[np.float64], NDArray[np.int64], list[list[Ring]]]:
        """Middle (n, 2), label (n,) and footprint of each sample with a place."""
        table = pa.concat_tables([store.read_table(file, wanted) for file in files])
        middle = np.stack([table[name].to_numpy().astype(np.float64) for name in ("lon", "lat")], axis=1)
        placed = np.isfinite(middle).all(axis=1)
        middle = middle[placed]
        return middle, labels[grid.cells(*middle.T)], footprints(table.filter(pa.array(placed)))

    (middle, label, rings), (_, chosen_label, chosen_rings) = located(pool), located(curated)
    sizes = np.bincount(label)
    found = []
    for region in np.argsort(-sizes, kind="stable")[:REGIONS]:
        here, chosen = np.flatnonzero(label == region), np.flatnonzero(chosen_label == region)
        if len(here):
            lon, lat = float(grid.frame.x(middle[here, 0]).mean()), float(middle[here, 1].mean())
            frame = Frame(lon - 180, float(np.clip(lat, -_STEEPEST, _STEEPEST)))
            lines = [
                [frame.line(ring) for row in rows.tolist() for ring in of[row]]
                for rows, of in ((here, rings), (chosen, chosen_rings))
            ]
            found.append(Region(frame, lon, lat, len(here), len(chosen), (lines[0], lines[1])))
    return [region for region in found if region.lines[0]]
