"""Where on Earth does a sample lie? Its footprint as polygons in longitude and latitude (EPSG:4326).

A footprint that crosses the antimeridian is cut there into several polygons (RFC 7946, section 3.1.9), and
one around a pole reaches up to it. GDAL cuts as well (`transform_geom`), but neither in EPSG:4326 beyond 180
degrees nor in Web Mercator, and it loses half of a square with a pole on its side.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.errors import RequestError

try:
    from rasterio.crs import CRS
    from rasterio.warp import transform
except ImportError as error:
    raise RequestError(
        "footprints need rasterio, which is not installed: install evenset[satellite], or leave geoparquet"
        " out of export.formats"
    ) from error

COLUMNS = ("crs", "bounds")
"""What a modality says of its samples where they have footprints; see `modalities.base.Modality.columns`."""

PIECES = 8
"""Straight pieces that each side becomes: one of 100 km in UTM, 60 degrees from the equator, then strays from
the true one by 5 m (the sagitta falls with the square of the pieces)."""

LON_LAT = CRS.from_epsg(4326)

_NEAR = 1e-9
"""Degrees that are none, a tenth of a millimetre."""

_HALF_A_TURN = 1e-6
"""Degrees by which the meridians beside a pole may differ from 180, where a side goes through it."""

Ring = NDArray[np.float64]
"""Longitude and latitude in degrees, shape (m, 2), counterclockwise, the first point again at the end."""

Points = NDArray[np.float64]
"""The same, shape (m, 2), either way round, and without the first point again."""


def footprints(about: pa.Table) -> list[list[Ring]]:
    """The footprint of each row as the rings of its polygons, none where it has no place.

    Args:
        about: a row a sample, with the columns `COLUMNS`, and ``corners`` where samples may stand askew.
    """
    found: list[list[Ring]] = [[] for _ in range(about.num_rows)]
    corners = _corners(about)
    places = np.array(about["crs"].to_pylist(), dtype=object)
    placed = np.array([crs is not None for crs in places], bool) & np.isfinite(corners).all(axis=(1, 2))
    for crs in sorted({*places[placed]}):
        rows = np.flatnonzero(placed & (places == crs))
        for row, points in zip(rows.tolist(), _lon_lat(crs, _sides(corners[rows])), strict=True):
            if np.isfinite(points).all():
                found[row] = [_closed(piece) for piece in _cut(_unrolled(points))]
    return found


def _corners(about: pa.Table) -> NDArray[np.float64]:
    """Corners in their CRS, shape (n, 4, 2); NaN where there are none."""
    corners = np.full((about.num_rows, 4, 2), np.nan)
    for row, bounds in enumerate(about["bounds"].to_pylist()):
        if bounds is not None:
            west, south, east, north = bounds
            corners[row] = [(west, north), (west, south), (east, south), (east, north)]
    for row, askew in enumerate(about["corners"].to_pylist() if "corners" in about.column_names else []):
        if askew is not None:
            corners[row] = np.reshape(askew, (4, 2))
    return corners


def _sides(corners: NDArray[np.float64]) -> NDArray[np.float64]:
    """Points along the sides between corners (n, 4, 2): shape (n, 4 `PIECES`, 2)."""
    along = np.arange(PIECES)[:, None] / PIECES
    sides = corners[:, :, None] + along * (np.roll(corners, -1, axis=1) - corners)[:, :, None]
    return sides.reshape(len(corners), -1, 2)


def _lon_lat(crs: str, points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Points (n, m, 2) of a CRS in longitude and latitude; NaN for all of a row that leaves Earth."""
    try:
        lon, lat = transform(crs, LON_LAT, *points.reshape(-1, 2).T)[:2]
    except Exception:  # of PROJ, of many types, for one point among many
        if len(points) == 1:
            return np.full(points.shape, np.nan)
        return np.concatenate([_lon_lat(crs, row[None]) for row in points])
    return np.stack([lon, np.clip(lat, -90, 90)], axis=1).reshape(points.shape)


def _unrolled(points: Points) -> Points:
    """The same area with longitudes that run on beyond 180 degrees, where they would jump."""
    steps = np.roll(points[:, 0], -1) - points[:, 0]
    if len(through := np.flatnonzero(abs(abs(steps) % 360 - 180) < _HALF_A_TURN)):
        points = np.insert(points, through[0] + 1, [0, np.copysign(90, points[through[0], 1])], axis=0)
    at_pole = abs(points[:, 1]) > 90 - _NEAR
    alone = np.flatnonzero(at_pole & ~np.roll(at_pole, 1) & ~np.roll(at_pole, -1))
    if len(alone):  # its longitude is that of any meridian; those beside it are right
        points = np.roll(points, -alone[0], axis=0)
        return _up_to(points[0, 1], _run_on(points[1:]))
    once_round = _run_on(np.concatenate([points, points[:1]]))
    turn = once_round[-1, 0] - once_round[0, 0]
    if abs(turn) < 180:
        return once_round[:-1]
    pole = float(np.copysign(90.0, once_round[:, 1].mean()))
    eastwards = once_round if turn > 0 else once_round[::-1]
    start = 180 + 360 * np.ceil((eastwards[0, 0] - 180) / 360)  # a cut here is one where the map ends anyway
    seam = np.array([start, np.interp(start, *eastwards.T)])
    round_once = np.array([360, 0])
    before, after = (eastwards[:-1][side] for side in (eastwards[:-1, 0] < start, eastwards[:-1, 0] > start))
    return _up_to(pole, np.concatenate([[seam], after, before + round_once, [seam + round_once]]))


def _run_on(points: Points) -> Points:
    return np.stack([np.unwrap(points[:, 0], period=360), points[:, 1]], axis=1)


def _up_to(pole: float, points: Points) -> Points:
    """The area between an open line and a pole."""
    return np.concatenate([points, [(points[-1, 0], pole), (points[0, 0], pole)]])


def _cut(points: Points) -> list[Points]:
    """The pieces of an area that end at 180 degrees, each with longitudes in [-180, 180]."""
    seam = 180 * np.round(points[:, 0] / 180)
    points[:, 0] = np.where(abs(points[:, 0] - seam) < _NEAR, seam, points[:, 0])
    first, last = np.floor((points[:, 0].min() + 180) / 360), np.ceil((points[:, 0].max() + 180) / 360)
    turns = 360 * np.arange(first, max(last, first + 1))
    return [_east_of(_east_of(points, t - 180), t + 180, -1) - [t, 0] for t in turns]


def _east_of(points: Points, lon: float, sign: int = 1) -> Points:
    """The part of an area on one side of a meridian (Sutherland and Hodgman, CACM 1974)."""
    inside = sign * (points[:, 0] - lon) >= 0
    onwards = np.roll(points, -1, axis=0) - points
    crosses = inside != np.roll(inside, -1)
    share = np.divide(lon - points[:, 0], onwards[:, 0], out=np.zeros(len(points)), where=crosses)
    crossing = np.stack([np.full(len(points), lon), points[:, 1] + share * onwards[:, 1]], axis=1)
    part: Points = np.stack([points, crossing], axis=1)[np.stack([inside, crosses], axis=1)]
    return part


def _closed(points: Points) -> Ring:
    ring = np.concatenate([points, points[:1]])
    x, y = (ring - ring[0]).T  # near the origin, where the area is not lost in rounding
    return ring if np.sum(x[:-1] * y[1:] - x[1:] * y[:-1]) > 0 else ring[::-1]
