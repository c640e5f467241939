"""Where on Earth is a longitude and a latitude: as a point in metres, and in which cell of a grid?

Both are the same bits on every machine: sines are made of sums and products alone, since those of libraries
differ in their last bit.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

EQUATOR = 6_378_137.0
"""Radius at the equator of the WGS 84 ellipsoid, metres."""

_FLATTENING = 1 / 298.257223563
_SQUEEZE = (1 - _FLATTENING) ** 2

RADIUS = 6_371_008.8
"""Mean radius, metres (IUGG)."""

MOST = 10_000_000.0
"""The largest distance, metres: from a pole to the equator."""

_TERMS = 18
"""Highest power of the sine's series that is left after x: the next is below 1e-20 on an eighth of a turn."""


def sine_and_cosine(degrees: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the sine and the cosine of angles in degrees, to within two units of their last place."""
    quarter = np.rint(degrees / 90)
    x = (degrees - 90 * quarter) * (np.pi / 180)  # the subtraction is exact
    square = x * x
    sine, cosine = np.ones_like(x), np.ones_like(x)
    for n in range(_TERMS, 0, -2):
        sine = 1 - square / (n * (n + 1)) * sine
        cosine = 1 - square / ((n - 1) * n) * cosine
    sine = x * sine
    turn = quarter % 4
    sine, cosine = np.where(turn % 2 == 0, sine, cosine), np.where(turn % 2 == 0, cosine, sine)
    return np.where(turn >= 2, -sine, sine), np.where((turn == 1) | (turn == 2), -cosine, cosine)


def points(lon: NDArray[np.float64], lat: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return points (n, 3), in metres from the Earth's centre, on the WGS 84 ellipsoid.

    Neither the poles nor the antimeridian are special there. NaN stays NaN.

    Args:
        lon: longitudes (n,) in degrees, EPSG:4326.
        lat: latitudes (n,); what lies beyond a pole is taken to be there.
    """
    sin_lon, cos_lon = sine_and_cosine(lon)
    sin_lat, cos_lat = sine_and_cosine(np.clip(lat, -90, 90))
    normal = EQUATOR / np.sqrt(1 - (1 - _SQUEEZE) * sin_lat * sin_lat)
    return np.stack(
        [normal * cos_lat * cos_lon, normal * cos_lat * sin_lon, normal * _SQUEEZE * sin_lat], axis=1
    )


def straight(metres: float) -> float:
    """Return the length of the straight line between points that are so far apart over the ground.

    Up to 100 km it is right to a millionth, as on a sphere; beyond, to half a percent.

    Args:
        metres: at most `MOST`.
    """
    half_angle = np.array([metres / (2 * RADIUS) * (180 / np.pi)])
    return float(2 * RADIUS * sine_and_cosine(half_angle)[0][0])


def cells(lon: NDArray[np.float64], lat: NDArray[np.float64], metres: float) -> NDArray[np.int64]:
    """Return the cell (n,) of a grid of about equal squares in which each point lies; -1 where it is NaN.

    Bands of latitude are cut into as many cells as makes them about as wide as high, so that cells have about
    one area up to the poles, and one of them ends at the antimeridian.

    Args:
        lon: longitudes (n,) in degrees.
        lat: latitudes (n,).
        metres: sides of a cell, from 1 to `MOST`.
    """
    bands = max(1, round(np.pi * RADIUS / metres))
    known = np.isfinite(lon) & np.isfinite(lat)
    lon, lat = np.where(known, lon, 0), np.where(known, lat, 0)
    band = np.clip(np.floor((lat + 90) * (bands / 180)), 0, bands - 1)
    width = 2 * np.pi * RADIUS * sine_and_cosine((band + 0.5) * (180 / bands) - 90)[1]
    around = np.maximum(1, np.rint(width / metres))
    column = np.minimum(np.floor((lon + 180) % 360 * (around / 360)), around - 1)
    found = band.astype(np.int64) * (4 * bands) + column.astype(np.int64)
    return np.where(known, found, -1)
