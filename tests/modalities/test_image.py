import base64
import contextlib
import io
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as Pillow

from modalities.base import Rejected
from modalities.image import READABLE, THUMBNAIL, Image
from modalities.sources import open_source
from tests.modalities.memory import grown
from tests.modalities.sources.tars import tar_of

image = Image()


def encoded(picture, kind="PNG", **options):
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def gradient(mode, size=(7, 5)):
    values = np.linspace(0, 255, size[0] * size[1], dtype=np.uint8).reshape(size[1], size[0])
    return Pillow.fromarray(values).convert(mode)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_every_png_mode_becomes_one_or_three_bands(mode):
    sample = image.decode(encoded(gradient(mode)))
    assert sample.shape == (5, 7, 1 if mode in ("1", "L") else 3)
    assert sample.dtype == np.uint8
    assert sample.min() < 20
    assert sample.max() > 235


def png_of(header, packed):
    """A PNG by its header and its packed rows, for what Pillow does not write."""
    named = [(b"IHDR", struct.pack(">IIBBBBB", *header, 0, 0, 0)), (b"IDAT", packed), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in named
    )


def one_colour(side):
    """A white PNG of one bit a pixel: valid, a few kilobytes, and huge when it is unpacked."""
    packed, row = zlib.compressobj(), b"\0" + b"\xff" * -(-side // 8)
    rows = b"".join(packed.compress(row) for _ in range(side)) + packed.flush()
    return png_of((side, side, 1, 0), rows)


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        *(("JPEG", "CMYK"), ("JPEG", "L"), ("TIFF", "CMYK"), ("TIFF", "LAB")),
        *(("GIF", "P"), ("BMP", "RGB"), ("WEBP", "RGB"), ("PPM", "L")),
    ],
)
def test_other_formats(kind, mode):
    picture = Pillow.new("LAB", (7, 5)) if mode == "LAB" else gradient(mode)
    assert image.decode(encoded(picture, kind)).shape[:2] == (5, 7)


# red, green / blue, white
PATCHES = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 255]]], np.uint8)


def tiled(corners):
    """An array of 2 x 2 values, or more of each, as four patches of 32 x 32 pixels."""
    return np.asarray(corners).repeat(32, axis=0).repeat(32, axis=1)


def patches_of(sample):
    """What the middle of each patch is, the darkest and the lightest of it."""
    blocks = sample.reshape(2, 32, 2, 32, -1)[:, 8:-8, :, 8:-8].astype(float)
    return blocks.min(axis=(1, 3)), blocks.max(axis=(1, 3))


def sixteen_bit_png(values, colour_type):
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return png_of((values.shape[1], values.shape[0], 16, colour_type), zlib.compress(rows))


def tiff_of_gdal(values, **profile):
    """A TIFF (height, width, bands) of another writer than Pillow."""
    from rasterio.io import MemoryFile
    from rasterio.transform import from_origin

    height, width, bands = values.shape
    with MemoryFile() as memory:
        with memory.open(
            driver="GTiff",
            width=width,
            height=height,
            count=bands,
            dtype=values.dtype,
            transform=from_origin(0, 0, 1, 2),
            **profile,
        ) as file:
            file.write(values.transpose(2, 0, 1))
        return memory.read()


def picture():
    return Pillow.fromarray(tiled(PATCHES))


def coloured_palette():
    """Numbers of a palette that has its colours in an order of its own, and others that are not used."""
    numbered = Pillow.fromarray(tiled(np.array([[9, 4], [7, 2]], np.uint8)), "P")
    colours = np.full((256, 3), 77, np.uint8)
    colours[[9, 4, 7, 2]] = PATCHES.reshape(4, 3)
    numbered.putpalette(colours.tobytes())
    return numbered


def lab():
    """As CIE has them, a and b with their sign: L of 0 to 100 in all of a byte."""
    corners = np.array([[[54.3, 80.8, 69.9], [87.8, -79.3, 81.0]], [[29.6, 68.3, -112.0], [100, 0, 0]]])
    return tiled(np.round(corners * [2.55, 1, 1]).astype(np.int16).astype(np.uint8))


WIDE = tiled(PATCHES).astype(np.uint16) * 257

