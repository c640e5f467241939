"""A chip becomes what encoders take, says where it is from, and lets itself be seen."""

import io

import numpy as np
import pytest
from PIL import Image

from modalities import ModalityError, Rejected, modality, source
from modalities.satellite import SatelliteSettings, length_in_metres
from tests.modalities.scenes import UTM, values, write_scene


def satellite(**options):
    return modality("satellite", SatelliteSettings(**options))


def payloads(path, made):
    pool = source("geotiff", str(path), modality=made)
    return [record.payload for part in pool.parts() for record in pool.read(part)]


def tile(tmp_path, pixels, **how):
    write_scene(tmp_path / "tile.tif", pixels, **how)
    return (tmp_path / "tile.tif").read_bytes()


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def test_bands_are_picked_by_number_and_by_description(tmp_path):
    pixels = values(dtype="uint8")
    payload = tile(tmp_path, pixels, names=["B01", "B02", "B03", "SCL"])
    np.testing.assert_array_equal(satellite().decode(payload), pixels.transpose(1, 2, 0))
    for bands in ([3, 1], ["B03", "b1"]):
        decoded = satellite(bands=bands).decode(payload)
        np.testing.assert_array_equal(decoded, pixels[[2, 0]].transpose(1, 2, 0))
    with pytest.raises(Rejected, match="has 4 bands, and satellite.bands asks for number 5"):
        satellite(bands=[5]).decode(payload)
    with pytest.raises(Rejected, match="no band 'B09', only B01, B02, B03, SCL"):
        satellite(bands=["B09"]).decode(payload)
    with pytest.raises(Rejected, match=r"has 4 bands, and satellite\.cloud\.band asks for number 9"):
        satellite(cloud={"band": 9}).decode(payload)
    with pytest.raises(Rejected, match=r"no band 'QA', only .*satellite\.cloud\.band"):
        satellite(cloud={"band": "QA"}).decode(payload)


def test_a_mask_alone_is_no_chip(tmp_path):
    with pytest.raises(Rejected, match=r"no band beside the mask of satellite\.cloud\.band"):
        satellite(cloud={"band": 1}).decode(tile(tmp_path, values(1)))


def test_a_fixed_range_becomes_black_and_white(tmp_path):
    pixels = np.array([[[0, 1000], [2000, 5000]], [[0, 100], [200, 50]]], "uint16")
    decoded = satellite(scale=[0, 2000]).decode(tile(tmp_path, pixels))
    np.testing.assert_allclose(decoded[:, :, 0], [[0, 127.5], [255, 255]])
    each = satellite(scale=[[0, 2000], [0, 200]]).decode(tile(tmp_path, pixels))
    np.testing.assert_allclose(each[:, :, 1], [[0, 127.5], [255, 63.75]])
    with pytest.raises(Rejected, match="2 bands, and satellite.scale has ranges for 1"):
        satellite(scale=[[0, 2000]]).decode(tile(tmp_path, pixels))


def test_percentiles_are_of_the_pool_band_by_band_in_any_order(tmp_path):
    scenes = [values(2, 16, 16, seed=seed) for seed in range(4)]
    tiles = [tile(tmp_path, pixels) for pixels in scenes]
    made = satellite(scale={"percentiles": [10, 90]})
    assert made.learns
    state = made.fit([made.glimpse(payload) for payload in tiles])
    low, high = np.percentile(np.stack(scenes)[:, 1], (10, 90))
    np.testing.assert_allclose(state["ranges"][1], [low, high])
    other = satellite(scale={"percentiles": [10, 90]})
    again = other.fit([other.glimpse(payload) for payload in tiles[::-1]])
    np.testing.assert_array_equal(state["ranges"], again["ranges"])
    third = satellite(scale={"percentiles": [10, 90]})
    third.set_state(state)
    np.testing.assert_array_equal(third.decode(tiles[0]), made.decode(tiles[0]))
    assert made.decode(tiles[0]).min() == 0
    with pytest.raises(ModalityError, match="not ranges"):
        third.set_state({"words": np.zeros(3)})


def test_auto_leaves_eight_bits_alone_and_scales_what_has_more(tmp_path):
    made = satellite()
    small, large = tile(tmp_path, values(dtype="uint8")), tile(tmp_path, values())
    made.fit([made.glimpse(payload) for payload in (small, large)])
    assert made.decode(small).dtype == np.uint8
    assert made.decode(large).max() == 255


def test_tags_give_a_reflectance(tmp_path):
    write_scene(tmp_path / "a.tif", np.full((1, 4, 4), 3000, "uint16"))
    import rasterio

    with rasterio.open(tmp_path / "a.tif", "r+") as file:
        file.scales, file.offsets = [0.0001], [-0.1]
    for payload in ((tmp_path / "a.tif").read_bytes(), *payloads(tmp_path, satellite(chip=4))):
        np.testing.assert_allclose(satellite(scale="tags").decode(payload), 0.2 * 255, rtol=1e-5)


