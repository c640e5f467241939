"""Scenes that cannot be used cost themselves alone: each is named, with one sentence that says why."""

import numpy as np
import pytest

from modalities import Rejected, modality, source
from modalities.satellite_settings import SatelliteSettings
from tests.modalities.scenes import values, write_scene


def judged(path, most=None, **options):
    """What becomes of each chip: its decoded sample and description, or the reason why there is none."""
    made = modality("satellite", SatelliteSettings(**{"chip": 32, "scale": "none", **options}))
    made.max_pixels = most or made.max_pixels
    pool = source("geotiff", str(path), modality=made, timeout=60.0)
    found = {}
    for record in (record for part in pool.parts() for record in pool.read(part)):
        found[record.id] = record.reason
        if record.payload is not None:
            try:
                decoded = made.decode(record.payload)
                assert np.isfinite(decoded).all()
                found[record.id] = made.describe(decoded, record.payload)
            except Rejected as reason:
                found[record.id] = str(reason)
    assert len(found) == sum(part.spec["stop"] - part.spec["start"] for part in pool.parts())
    return found


def decodings(path, **options):
    """What each good chip is decoded to."""
    made = modality("satellite", SatelliteSettings(**{"chip": 32, "scale": "none", **options}))
    found = source("geotiff", str(path), modality=made, timeout=60.0)
    return {record.id: made.decode(record.payload) for part in found.parts() for record in found.read(part)}


@pytest.fixture
def pool(tmp_path):
    """A folder with one good scene of four chips; what is bad is added."""
    write_scene(tmp_path / "good.tif", values(height=64, width=64))
    return tmp_path


def bad(pool, **options):
    """The reasons for what is bad in the pool, by id; the good scene is whole."""
    found = judged(pool, **options)
    assert sum(isinstance(about, dict) for id, about in found.items() if id.startswith("good.tif#")) == 4
    return {id: about for id, about in found.items() if not id.startswith("good.tif#")}


def test_a_scene_without_crs_lies_nowhere(pool):
    write_scene(pool / "bad.tif", crs=None)
    assert "has no CRS" in bad(pool)["bad.tif"]


@pytest.mark.parametrize("content", [b"", b"no TIFF at all", b"II*\0 and nothing", b"<VRTDataset/>"])
def test_a_file_that_is_no_geotiff(pool, content):
    (pool / "bad.tif").write_bytes(content)
    assert bad(pool) == {"bad.tif": "The file bad.tif is no GeoTIFF, or is damaged."}


