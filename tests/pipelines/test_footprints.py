"""Footprints in longitude and latitude: right to the centimetre, cut at 180 degrees, closed at the poles."""

import numpy as np
import pyarrow as pa
import pytest

from pipelines.footprints import footprints

METRES = 111_195.0  # a degree of a sphere with Earth's mean radius


def rings_of(crs, bounds, corners=None):
    """Rings of one sample."""
    table = {"crs": [crs], "bounds": pa.array([bounds], pa.list_(pa.float64(), 4))}
    if corners is not None:
        table["corners"] = pa.array([np.ravel(corners).tolist()], pa.list_(pa.float64(), 8))
    (rings,) = footprints(pa.table(table))
    return rings


def utm(lon, lat, zone):
    """Easting and northing on WGS 84, north of the equator: Krueger's series (1912), to the third order."""
    f, a, k = 1 / 298.257223563, 6_378_137.0, 0.9996
    n = f / (2 - f)
    radius = a / (1 + n) * (1 + n**2 / 4 + n**4 / 64)
    series = (n / 2 - 2 / 3 * n**2 + 5 / 16 * n**3, 13 / 48 * n**2 - 3 / 5 * n**3, 61 / 240 * n**3)
    phi, east = np.radians(lat), np.radians(lon - (6 * zone - 183))
    c = 2 * np.sqrt(n) / (1 + n)
    t = np.sinh(np.arctanh(np.sin(phi)) - c * np.arctanh(c * np.sin(phi)))
    xi, eta = np.arctan2(t, np.cos(east)), np.arctanh(np.sin(east) / np.hypot(1, t))
    x = eta + sum(s * np.cos(2 * j * xi) * np.sinh(2 * j * eta) for j, s in enumerate(series, 1))
    y = xi + sum(s * np.sin(2 * j * xi) * np.cosh(2 * j * eta) for j, s in enumerate(series, 1))
    return 500_000 + k * radius * x, k * radius * y


def area(rings):
    """Signed area in square degrees of polygons as they lie on a plane."""
    return sum(np.sum(x[:-1] * y[1:] - x[1:] * y[:-1]) / 2 for x, y in (np.asarray(ring).T for ring in rings))


def area_on_sphere(rings):
    """Square metres, on a sphere: that of the cylinder around it (Archimedes)."""
    flat = [np.stack([ring[:, 0], np.degrees(np.sin(np.radians(ring[:, 1])))], axis=1) for ring in rings]
    return area(flat) * METRES**2


def test_a_square_of_utm_has_its_corners_and_its_sides():
    west, south, side = 660_000, 6_600_000, 100_000
    (ring,) = rings_of("EPSG:32633", [west, south, west + side, south + side])
    easting, northing = utm(*ring.T, 33)
    corners = {(west, south), (west + side, south), (west + side, south + side), (west, south + side)}
    rounded = {(round(x, 2), round(y, 2)) for x, y in zip(easting, northing, strict=True)}
    assert corners <= rounded
    middle = (ring[1:] + ring[:-1]) / 2  # where the straight pieces stray most
    for lon_lat in (ring, middle):
        x, y = (np.array(utm(*lon_lat.T, 33)).T - [west, south]).T
        off = np.minimum(np.minimum(abs(x), abs(x - side)), np.minimum(abs(y), abs(y - side)))
        assert off.max() < 1e-4 * side
    assert area([ring]) > 0  # counterclockwise


def test_degrees_stay_as_they_are():
    (ring,) = rings_of("EPSG:4326", [11.5, 48.0, 11.75, 48.125])
    assert ring.min(axis=0).tolist() == [11.5, 48.0]
    assert ring.max(axis=0).tolist() == [11.75, 48.125]
    assert area([ring]) == pytest.approx(0.25 * 0.125)
    assert ring[0].tolist() == ring[-1].tolist()


@pytest.mark.parametrize("bounds", [[179.5, -17, 180.5, -16], [-180.5, -17, -179.5, -16]])
def test_degrees_beyond_180_are_cut(bounds):
    rings = rings_of("EPSG:4326", bounds)
    spans = sorted((ring[:, 0].min(), ring[:, 0].max()) for ring in rings)
    assert spans == [(-180, -179.5), (179.5, 180)]
    assert area(rings) == pytest.approx(1)


