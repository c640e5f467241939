"""A chip becomes what encoders take, says where it is from, and lets itself be seen."""

import io
import re

import numpy as np
import pytest
import rasterio
from PIL import Image

from modalities import ModalityError, Rejected, modality, source
from modalities.satellite_settings import SatelliteSettings, length_in_metres
from tests.modalities.scenes import UTM, values, write_scene


def satellite(**options):
    return modality("satellite", SatelliteSettings(**options))


def records(path, made):
    pool = source("geotiff", str(path), modality=made)
    return [record for part in pool.parts() for record in pool.read(part)]


def payloads(path, made):
    return [record.payload for record in records(path, made)]


def tile(tmp_path, pixels, **how):
    write_scene(tmp_path / "tile.tif", pixels, **how)
    return (tmp_path / "tile.tif").read_bytes()


def png(pixels, form="PNG"):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form)
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


def test_a_chip_may_have_bands_by_the_hundred(tmp_path):
    pixels = values(200, 8, 8, "uint8")
    payload = tile(tmp_path, pixels)
    (cut,) = payloads(tmp_path, satellite(chip=8, bands=[*range(200, 0, -1)]))
    for same in (payload, cut):
        decoded = satellite(bands=[*range(200, 0, -1)]).decode(same)
        np.testing.assert_array_equal(decoded, pixels[::-1].transpose(1, 2, 0))
    with pytest.raises(Rejected, match=r"no band 'B1', only 1, 2, 3, .*20, \.\.\. \(satellite\.bands\)"):
        satellite(bands=["B1"]).decode(payload)


KINDS = ["uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float32", "float64"]


@pytest.mark.parametrize("kind", KINDS)
def test_values_of_any_type_are_what_they_were(tmp_path, kind):
    """From the smallest to the largest, as a chip of a scene and as a tile; encoders see them as float32."""
    about = np.iinfo(kind) if np.dtype(kind).kind in "iu" else np.finfo("float32")
    pixels = values(2, 16, 16, kind)
    pixels[0, 0, :3] = about.min, about.max, 1
    pixels[1] = pixels[0].T
    nodata = 99
    pixels[pixels == nodata] = 98
    pixels[:, 15, 8:] = nodata
    payload = tile(tmp_path, pixels, nodata=nodata)
    made = satellite(scale="none", chip=16)
    (chip,) = payloads(tmp_path, made)
    for same in (payload, chip):
        decoded = made.decode(same)
        assert decoded.dtype == np.float32
        assert made.describe(decoded, same)["nodata"] == 8 / 256
        wanted = pixels.transpose(1, 2, 0).astype(np.float32)
        np.testing.assert_array_equal(decoded[:15], wanted[:15])
        np.testing.assert_array_equal(decoded[15, :8], wanted[15, :8])


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


@pytest.mark.parametrize(
    ("kind", "scale", "offset", "white"),
    [
        ("uint16", 0.0001, -0.1, 0.2),
        ("uint16", 1, -2999, 1),
        ("float32", 1, 0, 3000),
        ("float32", 0.001, 0, 3),
    ],
)
def test_tags_give_a_reflectance_and_floats_may_be_one(tmp_path, kind, scale, offset, white):
    write_scene(tmp_path / "a.tif", np.full((2, 4, 4), 3000, kind))
    with rasterio.open(tmp_path / "a.tif", "r+") as file:
        file.scales, file.offsets = [scale] * 2, [offset] * 2
    made = satellite(scale="tags", chip=4)
    for payload in ((tmp_path / "a.tif").read_bytes(), *payloads(tmp_path, made)):
        np.testing.assert_allclose(made.decode(payload), white * 255, rtol=1e-5)


@pytest.mark.parametrize("kind", ["uint8", "int16", "uint16"])
def test_whole_numbers_without_tags_are_no_reflectance(tmp_path, kind):
    payload = tile(tmp_path, values(2, 8, 8, kind))
    made = satellite(scale="tags", chip=8)
    said = r"band 1 has whole numbers, and no tags .*satellite\.scale=\[0, 10000\], or auto"
    (record,) = records(tmp_path, made)  # the scene is rejected as one
    assert re.search(said, record.reason)
    (cut,) = payloads(tmp_path, satellite(chip=8))
    for lacking in (payload, cut):
        with pytest.raises(Rejected, match=said):
            made.decode(lacking)
    with pytest.raises(Rejected, match="band red has whole numbers"):
        made.decode(png(np.full((8, 8, 3), 9, np.uint8)))


