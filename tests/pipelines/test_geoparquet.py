"""Curated scenes as GeoParquet: what GeoPandas and a validator of the format make of them."""

import io
import json

import geoparquet_validator
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rasterio.transform import Affine

from pipelines.geoparquet import geoparquet
from pipelines.manifest import read_manifest
from pipelines.store import Store
from tests.modalities.scenes import values, write_scene

from .conftest import rows_of

geopandas = pytest.importorskip("geopandas")


def located(crs, *bounds):
    """GeoParquet of samples with these bounds, and its metadata."""
    places = pa.array(bounds, pa.list_(pa.float64(), 4))
    known = [crs if one else None for one in bounds]
    table = geoparquet(pa.table({"id": [str(i) for i in range(len(bounds))], "crs": known, "bounds": places}))
    return table, json.loads(table.schema.metadata[b"geo"])["columns"]["geometry"]


def check(name, content):
    """The verdict of the validator of the GeoParquet project."""
    report = geoparquet_validator.check_bytes(name, content)
    passed = {outcome["id"] for outcome in report["outcomes"] if outcome["status"] == "pass"}
    assert not geoparquet_validator.failed(report), report
    assert any("/covering/" in one for one in passed)
    return report


def as_file(table):
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


def test_every_kind_of_footprint_is_valid():
    table, about = located("EPSG:4326", [1, 2, 3, 4], None, [179, -17, 181, -16], [-178, -18, -177, -17])
    check("mixed", as_file(table))
    assert about["geometry_types"] == ["Polygon", "MultiPolygon"]
    assert table["geometry"].null_count == table["bbox"].null_count == 1
    frame = geopandas.read_parquet(io.BytesIO(as_file(table)))
    assert frame.crs == "EPSG:4326"
    assert frame.geometry.dropna().is_valid.all()
    assert [geometry.area for geometry in frame.geometry[[0, 2]]] == pytest.approx([4, 2])
    bounds = frame.geometry.bounds.to_numpy()[[0, 2, 3]]
    boxes = [list(box.values()) for box in table["bbox"].to_pylist() if box]
    np.testing.assert_allclose(bounds, boxes)


def test_a_box_across_the_antimeridian_has_its_west_east_of_its_east():
    pacific = located("EPSG:4326", [179, -17, 181, -16], [-178, -18, -177, -17])
    assert pacific[1]["bbox"] == [179, -18, -177, -16]
    check("pacific", as_file(pacific[0]))
    assert located("EPSG:4326", [1, 2, 3, 4], [-5, 0, -4, 1])[1]["bbox"] == [-5, 0, 3, 4]
    assert located("EPSG:4326", [-180, 2, 180, 4], [179, 1, 181, 3])[1]["bbox"] == [-180, 1, 180, 4]


