"""Scenes are cut into chips: each pixel where it belongs, each chip its name and its bytes for ever."""

import pickle
from itertools import islice

import numpy as np
import pytest
import rasterio
from hypothesis import given
from hypothesis import strategies as st
from rasterio.enums import Resampling
from rasterio.transform import from_origin
from rasterio.windows import Window as GdalWindow

from modalities import modality, source
from modalities.chips import unpack
from modalities.satellite_settings import SatelliteSettings
from modalities.sources.geotiff import GeoTiffSource
from modalities.sources.scene import Scene
from tests.modalities.memory import far_away, grown
from tests.modalities.scenes import CORNER, UTM, values, write_scene


def opened(path, **options):
    settings = SatelliteSettings(**options)
    return source("geotiff", str(path), modality=modality("satellite", settings), timeout=60.0)


def records(path, **options):
    pool = opened(path, **options)
    found = [record for part in pool.parts() for record in pool.read(part)]
    assert len(found) == sum(part.spec["stop"] - part.spec["start"] for part in pool.parts())
    return {record.id: record for record in found}


def chips(path, **options):
    found = records(path, **options)
    assert not [record.reason for record in found.values() if record.reason]
    return {id: unpack(record.payload) for id, record in found.items()}


sizes = st.integers(1, 40)