def test_a_truncated_scene_keeps_the_chips_that_are_there(pool):
    write_scene(pool / "bad.tif", values(1, 128, 128), tiled=True, blockxsize=32, blockysize=32)
    whole = (pool / "bad.tif").read_bytes()
    (pool / "bad.tif").write_bytes(whole[: len(whole) * 2 // 3])
    found = bad(pool)
    assert len(found) == 16
    lost = [about for about in found.values() if isinstance(about, str)]
    assert 0 < len(lost) < 16
    assert set(lost) == {"Its pixels cannot be read: the file is truncated or damaged."}


def test_a_scene_without_any_data(pool):
    write_scene(pool / "bad.tif", np.zeros((4, 64, 64), "uint16"), nodata=0)
    (reason,) = set(bad(pool).values())
    assert "no data in more than 50 %" in reason
    (reason,) = set(bad(pool, max_nodata=1.0).values())
    assert "no data" in reason


def test_nan_is_no_data(pool):
    pixels = values(4, 64, 64).astype(np.float32)
    pixels[0, :32, :32] = np.nan
    pixels[1, 32:36, 32:] = np.inf
    write_scene(pool / "bad.tif", pixels)
    found = bad(pool)
    assert "no data" in found["bad.tif#0_0_32_32"]
    assert found["bad.tif#32_32_32_32"]["nodata"] == 0.125
    assert found["bad.tif#0_32_32_32"]["nodata"] == 0


def test_bands_of_different_types_become_one(pool):
    """Each has data where its own value for none says so: that of another band is a value like any other."""
    bands = [values(1, 32, 32, kind, seed) for seed, kind in enumerate(("uint8", "int16", "float32"))]
    bands[0][0, 0, :8] = 255
    bands[1][0, 0, 4:12] = -9999
    bands[1][0, 1, :4], bands[2][0, 1, :4], bands[2][0, 2, :4] = 255, 255, -9999
    bands[2][0, 3, 31] = -0.5
    for number, (band, nodata) in enumerate(zip(bands, (255, -9999, None), strict=True), start=1):
        write_scene(pool / f"s_B{number}.tif", band, nodata=nodata)
    (about,) = bad(pool).values()
    assert about["nodata"] == 12 / 1024
    decoded = decodings(pool)["s#0_0_32_32"]
    there = np.ones((32, 32), bool)
    there[0, :12] = False
    for number, (band,) in enumerate(bands):
        np.testing.assert_array_equal(decoded[there][:, number], band[there].astype(np.float32))
        mean = band[there].mean(dtype=np.float64)
        np.testing.assert_allclose(decoded[~there][:, number], mean, rtol=1e-6)


def test_bands_that_do_not_lie_upon_each_other(pool):
    write_scene(pool / "s_B1.tif", values(1, 32, 32))
    write_scene(pool / "s_B2.tif", values(1, 32, 32), corner=(600_000, 5_600_000))
    assert bad(pool) == {"s": "The files of the scene do not cover the same ground in the same CRS."}


def test_complex_numbers(pool):
    write_scene(pool / "bad.tif", values().astype(np.complex64))
    assert "complex64" in bad(pool)["bad.tif"]


def test_a_scene_with_fewer_bands_than_asked_for(pool):
    write_scene(pool / "bad.tif", values(2))
    assert "has 2 bands, and satellite.bands asks for number 3" in bad(pool, bands=[3, 1])["bad.tif"]


def test_geographic_and_projected_scenes_lie_where_they_are(pool):
    write_scene(pool / "degrees.tif", crs="EPSG:4326", corner=(-70.0, -8.0), metres=0.001)
    write_scene(pool / "metres.tif", crs="EPSG:3857", corner=(1_113_194.9, 0.0))
    found = bad(pool)
    assert found["degrees.tif#0_0_32_32"]["lon"] == pytest.approx(-69.984)
    assert found["degrees.tif#0_0_32_32"]["lat"] == pytest.approx(-8.016)
    assert found["metres.tif#0_0_32_32"]["lon"] == pytest.approx(10.0, abs=0.01)


def test_a_scene_across_the_antimeridian(pool):
    write_scene(pool / "date_line.tif", values(1, 32, 128), crs="EPSG:4326", corner=(179.36, 10), metres=0.01)
    lons = [about["lon"] for about in bad(pool).values()]
    assert lons == pytest.approx([179.52, 179.84, -179.84, -179.52])


def test_a_scene_off_the_earth(pool):
    write_scene(pool / "bad.tif", crs="EPSG:4326", corner=(0, 200), metres=0.001)
    found = bad(pool)
    assert found
    assert all("not on Earth" in reason for reason in found.values())


def test_a_block_that_would_fill_the_memory_is_not_opened(pool):
    write_scene(pool / "bad.tif", values(1, 200, 200), tiled=True, blockxsize=208, blockysize=208)
    assert bad(pool, most=20_000) == {"bad.tif": "It has 43,264 values, more than 20,000 (limits.pixels)."}


def test_a_scene_that_goes_between_listing_and_reading(pool):
    write_scene(pool / "zz.tif", values(height=32, width=32))
    found = source("geotiff", str(pool), modality=modality("satellite", SatelliteSettings(chip=32)))
    parts = found.parts()
    (pool / "zz.tif").unlink()
    records = [record for part in parts for record in found.read(part)]
    assert [record.reason is None for record in records] == [True] * 4 + [False]
    assert records[-1].id == "zz.tif#0_0_32_32"