def test_tags_are_asked_for_of_the_bands_of_the_chip_alone(tmp_path):
    write_scene(tmp_path / "s_B1.tif", np.full((1, 4, 4), 3000, "uint16"))
    write_scene(tmp_path / "s_B2.tif", np.full((1, 4, 4), 3000, "uint16"))
    with rasterio.open(tmp_path / "s_B2.tif", "r+") as file:
        file.scales = [0.0001]
    (payload,) = payloads(tmp_path, satellite(scale="tags", chip=4, bands=["B2"]))
    np.testing.assert_allclose(satellite(scale="tags").decode(payload), 0.3 * 255, rtol=1e-5)
    (record,) = records(tmp_path, satellite(scale="tags", chip=4))
    assert "band B1 has whole numbers" in record.reason


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


def without_data(tmp_path):
    """Two bands without data in two rows, and a mask that is 0 but where there are clouds."""
    pixels = values(3, 16, 16)
    pixels[:2, :2] = 0
    pixels[2] = 0
    pixels[2, 2:9, :4] = 9
    return {"payload": tile(tmp_path, pixels, nodata=0), "bands": [1, 2], "cloud": {"band": 3}}


def damaged_band(tmp_path):
    pixels = values(13, 16, 16).astype(np.float32)
    pixels[12] = np.nan
    pixels[3, :4] = np.nan
    return {"payload": tile(tmp_path, pixels), "bands": [4, 3, 2]}


def masked(tmp_path):
    pixels = values(3, 16, 16, "uint8")
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
        write_scene(tmp_path / "tile.tif", pixels)
        with rasterio.open(tmp_path / "tile.tif", "r+") as file:
            file.write_mask(np.arange(256).reshape(16, 16) >= 32)
    return {"payload": (tmp_path / "tile.tif").read_bytes(), "bands": [2, 2], "cloud": {"band": 1}}


@pytest.mark.parametrize("made", [without_data, damaged_band, masked])
def test_a_file_is_judged_alike_as_a_scene_and_as_a_tile(tmp_path, made):
    """Bands that were not asked for, and the cloud mask, do not say where there are data."""
    options = made(tmp_path)
    as_tile = options.pop("payload")
    kind = satellite(chip=16, scale="none", **options)
    (as_chip,) = payloads(tmp_path, kind)
    np.testing.assert_array_equal(kind.decode(as_tile), kind.decode(as_chip))
    ours, theirs = (kind.describe(None, payload) for payload in (as_tile, as_chip))
    assert ours["nodata"] == theirs["nodata"] > 0
    assert ours.get("cloud") == theirs.get("cloud")


@pytest.mark.parametrize("names", [None, ["B01", "B02", "B03", "SCL"]])
def test_a_chip_is_a_tile_that_bands_are_picked_of(tmp_path, names):
    pixels = write_scene(tmp_path / "a.tif", values(4, 8, 8), names=names)
    asked = {"bands": [3, 2, 1], "scale": "none", "chip": 8}
    (chip,) = payloads(tmp_path, satellite(**asked))
    as_cut = pixels[[2, 1, 0]].transpose(1, 2, 0)
    for same in (asked, {"scale": "none"}):  # by the settings that it was cut with it is what it was
        np.testing.assert_array_equal(satellite(**same).decode(chip), as_cut)
    np.testing.assert_array_equal(satellite(bands=[1], scale="none").decode(chip)[:, :, 0], pixels[2])
    named = satellite(bands=[names[0] if names else "1"], scale="none")
    np.testing.assert_array_equal(named.decode(chip)[:, :, 0], pixels[0])
    with pytest.raises(Rejected, match="no band 'B99'"):
        satellite(bands=["B99"]).decode(chip)
    with pytest.raises(Rejected, match="has 3 bands, and satellite.bands asks for number 4"):
        satellite(bands=[4]).decode(chip)


def test_clouds_of_a_chip_are_counted_later_where_it_has_its_mask(tmp_path):
    pixels = values(3, 8, 8)
    pixels[2, :, :2], pixels[2, :, 2:] = 9, 4
    write_scene(tmp_path / "a.tif", pixels)
    (chip,) = payloads(tmp_path, satellite(chip=8))
    made = satellite(cloud={"band": 3}, scale="none")
    assert made.describe(None, chip)["cloud"] == 0.25
    assert made.decode(chip).shape == (8, 8, 2)


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