def test_nothing_with_a_place_is_a_valid_file_too():
    table, about = located("EPSG:4326", None, None)
    report = geoparquet_validator.check_bytes("empty", as_file(table))
    assert not geoparquet_validator.failed(report, "core"), report
    assert "bbox" not in about


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Tiles in UTM, in degrees across the antimeridian, askew, and without a place."""
    folder = tmp_path_factory.mktemp("scenes")
    for i in range(24):
        write_scene(folder / f"utm{i}.tif", values(3, 16, 16, seed=i), corner=(500_000 + 160 * i, 5_600_000))
    degrees = Affine(0.01, 0, 179.92, 0, -0.01, -16.0)
    write_scene(folder / "fiji.tif", values(3, 16, 16, seed=31), crs="EPSG:4326", transform=degrees)
    askew = Affine.translation(400_000, 5_000_000) @ Affine.rotation(30) @ Affine.scale(10, -10)
    write_scene(folder / "askew.tif", values(3, 16, 16, seed=32), transform=askew)
    for i in range(2):
        write_scene(folder / f"nowhere{i}.tif", values(3, 16, 16, seed=40 + i), crs=None)
    tiles = sorted(folder.iterdir())
    table = {"name": [tile.name for tile in tiles], "image": [tile.read_bytes() for tile in tiles]}
    pq.write_table(pa.table(table), folder / "tiles.parquet", row_group_size=10)
    return folder / "tiles.parquet"


@pytest.mark.slow
def test_a_curated_set_opens_in_geopandas(evenset, write_config, scenes, tmp_path):
    config = write_config(
        scenes, modality="satellite", source={"id_column": "name"}, sample={"size": 28},
        cluster={"n_clusters": [4]}, export={"formats": ["geoparquet", "ids"]},
    )  # fmt: skip
    told = evenset("run", config)
    assert told.code == 0, told
    run, folder = Store(str(tmp_path / "run")), tmp_path / "run/export/geoparquet"
    assert read_manifest(run, "export").counts["without_place"] == 2
    assert "2 of the 28 curated samples have no footprint" in told.text
    files = sorted(folder.iterdir())
    assert len(files) == 3
    for file in files:
        check(file.name, file.read_bytes())

    frame = geopandas.read_parquet(folder).set_index("id")
    assert frame.crs.to_epsg() == 4326
    assert sorted(frame.index) == sorted((tmp_path / "run/export/ids.txt").read_text().split())
    assert frame.index[frame.geometry.isna()].tolist() == ["nowhere0.tif", "nowhere1.tif"]
    metres = frame.loc[["utm0.tif", "utm7.tif", "askew.tif"]].to_crs("EPSG:32633").geometry
    assert metres.area.tolist() == pytest.approx([160**2] * 3, rel=1e-6)
    assert metres["utm7.tif"].bounds == pytest.approx((501_120, 5_599_840, 501_280, 5_600_000), abs=0.01)
    assert frame.geometry["fiji.tif"].geom_type == "MultiPolygon"
    assert frame.geometry["fiji.tif"].area == pytest.approx(0.16**2)
    curated = rows_of(run, "curated")
    assert all(curated[id]["weight"] == row["weight"] for id, row in frame.iterrows())

    # killed between a part and its index, the same rows come out
    before = [pq.read_table(file) for file in files]
    run.delete("export/_manifest.json")
    run.delete("export/index/part-00001.parquet")
    files[1].write_bytes(b"half of")
    assert "export: resumed" in evenset("export", config).text
    assert [pq.read_table(file) for file in files] == before

    # and the report draws the footprints
    page, places = (
        run.read_bytes("report.html").decode(),
        json.loads(run.read_bytes("metrics.json"))["places"],
    )
    assert '"fill": "toself"' in page
    assert places["nowhere"] == 2
    assert places["curated_cells"] == places["pool_cells"]


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"modality": "image"}, "geoparquet needs places on Earth, which modality 'image' has not"),
        ({"modality": "text", "source": {"format": "txt"}}, "modality 'text' has not"),
        ({"source": {"format": "embeddings"}}, "a pool of embeddings has not"),
    ],
)
def test_what_lies_nowhere_is_refused(refused, write_config, tmp_path, digits, sections, said):
    pool = tmp_path / "pool"
    pool.mkdir()
    for i, payload in enumerate(digits[:9]):
        (pool / f"{i}.png").write_bytes(payload)
        (pool / f"{i}.txt").write_text(str(i))
    np.save(pool / "all.npy", np.eye(9, dtype=np.float32))
    config = write_config(pool, export={"formats": ["geoparquet"]}, sample={"size": 3}, **sections)
    assert said in refused("run", config)


def test_columns_of_its_own_are_not_kept_from_the_pool(refused, write_config, tmp_path, digits):
    pq.write_table(pa.table({"image": digits[:9], "geometry": ["x"] * 9}), tmp_path / "pool.parquet")
    config = write_config(
        tmp_path / "pool.parquet", modality="satellite", export={"formats": ["geoparquet"]},
        source={"column": "image", "keep": ["geometry"]}, sample={"size": 3},
    )  # fmt: skip
    assert "source.keep: 'geometry' is a column of GeoParquet's own" in refused("run", config)
