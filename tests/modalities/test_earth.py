"""Distances are those of the ellipsoid and cells have one area, even at poles and antimeridian."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modalities.earth import MOST, RADIUS, cells, points, sine_and_cosine, straight

LON, LAT = st.floats(-180, 180), st.floats(-90, 90)


def between(one, other):
    """Metres of the straight line from (lon, lat) to (lon, lat)."""
    ends = points(*np.array([one, other], float).T)
    return float(np.linalg.norm(ends[0] - ends[1]))


def test_sines_are_those_of_numpy():
    angles = np.concatenate(
        [np.linspace(-540, 540, 40_001), np.random.default_rng(0).uniform(-360, 360, 40_000)]
    )
    exact = np.deg2rad(angles.astype(np.longdouble))
    for ours, theirs in zip(sine_and_cosine(angles), (np.sin(exact), np.cos(exact)), strict=True):
        assert np.abs(ours - theirs).max() < 3e-16
    assert sine_and_cosine(np.array([0.0, 90, 180, 270]))[0].tolist() == [0, 1, 0, -1]


@pytest.mark.parametrize(
    ("one", "other", "metres"),
    [
        ((0, 0), (0.001, 0), 111.319),
        ((0, 0), (0, 0.001), 110.574),
        ((12, 90), (12, 89.999), 111.694),
        ((25, 60), (25.001, 60), 55.800),
        ((179.9995, 0), (-179.9995, 0), 111.319),
        ((-180, 40), (180, 40), 0),
        ((0, 90), (123, 90), 0),
        ((0, 89.9995), (180, 89.9995), 111.694),
    ],
)
def test_distances_are_those_of_the_ellipsoid(one, other, metres):
    """Lengths of a thousandth of a degree, as tables of WGS 84 have them."""
    assert between(one, other) == pytest.approx(metres, abs=2e-3)


@given(LON, LAT, LON, LAT)
def test_straight_lines_over_the_ground_are_within_half_a_percent(lon, lat, other_lon, other_lat):
    half = [np.deg2rad(x) / 2 for x in (other_lat - lat, other_lon - lon)]
    h = np.sin(half[0]) ** 2 + np.cos(np.deg2rad(lat)) * np.cos(np.deg2rad(other_lat)) * np.sin(half[1]) ** 2
    ground = 2 * RADIUS * np.arcsin(min(1.0, np.sqrt(h)))
    if ground <= MOST:
        assert between((lon, lat), (other_lon, other_lat)) == pytest.approx(
            straight(ground), rel=6e-3, abs=1e-6
        )


def test_a_short_way_is_straight():
    assert straight(500) == pytest.approx(500, rel=1e-8)
    assert straight(100_000) == pytest.approx(100_000, rel=2e-5)


def test_unknown_places_stay_unknown():
    lon, lat = np.array([np.nan, 1.0, 1.0]), np.array([1.0, np.nan, 1.0])
    assert np.isnan(points(lon, lat)).any(axis=1).tolist() == [True, True, False]
    assert (cells(lon, lat, 1000) < 0).tolist() == [True, True, False]


def test_cells_have_one_area():
    """Of points that lie evenly on a sphere, each cell has about as many."""
    n = 400_000
    i = np.arange(n)
    lat = np.rad2deg(np.arcsin((2 * i + 1) / n - 1))
    lon = (i * 137.50776405003785) % 360 - 180
    _, counts = np.unique(cells(lon, lat, 1e6), return_counts=True)
    assert len(counts) == pytest.approx(4 * np.pi * RADIUS**2 / 1e12, rel=0.02)
    np.testing.assert_allclose(counts, n / len(counts), rtol=0.12)


@given(LON, LAT, st.floats(1, 1e6))
def test_a_cell_is_no_higher_than_its_sides_and_no_longer_than_half_as_much_again(lon, lat, metres):
    """What is farther away, to the north and along a parallel, lies in another cell."""
    up = np.rad2deg(1.01 * metres * 1.2 / RADIUS)
    lats = np.array([lat, lat - up if lat > 0 else lat + up])
    north = cells(np.array([lon, lon]), lats, metres)
    assert north[0] != north[1]
    parallel = 2 * np.pi * RADIUS * np.cos(np.deg2rad(lat))
    if parallel > 8 * metres:
        turn = 360 * 1.5 * metres / parallel
        along = cells(np.array([lon, lon + turn]), np.array([lat, lat]), metres)
        assert along[0] != along[1]


def test_a_grid_does_not_tear_at_the_antimeridian():
    lat = np.linspace(-90, 90, 1001)
    for metres in (1.0, 500.0, 1e6, MOST):
        east, west = (cells(np.full(len(lat), lon), lat, metres) for lon in (180.0, -180.0))
        assert np.array_equal(east, west)