COLOURED = {
    "CMYK in JPEG": lambda: encoded(picture().convert("CMYK"), "JPEG", quality=95),
    "CMYK in TIFF": lambda: encoded(picture().convert("CMYK"), "TIFF"),
    "CMYK in a TIFF of GDAL": lambda: tiff_of_gdal(
        np.dstack([255 - tiled(PATCHES), np.zeros((64, 64), np.uint8)]), photometric="CMYK"
    ),
    "LAB in TIFF": lambda: encoded(picture().convert("LAB"), "TIFF"),
    "LAB in a TIFF of GDAL": lambda: tiff_of_gdal(lab(), photometric="CIELAB", interleave="pixel"),
    "YCbCr in JPEG": lambda: encoded(picture(), "JPEG", quality=95),
    "YCbCr in TIFF": lambda: encoded(picture().convert("YCbCr"), "TIFF"),
    "a palette in PNG": lambda: encoded(coloured_palette()),
    "a palette in GIF": lambda: encoded(coloured_palette(), "GIF"),
    "a palette in BMP": lambda: encoded(coloured_palette(), "BMP"),
    "a palette in TIFF": lambda: encoded(coloured_palette(), "TIFF"),
    "a palette of few colours": lambda: encoded(picture().quantize(4), bits=2),
    "16 bits in PNG": lambda: sixteen_bit_png(WIDE, 2),
    "16 bits and alpha in PNG": lambda: sixteen_bit_png(np.dstack([WIDE, np.full((64, 64), 65_535)]), 6),
    "16 bits in TIFF": lambda: tiff_of_gdal(WIDE, photometric="RGB", interleave="pixel"),
    "16 bits in PPM": lambda: b"P6 64 64 65535\n" + WIDE.astype(">u2").tobytes(),
}


@pytest.mark.parametrize("how", COLOURED)
def test_colours_are_those_of_the_picture(how):
    darkest, lightest = patches_of(image.decode(COLOURED[how]()))
    near = 25 if "LAB" in how else 12  # its steps of 8 bits are wide where a band is dark
    assert np.abs(darkest - PATCHES).max() <= near
    assert np.abs(lightest - PATCHES).max() <= near


GREYS = np.array([[65_535, 0], [32_768, 12_850]], np.uint16)

GREY = {
    "in PNG": lambda values: encoded(Pillow.fromarray(values)),
    "in TIFF": lambda values: encoded(Pillow.fromarray(values), "TIFF"),
    "in a TIFF of the other order of bytes": lambda values: tiff_of_gdal(
        values[:, :, None], ENDIANNESS="BIG"
    ),
    "in PGM": lambda values: b"P5 64 64 65535\n" + values.astype(">u2").tobytes(),
}


@pytest.mark.parametrize("how", GREY)
def test_sixteen_bits_of_grey_are_as_light_as_they_were(how):
    sample = image.decode(GREY[how](tiled(GREYS)))
    assert sample.shape == (64, 64, 1)
    for found in patches_of(sample):
        np.testing.assert_allclose(found[:, :, 0], GREYS / 257, atol=0.01)


def see_through(mode="RGBA"):
    """Red as it is, half of green, of blue nothing, all of white."""
    alpha = Pillow.fromarray(tiled(np.array([[255, 128], [0, 255]], np.uint8)))
    made = picture().convert("RGB" if mode == "RGBA" else "L")
    made.putalpha(alpha)
    return made


def with_holes(kind):
    return encoded(coloured_palette(), kind, transparency=7)


HALF, WHITE = [127, 255, 127], [255, 255, 255]
SEEN = np.array([[[255, 0, 0], HALF], [WHITE, WHITE]])
HOLED = np.array([[[255, 0, 0], [0, 255, 0]], [WHITE, WHITE]])
GREY_SEEN = np.array([[[76] * 3, [202] * 3], [WHITE, WHITE]])

TRANSPARENT = {
    "RGBA in PNG": (lambda: encoded(see_through()), SEEN),
    "RGBA in WEBP": (lambda: encoded(see_through(), "WEBP", lossless=True), SEEN),
    "RGBA in TIFF": (lambda: encoded(see_through(), "TIFF"), SEEN),
    "RGBA of 16 bits": (lambda: sixteen_bit_png(np.asarray(see_through()).astype(np.uint16) * 257, 6), SEEN),
    "grey in PNG": (lambda: encoded(see_through("LA")), GREY_SEEN),
    "a number of a palette in PNG": (lambda: with_holes("PNG"), HOLED),
    "a number of a palette in GIF": (lambda: with_holes("GIF"), HOLED),
    "an alpha for each number": (
        lambda: encoded(coloured_palette(), transparency=bytes([255] * 4 + [128, 255, 255, 0] + [255] * 248)),
        SEEN,
    ),
    "one colour of RGB": (lambda: encoded(picture(), transparency=(0, 0, 255)), HOLED),
}


@pytest.mark.parametrize("how", TRANSPARENT)
def test_what_is_transparent_shows_a_white_page(how):
    made, seen = TRANSPARENT[how]
    for found in patches_of(image.decode(made())):
        assert np.abs(found - seen).max() <= 2


