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


def one_colour(side):
    """A white PNG of one bit a pixel: valid, a few kilobytes, and huge when it is unpacked."""
    chunks = {"IHDR": struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0), "IDAT": b"", "IEND": b""}
    packed, row = zlib.compressobj(), b"\0" + b"\xff" * -(-side // 8)
    chunks["IDAT"] = b"".join(packed.compress(row) for _ in range(side)) + packed.flush()
    named = [(name.encode(), data) for name, data in chunks.items()]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in named
    )


def memory(key):
    """Bytes of this process: VmRSS is what it has, VmHWM the most since it was told to forget."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key)]
    return int(line.split()[1]) * 1024


def test_a_huge_picture_of_one_colour_takes_no_memory():
    assert image.decode(one_colour(64)).min() == 255
    huge = one_colour(30_000)
    assert len(huge) < 200_000
    Path("/proc/self/clear_refs").write_text("5")
    before = memory("VmRSS")
    with pytest.raises(Rejected, match="more than 100,000,000 pixels"):
        image.decode(huge)
    assert memory("VmHWM") - before < 20 * 2**20