def test_the_whole_earth_is_one_rectangle():
    (ring,) = rings_of("EPSG:4326", [-180, -90, 180, 90])
    assert area([ring]) == pytest.approx(360 * 180)


@pytest.mark.parametrize("east", [20_037_508.342789244, 20_037_508.34])
def test_a_tile_of_the_web_that_ends_at_180_degrees_is_whole(east):
    (ring,) = rings_of("EPSG:3857", [east - 1000, 0, east, 1000])
    assert ring[:, 0].max() == pytest.approx(180, abs=1e-7)
    assert len(rings_of("EPSG:3857", [east - 1000, 0, east + 1000, 1000])) == 2


def test_degrees_from_0_to_360_become_west():
    (ring,) = rings_of("EPSG:4326", [190, 10, 191, 11])
    assert (ring[:, 0].min(), ring[:, 0].max()) == (-170, -169)


def test_a_square_of_utm_is_cut_at_the_antimeridian():
    west, side = 810_000, 60_000  # at the equator zone 60 ends at 833,978.6 m
    rings = rings_of("EPSG:32660", [west, 10_000, west + side, 10_000 + side])
    assert len(rings) == 2
    eastern, western = sorted(rings, key=lambda ring: -ring[:, 0].max())
    assert eastern[:, 0].max() == 180
    assert western[:, 0].min() == -180
    assert eastern[:, 0].min() > 179
    assert western[:, 0].max() < -179
    for ring in rings:
        assert area([ring]) > 0
        x, y = utm(ring[:, 0] % 360, ring[:, 1], 60)
        inside = (abs(ring[:, 0]) == 180) | (abs(x - west - side / 2) > side / 2 - 0.1)
        assert (inside | (abs(y - 10_000 - side / 2) > side / 2 - 0.1)).all()
    assert area_on_sphere(rings) == pytest.approx(side**2, rel=0.01)


@pytest.mark.parametrize(("crs", "pole"), [("EPSG:3413", 90), ("EPSG:3031", -90)])
@pytest.mark.parametrize("corner", [(-50_000, -40_000), (0, 0), (-100_000, -30_000), (20_000, -50_000)])
def test_a_square_on_or_beside_a_pole_reaches_it(crs, pole, corner):
    side = 100_000
    west, south = corner
    rings = rings_of(crs, [west, south, west + side, south + side])
    reach = max(abs(ring[:, 1]).max() for ring in rings)
    assert (reach > 90 - 1e-6) == (west <= 0 <= west + side and south <= 0 <= south + side)
    assert {np.sign(ring[:, 1]).min() for ring in rings} == {np.sign(pole)}
    scale = 0.97  # of both, at the pole
    assert area_on_sphere(rings) == pytest.approx((side / scale) ** 2, rel=0.02)


def test_a_chip_that_stands_askew_has_its_own_corners():
    corners = [(500_000, 5_000_100), (499_900, 5_000_000), (500_000, 4_999_900), (500_100, 5_000_000)]
    (ring,) = rings_of("EPSG:32633", [499_900, 4_999_900, 500_100, 5_000_100], corners)
    assert area_on_sphere([ring]) == pytest.approx(20_000, rel=0.01)
    assert area([ring]) > 0


def test_what_has_no_place_has_no_footprint_and_costs_no_other_its_own():
    table = pa.table(
        {
            "crs": [None, "EPSG:4326", "+proj=geos +h=35785831 +sweep=x", "EPSG:32633"],
            "bounds": pa.array(
                [None, [0, 0, 1, 1], [5e6, 5e6, 5.4e6, 5.4e6], [500_000, 0, 500_100, 100]],
                pa.list_(pa.float64(), 4),
            ),
        }
    )
    assert [len(rings) for rings in footprints(table)] == [0, 1, 0, 1]  # the third looks past Earth
    assert footprints(table.slice(0, 0)) == []