@given(sizes, sizes, sizes, sizes)
def test_padded_chips_cover_every_pixel_and_dropped_ones_none_twice(width, height, chip, stride):
    stride = min(stride, chip)
    everything = Scene("a", ["a"], [width, height], [chip, chip], [stride, stride], [chip, chip], 1e-9)
    seen = np.zeros((height, width), int)
    for x, y, wide, high in everything.windows():
        assert x < width
        assert y < height
        seen[y : y + high, x : x + wide] += 1
    assert seen.all()
    inner = Scene("a", ["a"], [width, height], [chip, chip], [chip, chip], [chip, chip], 1.0)
    once = np.zeros((height, width), int)
    for x, y, wide, high in inner.windows():
        assert x + wide <= width
        assert y + high <= height
        once[y : y + high, x : x + wide] += 1
    assert once.max(initial=0) <= 1
    assert len(inner.windows()) == (width // chip) * (height // chip)


def test_a_chip_is_its_window_with_its_place_on_earth(tmp_path):
    pixels = write_scene(tmp_path / "a/scene.tif")
    found = chips(tmp_path, chip=32, edges="drop")
    assert [*found] == ["a/scene.tif#0_0_32_32", "a/scene.tif#32_0_32_32"]
    chip = found["a/scene.tif#32_0_32_32"]
    np.testing.assert_array_equal(chip.pixels, pixels[:, :32, 32:64])
    assert chip.crs.to_string() == UTM
    assert (chip.transform.c, chip.transform.f, chip.transform.a) == (500_320, 5_600_000, 10)
    assert chip.about["scene"] == "a/scene.tif"
    assert chip.valid.all()


def test_edges_are_padded_without_data(tmp_path):
    pixels = write_scene(tmp_path / "scene.tif")
    chip = chips(tmp_path / "scene.tif", chip=40, max_nodata=0.85)["scene.tif#40_40_40_40"]
    assert chip.valid.sum() == 30 * 10
    np.testing.assert_array_equal(chip.pixels[:, :10, :30], pixels[:, 40:, 40:])
    assert chip.nodata_fraction == pytest.approx(1 - 300 / 1600)
    assert [*chips(tmp_path, chip=40, max_nodata=0.2)] == ["scene.tif#0_0_40_40"]


def test_the_same_window_is_always_the_same_bytes(tmp_path):
    write_scene(tmp_path / "scene.tif", names=["B1", "B2", "B3", "B4"], nodata=0)
    once, again = records(tmp_path, chip=32), records(tmp_path, chip=32)
    assert {id: r.payload for id, r in once.items()} == {id: r.payload for id, r in again.items()}


def test_parts_are_runs_of_chips_of_bounded_length(tmp_path, monkeypatch):
    write_scene(tmp_path / "a.tif")
    write_scene(tmp_path / "b.tif", values(height=8, width=8))
    write_scene(tmp_path / "c.tif", values(height=8, width=8))
    whole = opened(tmp_path, chip=8)
    names = [record.id for part in whole.parts() for record in whole.read(part)]
    few = GeoTiffSource(whole._listing, SatelliteSettings(chip=8), (".tif",), part_rows=5)
    assert len(few.parts()) > len(whole.parts()) == 1
    assert max(part.spec["stop"] - part.spec["start"] for part in few.parts()) == 5
    few = pickle.loads(pickle.dumps(few))
    assert [record.id for part in few.parts() for record in few.read(part)] == names
    told = [record for part in few.parts() for record in few.unread(part, "why")]
    assert [record.id for record in told] == names
    assert {record.reason for record in told} == {"why"}


def test_files_of_one_band_each_are_one_scene(tmp_path):
    bands = values(bands=11, dtype="uint8")
    for number, band in enumerate(bands, start=1):
        write_scene(tmp_path / f"LT5_B{number}.TIF", band[None])
    found = chips(tmp_path, chip=32, edges="drop")
    assert [*found] == ["LT5#0_0_32_32", "LT5#32_0_32_32"]
    chip = found["LT5#0_0_32_32"]
    assert [*chip.bands] == [f"B{number}" for number in range(1, 12)]
    np.testing.assert_array_equal(chip.pixels, bands[:, :32, :32])
    (chip,) = chips(tmp_path, chip=32, edges="drop", bands=["b04", "B2"], stride=64).values()
    np.testing.assert_array_equal(chip.pixels, bands[[3, 1], :32, :32])


def test_scenes_that_are_named_like_bands_but_hold_several_stay_scenes(tmp_path):
    write_scene(tmp_path / "x_B1.tif")
    write_scene(tmp_path / "x_B2.tif")
    assert {id.split("#")[0] for id in records(tmp_path, chip=32)} == {"x_B1.tif", "x_B2.tif"}


def test_a_coarser_band_is_read_on_the_grid_of_the_finest(tmp_path):
    write_scene(tmp_path / "s_B02.tif", values(1, 64, 64))
    coarse = np.kron(np.arange(1, 5, dtype="uint16").reshape(1, 2, 2), np.ones((1, 16, 16), "uint16"))
    write_scene(tmp_path / "s_B01_20m.tif", coarse, metres=20)
    found = chips(tmp_path, chip=32)
    assert [chip.pixels[0].mean().round() for chip in found.values()] == [1, 2, 3, 4]
    assert {chip.pixels.shape for chip in found.values()} == {(2, 32, 32)}


def test_chips_and_strides_in_metres(tmp_path):
    write_scene(tmp_path / "utm.tif")
    assert [*records(tmp_path / "utm.tif", chip="320m", stride="160m", edges="drop")] == [
        f"utm.tif#{x}_{y}_32_32" for y in (0, 16) for x in (0, 16, 32)
    ]
    write_scene(tmp_path / "degrees.tif", crs="EPSG:4326", corner=(10.0, 60.0), metres=0.001)
    (id, *_) = records(tmp_path / "degrees.tif", chip="2km")
    assert id == "degrees.tif#0_0_36_18"  # at 60 degrees a degree of longitude is half as long


def test_a_chip_is_the_same_whatever_form_the_scene_is_written_in(tmp_path):
    """Strips, tiles, and a COG, whose tiles come in another order, compressed, with overviews before them."""
    pixels = values(3, 600, 700)
    forms = {"strips": {}, "tiles": {"tiled": True, "blockxsize": 64, "blockysize": 64}}
    forms["cog"] = {"driver": "COG", "blocksize": 128, "compress": "deflate", "overview_count": 2}
    payloads = {}
    for form, profile in forms.items():
        write_scene(tmp_path / form / "scene.tif", pixels, names=["B02", "B03", "B04"], nodata=0, **profile)
        found = records(tmp_path / form, chip=200, bands=["B04", "B02"])
        payloads[form] = {id: record.payload for id, record in found.items()}
    with rasterio.open(tmp_path / "cog/scene.tif") as file:
        assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert file.overviews(1)
    assert payloads["cog"] == payloads["tiles"] == payloads["strips"]
    chip = unpack(payloads["cog"]["scene.tif#200_400_200_200"])
    np.testing.assert_array_equal(chip.pixels, pixels[[2, 0], 400:, 200:400])


def test_a_resolution_is_read_from_the_overviews(tmp_path):
    """They are made of an earlier state of the pixels, and so tell who reads them from who does not."""
    write_scene(
        tmp_path / "scene.tif",
        np.full((1, 128, 128), 100, "uint8"),
        tiled=True,
        blockxsize=32,
        blockysize=32,
    )
    with rasterio.open(tmp_path / "scene.tif", "r+") as file:
        file.build_overviews([4], Resampling.average)
    with rasterio.open(tmp_path / "scene.tif", "r+") as file:
        file.write(np.full((1, 128, 128), 200, "uint8"))
    coarse, fine = chips(tmp_path, chip=16, resolution=40), chips(tmp_path, chip=64)
    assert coarse.keys() == fine.keys()
    assert {np.unique(chip.pixels).item() for chip in coarse.values()} == {100}
    assert {np.unique(chip.pixels).item() for chip in fine.values()} == {200}


def test_a_resolution_without_overviews_is_the_mean(tmp_path):
    pixels = write_scene(tmp_path / "scene.tif", values(1, 128, 128))
    chip = chips(tmp_path, chip=16, resolution=40)["scene.tif#64_0_64_64"]
    assert chip.pixels.shape == (1, 16, 16)
    assert chip.transform.a == 40
    means = pixels[0, :64, 64:].reshape(16, 4, 16, 4).mean(axis=(1, 3))
    np.testing.assert_allclose(chip.pixels[0], means, atol=1)


def test_a_remote_scene_is_read_by_window_and_not_as_a_whole(tmp_path):
    pixels = write_scene(
        tmp_path / "scene.tif", values(1, 1024, 1024), tiled=True, blockxsize=64, blockysize=64
    )
    with far_away("memory://scenes/scene.tif", tmp_path / "scene.tif") as read:
        pool = opened("memory://scenes", chip=64)
        (part,) = pool.parts()
        first = next(iter(pool.read(part)))
    np.testing.assert_array_equal(unpack(first.payload).pixels, pixels[:, :64, :64])
    assert first.uri == "memory:///scenes/scene.tif#0_0_64_64"
    assert 0 < sum(read) < pixels.nbytes / 4


def test_a_huge_scene_is_never_in_memory_as_a_whole(tmp_path):
    """All but one of its blocks were never written: on disk it is small, and to who reads it as large."""
    profile = {"driver": "GTiff", "width": 40_000, "height": 40_000, "count": 1, "dtype": "uint8", "crs": UTM}
    profile |= {"tiled": True, "blockxsize": 256, "blockysize": 256, "sparse_ok": True}
    profile["transform"] = from_origin(*CORNER, 10, 10)
    with rasterio.open(tmp_path / "huge.tif", "w", **profile) as file:
        file.write(np.full((1, 256, 256), 7, "uint8"), window=GdalWindow(0, 0, 256, 256))
    assert (tmp_path / "huge.tif").stat().st_size < 2**20
    with grown() as most:
        pool = opened(tmp_path, chip=256)
        parts = pool.parts()
        found = [
            (record.id, unpack(record.payload).pixels)
            for part in (parts[0], parts[len(parts) // 2], parts[-1])
            for record in islice(pool.read(part), 20)
        ]
    assert len({id for id, _ in found}) == 60
    assert {pixels.shape for _, pixels in found} == {(1, 256, 256)}
    assert [np.unique(pixels).tolist() for _, pixels in found[:2]] == [[7], [0]]
    assert most() < 64 * 2**20  # of 1.6 GB


def test_auto_takes_tiffs_for_scenes_and_pictures_for_tiles(tmp_path):
    write_scene(tmp_path / "a/scene.tif")
    (tmp_path / "b").mkdir()
    (tmp_path / "b/tile.png").write_bytes(b"\x89PNG")
    assert isinstance(source("auto", str(tmp_path / "a"), modality=modality("satellite")), GeoTiffSource)
    assert not isinstance(source("auto", str(tmp_path / "b"), modality=modality("satellite")), GeoTiffSource)


def test_real_scenes(data):
    found = records(data / "geotiff", chip=64, bands=[4, 3, 2])
    scenes = {id.split("#")[0] for id in found}
    assert len(scenes) == 9
    assert "lt5_bands/LT52240631988227CUB02" in scenes
    assert not [record.reason for record in found.values() if record.reason]
    chip = unpack(found["lt5_bands/LT52240631988227CUB02#64_64_64_64"].payload)
    assert chip.about["datetime"] == "1988-08-14T00:00:00+00:00"
    assert [*chip.bands] == ["B4", "B3", "B2"]
