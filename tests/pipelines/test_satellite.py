"""Whole curations of scenes: the counts add up, and no part of the result hangs on who did which part."""

from datetime import UTC, datetime

import numpy as np
import pytest
from rasterio.warp import transform

from modalities import modality, plugins, source
from modalities.encoders.patches import Patches
from modalities.satellite_settings import SatelliteSettings
from pipelines import encode
from pipelines.fitting import kmeans
from pipelines.manifest import read_manifest
from pipelines.store import Store
from tests.modalities.scenes import CORNER, UTM, values, write_scene

from .conftest import rows_of

SETTINGS = {"chip": 16, "bands": [3, 2, 1]}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Good scenes of 16 bits in UTM, of a day each, and of 8 in degrees, with holes; and bad ones."""
    folder = tmp_path_factory.mktemp("scenes")
    for seed in range(4):
        tags = {"TIFFTAG_DATETIME": f"2020:02:0{seed + 1} 10:30:00"}
        write_scene(folder / f"deep{seed}.tif", values(4, 64, 64, seed=seed), tags=tags)
        holed = values(3, 64, 64, "uint8", seed=seed)
        holed[:, ::4] = 0
        degrees = {"crs": "EPSG:4326", "corner": (-70.0, -8.0), "metres": 0.001}
        write_scene(folder / f"flat{seed}.tif", holed, nodata=0, **degrees)
    write_scene(folder / "empty.tif", np.zeros((3, 32, 32), "uint8"), nodata=0)
    write_scene(folder / "few.tif", values(1))
    write_scene(folder / "nowhere.tif", crs=None)
    (folder / "text.tif").write_text("no scene")
    return folder


def test_tiles_have_the_days_of_their_names(tmp_path):
    for day in ("20200131", "20200201"):
        write_scene(tmp_path / f"S2_{day}.tif", values(3, 16, 16))
    made, encoder = modality("satellite", SatelliteSettings(scale="none")), Patches()
    pool = source("files", str(tmp_path), modality=made)
    read = encode.tabled([record for part in pool.parts() for record in pool.read(part)], {})
    encoder.fit([made.decode(payload) for payload in read["payload"].to_pylist()], kmeans, 0)
    days = encode.prepared(read, made, encoder)["datetime"].to_pylist()
    assert [day.date().isoformat() for day in days] == ["2020-01-31", "2020-02-01"]


@pytest.fixture
def config(write_config, scenes):
    return write_config(
        scenes, modality="satellite", satellite=SETTINGS, sample={"size": 30},
        cluster={"n_clusters": [8]}, export={"formats": ["files", "parquet", "ids"]},
    )  # fmt: skip


def told_of(id):
    """What a row says of the chip with this id; and its bounds, longitude and latitude."""
    scene, _, window = id.partition("#")
    x, y, width, height = window = [int(number) for number in window.split("_")]
    deep = scene.startswith("deep")
    (left, top), side, crs = (CORNER, 10, UTM) if deep else ((-70.0, -8.0), 0.001, "EPSG:4326")
    bounds = [left + side * x, top - side * (y + height), left + side * (x + width), top - side * y]
    across, down = [(bounds[0] + bounds[2]) / 2], [(bounds[1] + bounds[3]) / 2]
    (lon,), (lat,) = transform(crs, "EPSG:4326", across, down)
    day = datetime(2020, 2, 1 + int(scene[4]), 10, 30, tzinfo=UTC) if deep else None
    told = {"scene": scene, "window": window, "crs": crs, "datetime": day, "cloud": None, "corners": None}
    return told | {"nodata": 0 if deep else 0.25}, [*bounds, lon, lat]


def test_counts_add_up_and_chips_keep_their_places(evenset, config, tmp_path):
    assert evenset("run", config).code == 0
    run = Store(str(tmp_path / "run"))
    counts = read_manifest(run, "embeddings").counts
    assert (counts["samples"], counts["embedded"], counts["rejected"]) == (128 + 4 + 3, 128, 7)
    rejected = rows_of(run, "rejected/embed")
    assert {id.split("#")[0] for id in rejected} == {"empty.tif", "few.tif", "nowhere.tif", "text.tif"}
    assert len([*(tmp_path / "run/export/files").rglob("*.tif")]) == 30
    for folder, count in {"embeddings": 128, "curated": 30, "export/parquet": 30}.items():
        rows = rows_of(run, folder)
        assert len(rows) == count
        assert {id[:4] for id in rows} == {"deep", "flat"}
        for id, row in rows.items():
            told, where = told_of(id)
            assert {name: row[name] for name in told} == told
            assert [*row["bounds"], row["lon"], row["lat"]] == pytest.approx(where, rel=1e-12)


@pytest.mark.slow
def test_chips_under_clouds_are_rejected_and_counted(evenset, write_config, tmp_path):
    """Chips of two scenes have clouds in none to 14 of their 16 columns; with 4 of them they may stay."""
    columns = [0] * 9 + [2, 4, 6, 8, 10, 12, 14]
    for seed in range(2):
        pixels = values(4, 64, 64, seed=seed)
        pixels[3] = 4
        for number, cloudy in enumerate(columns):
            y, x = 16 * (number // 4), 16 * (number % 4)
            pixels[3, y : y + 16, x : x + cloudy] = 9
        write_scene(tmp_path / f"pool/s{seed}.tif", pixels, names=["B02", "B03", "B04", "SCL"])
    clouds = {"chip": 16, "cloud": {"band": "SCL"}, "max_cloud": 0.3}
    config = write_config(
        tmp_path / "pool", modality="satellite", satellite=clouds, sample={"size": 5},
        cluster={"n_clusters": [2]},
    )  # fmt: skip
    told = evenset("run", config)
    assert told.code == 0, told
    run = Store(str(tmp_path / "run"))
    share = {
        f"s{seed}.tif#{16 * (number % 4)}_{16 * (number // 4)}_16_16": cloudy / 16
        for seed in range(2)
        for number, cloudy in enumerate(columns)
    }
    clear = {id: part for id, part in share.items() if part <= 0.3}
    reason = "The chip is under clouds in more than 30 % of its pixels (satellite.max_cloud)."
    rejected = rows_of(run, "rejected/embed")
    assert {id: row["reason"] for id, row in rejected.items()} == dict.fromkeys(share.keys() - clear, reason)
    assert {id: row["cloud"] for id, row in rows_of(run, "embeddings").items()} == pytest.approx(clear)
    counts = read_manifest(run, "embeddings").counts
    assert (counts["samples"], counts["embedded"], counts["rejected"]) == (32, 22, 10)
    assert counts["reasons"] == {reason: 10}
    for folder in ("curated", "export/parquet"):
        rows = rows_of(run, folder)
        assert len(rows) == 5
        assert all(row["cloud"] == clear[id] for id, row in rows.items())
    assert reason in evenset("status", tmp_path / "run").text
    assert reason in (tmp_path / "run/report.html").read_text()


@pytest.mark.slow
def test_an_encoder_of_somebody_elses_encodes_all_bands_of_a_run(
    evenset, write_config, tmp_path, monkeypatch
):
    monkeypatch.setattr(plugins, "_named", set())  # it is this test alone that names one
    scenes = {
        seed: write_scene(tmp_path / f"pool/s{seed}.tif", values(5, 64, 64, seed=seed)) for seed in (0, 1)
    }
    write_scene(tmp_path / "pool/four.tif", values(4, 16, 16))
    config = write_config(
        tmp_path / "pool", modality="satellite", satellite={"chip": 16, "scale": "none"},
        encoder={"model": "tests.modalities.encoders.spectrum:Spectrum", "normalize": "none"},
    )  # fmt: skip
    told = evenset("embed", config, "sample.size=5")
    assert told.code == 0, told
    run = Store(str(tmp_path / "run"))
    found = rows_of(run, "embeddings")
    assert len(found) == 32
    for id, row in found.items():
        x, y = (int(number) for number in id.partition("#")[2].split("_")[:2])
        chip = scenes[int(id[1])][:, y : y + 16, x : x + 16]
        wanted = [*chip.mean(axis=(1, 2)), *chip.std(axis=(1, 2))]
        np.testing.assert_allclose(row["embedding"], wanted, rtol=1e-5)
    (row,) = rows_of(run, "rejected/embed").values()
    assert (row["id"], row["reason"]) == (
        "four.tif#0_0_16_16", "It has 4 bands, but spectrum takes 5.",
    )  # fmt: skip


@pytest.mark.slow
def test_shards_and_encoders_do_not_matter_and_what_is_exported_is_a_pool(evenset, config, tmp_path):
    assert evenset("run", config).code == 0
    run = Store(str(tmp_path / "run"))
    again = evenset("run", config, f"output={tmp_path / 'again'}", "cluster.shards=2", "encoder.actors=[1,2]")
    assert again.code == 0
    for folder in ("embeddings", "curated"):
        assert rows_of(run, folder) == rows_of(Store(str(tmp_path / "again")), folder)

    # the exported chips are a pool of tiles that looks the same
    tiles = evenset(
        "run", config, f"source.path={tmp_path / 'run/export/files'}", "source.format=files",
        f"output={tmp_path / 'tiles'}", "sample.size=5", "cluster.n_clusters=[4]",
    )  # fmt: skip
    assert tiles.code == 0, tiles
    assert read_manifest(Store(str(tmp_path / "tiles")), "embeddings").counts["embedded"] == 30