@pytest.mark.parametrize(
    ("id", "date", "day"),
    [
        ("S2A_20200131T101321_7.tif", None, "2020-01-31"),
        ("2020-01-31/tile_7.tif", None, "2020-01-31"),
        ("pucallpa_1995.tif", r"_(?P<year>\d{4})\.", "1995-01-01"),
        ("shards-20230101.tar#S2A_20200131_7", None, "2020-01-31"),  # the key is the tile's own
        ("S2A_20200131.tar#tile_7", None, "2020-01-31"),
        ("date=2020-01-31/part-0.parquet#19990101", None, "2020-01-31"),  # the number of a row is no day
        ("tiles.parquet#19990101", None, None),
        ("tiles.parquet#1999", r"(?P<year>\d{4})", None),
        ("19990101", None, None),  # any number, as far as is known
        ("19990101", r"^(?P<year>\d{4})(?P<month>\d\d)", "1999-01-01"),
        ("tile_7.tif", None, None),
    ],
)
def test_a_tile_has_the_day_that_its_id_tells(tmp_path, id, date, day):
    made = satellite(date=date, scale="none")
    for payload in (tile(tmp_path, values(3, 8, 8)), png(np.full((8, 8, 3), 9, np.uint8))):
        found = made.completed(made.describe(None, payload), id).get("datetime")
        assert found is None if day is None else found.isoformat() == f"{day}T00:00:00+00:00"


def test_tags_of_a_tile_are_more_than_its_id_but_less_than_what_was_asked_for(tmp_path):
    payload = tile(tmp_path, values(3, 8, 8), tags={"TIFFTAG_DATETIME": "1995:06:07 08:09:10"})
    for date, year in ((None, 1995), (r"_(?P<year>\d{4})", 2020), (r"q(?P<year>\d{4})", 1995)):
        made = satellite(date=date, scale="none")
        assert made.completed(made.describe(None, payload), "x_20200131.tif")["datetime"].year == year


def test_a_chip_has_the_date_of_its_scene_whatever_its_own_name(tmp_path):
    write_scene(tmp_path / "S2_20200131_2019.tif", values(3, 8, 8))
    (chip,) = payloads(tmp_path, satellite(chip=8))
    for date, year in ((None, 2020), (r"_(?P<year>\d{4})\.", 2019)):  # also one that is asked for later
        made = satellite(date=date)
        for id in ("S2_20200131_2019.tif#0_0_8_8", "19990101/x.tif"):
            assert made.completed(made.describe(None, chip), id)["datetime"].year == year


def test_a_picture_is_a_tile_without_a_place(tmp_path):
    pixels = values(3, 8, 8, "uint8").transpose(1, 2, 0)
    payload = png(pixels)
    made = satellite()
    np.testing.assert_array_equal(made.decode(payload), pixels)
    np.testing.assert_array_equal(satellite(bands=["blue", 1]).decode(payload), pixels[:, :, [2, 0]])
    assert made.describe(pixels, payload) == {"nodata": 0.0}
    assert made.suffix(payload) == ".png"
    assert "data:image" in made.show(payload, "a")


@pytest.mark.parametrize("scale", [(50, 150), [(0, 100), (0, 200), (50, 150)], {"percentiles": (10, 90)}])
def test_a_picture_is_scaled_as_a_tile_of_8_bits(tmp_path, scale):
    pixels = values(3, 16, 16, "uint8")
    same = {"tif": tile(tmp_path, pixels), "png": png(pixels.transpose(1, 2, 0))}
    decoded = {}
    for form, payload in same.items():
        made = satellite(scale=scale)
        made.fit([made.glimpse(payload)])
        decoded[form] = made.decode(payload)
    np.testing.assert_array_equal(decoded["tif"], decoded["png"])
    assert (decoded["png"].min(), decoded["png"].max()) == (0, 255)


@pytest.mark.parametrize("form", ["PNG", "JPEG2000"])
def test_a_range_is_of_the_values_of_a_deep_picture_as_they_are(form):
    pixels = np.arange(256, dtype=np.uint16).reshape(16, 16) * 20
    decoded = satellite(scale=[0, 2550]).decode(png(pixels, form))
    np.testing.assert_allclose(decoded[:, :, 0], np.clip(pixels / 10, 0, 255), rtol=1e-5)
    for scale in ("auto", "none"):  # as a viewer shows it
        decoded = satellite(scale=scale).decode(png(pixels, form))
        np.testing.assert_allclose(decoded[:, :, 0], pixels / 257, rtol=1e-5)


def test_a_picture_may_have_its_mask_and_is_rejected_without():
    pixels = np.full((8, 8, 3), 7, np.uint8)
    pixels[:2, :, 2] = 9
    payload = png(pixels)
    made = satellite(cloud={"band": "blue"}, max_cloud=0.3)
    np.testing.assert_array_equal(made.decode(payload), pixels[:, :, :2])
    assert made.describe(None, payload) == {"nodata": 0.0, "cloud": 0.25}
    with pytest.raises(Rejected, match="under clouds in more than 20 %"):
        satellite(cloud={"band": 3}, max_cloud=0.2).decode(payload)
    with pytest.raises(Rejected, match=r"no band 'SCL', only red, green, blue \(satellite\.cloud\.band\)"):
        satellite(cloud={"band": "SCL"}, max_cloud=0.2).decode(payload)


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