@pytest.mark.parametrize("kind", sorted({*READABLE, "MPO"} & {*Pillow.SAVE, "MPO"}))
def test_every_format_that_pillow_writes_is_read_from_a_tar_under_each_of_its_suffixes(kind, tmp_path):
    payload = encoded(gradient("RGB", (16, 16)), kind)
    suffixes = [suffix for suffix, name in Pillow.registered_extensions().items() if name == kind]
    members = [(f"{i}{suffix}", payload) for i, suffix in enumerate(suffixes)]
    (tmp_path / "x.tar").write_bytes(tar_of(members))
    source = open_source("webdataset", f"{tmp_path}/x.tar", column=None, id_column=None, modality=image)
    records = [record for part in source.parts() for record in source.read(part)]
    assert len(records) == len(suffixes) > 0
    for record in records:
        sample = image.decode(record.payload)
        assert sample.shape[:2] == (16, 16)
        assert abs(float(sample.mean()) - 127) < 8
        assert image.suffix(record.payload) in image.suffixes


def test_a_cursor_and_a_document_of_photoshop():
    icon = encoded(gradient("RGB", (16, 16)), "ICO", bitmap_format="bmp")
    cursor = icon[:2] + b"\2" + icon[3:]
    assert image.decode(cursor).shape == (16, 16, 3)
    assert image.suffix(cursor) == ".cur"
    head = struct.pack(">4sH6xHIIHH", b"8BPS", 1, 1, 5, 7, 8, 1)
    document = head + bytes(12) + bytes(2) + np.asarray(gradient("L")).tobytes()
    np.testing.assert_array_equal(image.decode(document)[:, :, 0], np.asarray(gradient("L")))
    assert image.suffix(document) == ".psd"


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "AVIF", "TIFF", "MPO"])
def test_of_an_animation_the_first_frame_is_the_sample(kind):
    frames = [Pillow.new("RGB", (16, 16), colour) for colour in ("red", "blue", "lime")]
    payload = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    assert Pillow.open(io.BytesIO(payload)).n_frames == 3
    assert np.abs(image.decode(payload).astype(int) - [255, 0, 0]).max() < 8


@pytest.mark.parametrize("kind", ["EPS", "WMF", "MPEG", "FLI", "GRIB", "HDF5", "FITS", "XPM", "PDF"])
def test_what_starts_programs_is_drawn_or_moves_is_no_image(kind):
    assert kind not in READABLE
    mine = {suffix for suffix, name in Pillow.registered_extensions().items() if name == kind}
    assert not mine & set(image.suffixes)
    page = (Path(__file__).parents[2] / "docs/modalities.md").read_text()
    assert kind in page


def test_an_icon_that_holds_more_than_it_says():
    small = Image()
    small.max_pixels = 1000
    bomb = encoded(gradient("L", (64, 64)))
    directory = struct.pack("<HHHBBBBHHII", 0, 1, 1, 16, 16, 0, 0, 1, 32, len(bomb), 22)
    with pytest.raises(Rejected, match=r"more than 1,000 pixels"):
        small.decode(directory + bomb)


def test_one_pixel():
    assert image.decode(encoded(Pillow.new("RGB", (1, 1), (9, 8, 7)))).tolist() == [[[9, 8, 7]]]


def test_sixteen_bits_keep_their_depth():
    values = np.array([[0, 257, 65_535], [1, 2, 3]], dtype=np.uint16)
    sample = image.decode(encoded(Pillow.fromarray(values)))
    assert sample.dtype == np.float32
    assert sample.shape == (2, 3, 1)
    np.testing.assert_allclose(sample[:, :, 0], values / 257, rtol=1e-6)


def test_float_pixels_are_scaled_and_nan_is_rejected():
    values = np.array([[-2, 0], [2, 6]], dtype=np.float32)
    sample = image.decode(encoded(Pillow.fromarray(values), "TIFF"))
    np.testing.assert_allclose(sample[:, :, 0], [[0, 63.75], [127.5, 255]])
    values[0, 0] = np.nan
    with pytest.raises(Rejected, match="NaN"):
        image.decode(encoded(Pillow.fromarray(values), "TIFF"))


def test_transparent_pixels_are_white_whatever_lies_under_them():
    picture = Pillow.new("RGBA", (2, 1), (200, 10, 10, 0))
    picture.putpixel((1, 0), (200, 10, 10, 255))
    assert image.decode(encoded(picture)).tolist() == [[[255, 255, 255], [200, 10, 10]]]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation):
    upright = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40
    stored = {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1],
        5: upright.T, 6: np.rot90(upright, 1), 7: np.rot90(upright, 2).T, 8: np.rot90(upright, -1),
    }[orientation]  # fmt: skip
    exif = Pillow.Exif()
    exif[0x0112] = orientation
    payload = encoded(Pillow.fromarray(np.ascontiguousarray(stored)), exif=exif)
    np.testing.assert_array_equal(image.decode(payload)[:, :, 0], upright)


