"""The map of the report: cells of one area, nothing lost, no place torn apart; and no map without places."""

import json

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.report import maps
from pipelines.report.places import Frame, Grid, read_places
from pipelines.store import Store

from .finished import Run

DEGREES = st.tuples(st.floats(-180, 179.99), st.floats(-90, 90))


def surveyed(folder, lon_lat, curated=(0,)):
    """Places of a pool of points (n, 2), of which some are curated."""
    store = Store(str(folder))
    points = np.array(lon_lat, np.float64).reshape(-1, 2)
    for name, rows in (("pool", np.arange(len(points))), ("curated", np.array(curated, np.int64))):
        write(store, name, points[rows])
    return read_places(store, ["pool"], ["curated"], lambda: None)


def write(store, name, points):
    store.write_table(name, pa.table({"lon": points[:, 0], "lat": points[:, 1]}))


@given(points=st.lists(DEGREES, min_size=1, max_size=60))
def test_every_sample_with_a_place_is_in_one_cell(tmp_path_factory, points):
    places = surveyed(tmp_path_factory.mktemp("run"), points, range(0, len(points), 2))
    assert places.pool.sum() == len(points)
    assert places.curated.sum() == len(range(0, len(points), 2))
    assert (places.curated <= places.pool).all()
    assert places.pool.size <= 130**2
    for _, _, aspect, figure in maps.overview(places):
        json.dumps(figure, allow_nan=False)
        assert 0 < aspect < 1e6


@pytest.mark.parametrize("centre", [180, -179, 0, 100])
def test_a_pool_around_any_longitude_is_one_piece(tmp_path, centre):
    lon = (centre + np.linspace(-2, 2, 300) + 180) % 360 - 180
    places = surveyed(tmp_path, np.stack([lon, np.linspace(-18, -14, 300)], axis=1))
    assert places.grid.side * places.grid.columns < 6
    x = places.grid.frame.x(lon)
    assert (np.diff(x) > 0).all()


def test_a_region_has_its_shape_and_a_cell_its_kilometres():
    frame = Frame(-180.0, 60.0)
    one_degree = frame.y(np.array([59.5, 60.5]))
    assert np.diff(one_degree)[0] == pytest.approx(
        2, rel=1e-3
    )  # at 60 degrees, where one of longitude is half
    assert frame.km == pytest.approx(55.6, rel=1e-3)
    # a square of the map has one area anywhere: that of the sphere between two latitudes and two longitudes
    for bottom in (-100.0, 0.0, 150.0):
        south, north = (np.sin(np.arcsin(y / frame.y(np.array(90.0)))) for y in (bottom, bottom + 1))
        square = 6_371.0**2 * (north - south) * np.radians(1)
        assert square == pytest.approx(frame.km**2, rel=1e-3)


def test_a_polygon_at_the_edge_of_the_map_is_not_torn():
    frame = Frame(150.0, 0.0)
    pieces = [np.array([[179.0, 0], [180, 0], [180, 1]]), np.array([[-180.0, 0], [-179, 0], [-180, 1]])]
    first, second = (frame.line(piece)[:, 0] for piece in pieces)
    assert (first.max(), second.min()) == (180, 180)
    assert Frame(-180.0, 0.0).line(pieces[0])[:, 0].max() == 180


def test_a_random_draw_reaches_about_as_many_cells_as_it_says(tmp_path):
    random = np.random.default_rng(0)
    points = np.concatenate([random.normal(10, 0.3, (900, 2)), random.uniform(5, 15, (100, 2))])
    draws = [random.choice(1000, 100, replace=False) for _ in range(20)]
    said = [surveyed(tmp_path, points, rows).metrics() for rows in draws]
    assert np.mean([one["curated_cells"] for one in said]) == pytest.approx(said[0]["random_cells"], rel=0.05)


def test_samples_without_a_place_are_counted(tmp_path):
    places = np.random.default_rng(0).normal([11, 48], 1, (1300, 2))
    places[::10] = np.nan
    run = Run(tmp_path, places=places)
    _, metrics = run.report()
    assert metrics["places"]["nowhere"] == 130
    assert "130 samples of the pool have no place" in run.html
    assert metrics["places"]["pool_cells"] >= metrics["places"]["curated_cells"] > 0


@pytest.mark.parametrize("places", [None, np.full((1300, 2), np.nan)])
def test_where_nothing_has_a_place_there_is_no_map(tmp_path, places):
    run = Run(tmp_path, places=places)
    _, metrics = run.report()
    assert metrics["places"] is None
    assert "Where it lies" not in run.html


def test_cells_are_counted_by_row_and_column():
    grid = Grid(Frame(-180.0, 0.0), 0.0, 0.0, 1.0, 3, 2)
    assert grid.cells(np.array([0.5, 2.5, 2.6]), np.array([0.5, 1.5, 1.5])).tolist() == [0, 5, 5]


def test_the_fullest_regions_show_their_footprints(tmp_path):
    """Three blocks of 20, 10 and 5 chips far apart, the second across the antimeridian."""
    store, rows = Store(str(tmp_path)), []
    for (lon, lat), count in {(11.0, 48.0): 20, (179.97, -17.0): 10, (-60.0, 5.0): 5}.items():
        for i in range(count):
            west = lon + 0.01 * i
            middle = (west + 0.005 + 180) % 360 - 180
            bounds = [west, lat, west + 0.01, lat + 0.01]
            rows.append({"lon": middle, "lat": lat + 0.005, "crs": "EPSG:4326", "bounds": bounds})
    store.write_table("pool", pa.Table.from_pylist(rows))
    store.write_table("curated", pa.Table.from_pylist(rows[:4]))
    places = read_places(store, ["pool"], ["curated"], lambda: None)
    assert [(region.samples, region.curated) for region in places.regions] == [(20, 4), (10, 0), (5, 0)]
    for region, (heading, _, _) in zip(places.regions, maps.regions(places), strict=True):
        points = np.concatenate(region.lines[0])
        assert np.ptp(points[:, 0]) == pytest.approx(0.01 * region.samples)
        assert {len(line) for line in region.lines[0]} >= {33}
        assert heading
    assert [len(region.lines[1]) for region in places.regions] == [4, 0, 0]