def test_pixels_without_data_get_the_mean_of_the_others(tmp_path):
    pixels = values(2, 8, 8, "int16")
    pixels[:, :2] = -9999
    made = satellite(scale="none")
    decoded = made.decode(tile(tmp_path, pixels, nodata=-9999))
    np.testing.assert_allclose(decoded[0, 0], pixels[:, 2:].mean(axis=(1, 2)), rtol=1e-6)
    np.testing.assert_array_equal(decoded[2:], pixels[:, 2:].transpose(1, 2, 0))
    assert made.describe(decoded, tile(tmp_path, pixels, nodata=-9999))["nodata"] == 0.25
    with pytest.raises(Rejected, match=r"no data in more than 20 % .*satellite\.max_nodata"):
        satellite(max_nodata=0.2).decode(tile(tmp_path, pixels, nodata=-9999))


@pytest.mark.parametrize(
    ("text", "metres"),
    [("2560m", 2560), ("2_560 m", 2560), ("2.5km", 2500), (".5m", 0.5)]
    + [(text, None) for text in ("1_.5m", "_5m", "5_m", "1__0m", "0m", "5", "5.m", "9" * 400 + "m")],
)
def test_lengths(text, metres):
    assert length_in_metres(text) == metres


@pytest.mark.parametrize("whole", [True, False])
def test_clouds_are_counted_and_too_many_are_rejected(tmp_path, whole):
    pixels = values(3, 8, 8)
    pixels[2] = 4
    pixels[2, :, :2] = 9
    options = {"cloud": {"band": "SCL"}, "scale": "none", "chip": 8}
    payload = tile(tmp_path, pixels, names=["B02", "B03", "SCL"])
    if not whole:
        (payload,) = payloads(tmp_path, satellite(**options))
    made = satellite(**options)
    decoded = made.decode(payload)
    assert decoded.shape == (8, 8, 2)
    assert made.describe(decoded, payload)["cloud"] == 0.25
    with pytest.raises(Rejected, match=r"clouds in more than 20 % .*satellite\.max_cloud"):
        satellite(max_cloud=0.2, **options).decode(payload)


def test_a_chip_says_where_it_lies_and_of_when_it_is(tmp_path):
    write_scene(tmp_path / "S2_20200131T101321.tif")
    made = satellite(chip=32, scale="none")
    (payload, *_) = payloads(tmp_path, made)
    about = made.describe(made.decode(payload), payload)
    assert set(about) <= set(made.columns)
    assert about["scene"] == "S2_20200131T101321.tif"
    assert about["window"] == [0, 0, 32, 32]
    assert about["crs"] == UTM
    assert about["bounds"] == [500_000, 5_599_680, 500_320, 5_600_000]
    assert about["lon"] == pytest.approx(15.0022, abs=1e-3)
    assert about["lat"] == pytest.approx(50.55, abs=1e-2)
    assert about["datetime"].isoformat() == "2020-01-31T00:00:00+00:00"


@pytest.mark.parametrize(
    ("name", "tags", "date", "day"),
    [
        ("a.tif", {"TIFFTAG_DATETIME": "1995:06:07 08:09:10"}, None, "1995-06-07T08:09:10"),
        ("a_2020-02-03.tif", {}, None, "2020-02-03T00:00:00"),
        ("pucallpa_1995.tif", {}, r"_(?P<year>\d{4})\.", "1995-01-01T00:00:00"),
        ("LT52240631988227CUB02.tif", {}, None, "1988-08-14T00:00:00"),
        ("a_20209999.tif", {}, None, None),
    ],
)
def test_days_are_in_tags_and_in_names(tmp_path, name, tags, date, day):
    write_scene(tmp_path / name, tags=tags)
    made = satellite(date=date, scale="none", chip=32)
    found = made.describe(None, payloads(tmp_path, made)[0]).get("datetime")
    assert found is None if day is None else found.isoformat() == f"{day}+00:00"


def test_a_picture_is_a_tile_without_a_place(tmp_path):
    pixels = values(3, 8, 8, "uint8").transpose(1, 2, 0)
    payload = png(pixels)
    made = satellite()
    np.testing.assert_array_equal(made.decode(payload), pixels)
    np.testing.assert_array_equal(satellite(bands=["blue", 1]).decode(payload), pixels[:, :, [2, 0]])
    assert made.describe(pixels, payload) == {"nodata": 0.0}
    assert made.suffix(payload) == ".png"
    assert "data:image" in made.show(payload, "a")


def test_a_chip_is_shown_even_with_twelve_bands_and_holes(tmp_path):
    pixels = values(12, 64, 64, "int16")
    pixels[:, :20] = 0
    payload = tile(tmp_path, pixels, nodata=0)
    shown = satellite().show(payload, 'x"><script>')
    assert shown.startswith("<img")
    assert "<script>" not in shown
    assert satellite().suffix(payload) == ".tif"
    damaged = satellite().show(payload[:300], "x")
    assert "damaged" in damaged