def test_a_broken_exif_block_costs_nothing():
    payload = encoded(gradient("RGB"), "JPEG", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff")
    assert image.decode(payload).shape == (5, 7, 3)


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "empty"),
        (b"no picture at all", "known format"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "known format"),
        (b"\x89PNG\r\n\x1a\n", "known format|truncated"),
        (b"<!DOCTYPE html><html><body>404 Not Found</body></html>", "known format"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'><circle r='9'/></svg>", "known format"),
        (b"<?xml version='1.0'?>\n<svg width='9' height='9'></svg>", "known format"),
    ],
)
def test_what_is_no_image_is_rejected_with_a_sentence(payload, reason):
    with pytest.raises(Rejected, match=reason) as caught:
        image.decode(payload)
    assert re.fullmatch(r"[A-Z][^\n]+\.", str(caught.value))


def test_the_limit_is_the_modality_s_and_not_pillow_s(monkeypatch):
    small = Image()
    small.max_pixels = 34
    with pytest.raises(Rejected, match=r"more than 34 pixels \(limits\.pixels\)"):
        small.decode(encoded(gradient("L")))
    monkeypatch.setattr(Pillow, "MAX_IMAGE_PIXELS", 10)
    small.max_pixels = 35
    assert small.decode(encoded(gradient("L"))).size == 35


def test_a_bomb_is_rejected_before_it_is_unpacked():
    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    for side in (11_000, 50_000):
        header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
        data = zlib.compress(bytes(1000))
        bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
        with pytest.raises(Rejected, match="pixels"):
            image.decode(bomb)


@given(st.sampled_from(["PNG", "JPEG", "GIF", "TIFF", "WEBP"]), st.data())
def test_damaged_files_are_rejected_or_decoded_but_never_raise_anything_else(kind, data):
    payload = bytearray(encoded(gradient("RGB", (16, 16)), kind))
    cut = data.draw(st.integers(0, len(payload)))
    for place in data.draw(st.lists(st.integers(0, len(payload) - 1), max_size=6)):
        payload[place] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(Rejected):
        assert image.decode(bytes(payload[:cut])).shape[2] in (1, 3)


def test_truncated_jpeg():
    noise = Pillow.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    payload = encoded(noise, "JPEG")
    with pytest.raises(Rejected, match="truncated"):
        image.decode(payload[: len(payload) // 2])


def test_describe_and_suffix():
    payload = encoded(gradient("L"), "JPEG")
    about = image.describe(image.decode(payload), payload)
    assert about == {"width": 7, "height": 5, "bytes": len(payload)}
    assert set(about) == set(image.columns)
    assert image.suffix(payload) == ".jpg"
    assert image.suffix(encoded(gradient("P"))) == ".png"


@pytest.mark.parametrize("size", [(8, 8), (1, 1), (300, 20), (1, 4000)])
def test_show_is_a_small_picture_with_an_escaped_title(size):
    fragment = image.show(encoded(Pillow.new("RGB", size)), 'a"<b>.png')
    assert "<b>" not in fragment
    data = re.search(r"base64,([^\"]+)", fragment)[1]
    assert max(Pillow.open(io.BytesIO(base64.b64decode(data))).size) <= THUMBNAIL


def test_show_says_why_it_cannot():
    assert "empty" in image.show(b"", "x")


@pytest.mark.parametrize("length", [0, 1, 20, 10_000, 2**31 - 1, 2**32 - 1])
def test_a_png_with_a_false_length(length):
    """It is rejected, or is the very picture: a length that is too long hides no pixel."""
    whole = encoded(gradient("RGB", (32, 32)))
    for name in (b"IDAT", b"IHDR"):
        payload, place = bytearray(whole), whole.index(name) - 4
        payload[place : place + 4] = struct.pack(">I", length)
        if name == b"IDAT" and length > 20:
            np.testing.assert_array_equal(image.decode(bytes(payload)), image.decode(whole))
            continue
        with pytest.raises(Rejected, match="truncated or damaged|known format"):
            image.decode(bytes(payload))


def test_a_huge_picture_of_one_colour_takes_no_memory():
    assert image.decode(one_colour(64)).min() == 255
    huge = one_colour(30_000)
    assert len(huge) < 200_000
    with grown() as most, pytest.raises(Rejected, match="more than 100,000,000 pixels"):
        image.decode(huge)
    assert most() < 20 * 2**20
