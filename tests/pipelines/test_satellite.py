"""Whole curations of scenes: the counts add up, and no part of the result hangs on who did which part."""

import numpy as np
import pytest

from modalities import modality, source
from modalities.encoders.patches import Patches
from modalities.satellite_settings import SatelliteSettings
from pipelines import encode
from pipelines.fitting import kmeans
from pipelines.manifest import read_manifest
from pipelines.store import Store
from tests.modalities.scenes import values, write_scene

from .conftest import rows_of

SETTINGS = {"chip": 16, "bands": [3, 2, 1]}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Good scenes of 8 and 16 bits, and bad ones."""
    folder = tmp_path_factory.mktemp("scenes")
    for seed in range(4):
        write_scene(folder / f"deep{seed}.tif", values(4, 64, 64, seed=seed))
        write_scene(folder / f"flat{seed}.tif", values(3, 64, 64, "uint8", seed=seed))
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


def test_counts_add_up_and_chips_keep_their_places(evenset, config, tmp_path):
    assert evenset("run", config).code == 0
    run = Store(str(tmp_path / "run"))
    counts = read_manifest(run, "embeddings").counts
    assert (counts["samples"], counts["embedded"], counts["rejected"]) == (128 + 4 + 3, 128, 7)
    rejected = rows_of(run, "rejected/embed")
    assert {id.split("#")[0] for id in rejected} == {"empty.tif", "few.tif", "nowhere.tif", "text.tif"}
    row = rows_of(run, "embeddings")["deep0.tif#16_0_16_16"]
    assert (row["scene"], row["window"], row["crs"]) == ("deep0.tif", [16, 0, 16, 16], "EPSG:32633")
    assert len([*(tmp_path / "run/export/files").rglob("*.tif")]) == 30


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
