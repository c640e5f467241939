"""Small files that claim to be huge, and huge ones: rejected with a reason, and the rest is curated."""

import json
import struct
import zlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image as Pillow

import modalities
from modalities.base import MAX_PIXELS, Rejected
from modalities.encoders.tokens import MAX_CHARACTERS
from modalities.sources import files
from pipelines.configfile import load_config
from pipelines.pool import open_pool
from pipelines.store import Store
from tests.modalities.sources.tars import tar_of
from tests.pipelines.conftest import png, rows_of

HUGE = 100_000_000


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_of(width, height, *chunks):
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(10_000))
    parts = [chunk(b"IHDR", header), *chunks, chunk(b"IDAT", pixels), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def tiff_of(width, height):
    """A TIFF of one strip whose header claims any size."""
    tags = [
        (256, 4, width),
        (257, 4, height),
        (258, 3, 8),
        (259, 3, 1),
        (262, 3, 1),
        (273, 4, 8),
        (277, 3, 1),
    ]
    tags += [(278, 4, height), (279, 4, 16)]
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    body = bytes(16)
    return (
        struct.pack("<2sHI", b"II", 42, 8 + len(body))
        + body
        + struct.pack("<H", len(tags))
        + entries
        + bytes(4)
    )


def bmp_of(width, height):
    header = struct.pack("<IHHI", 200, 0, 0, 54)
    return b"BM" + header + struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, *[0] * 6) + bytes(100)


def many_pixels():
    return {
        "square.png": png_of(60_000, 60_000),
        "wide.png": png_of(2**31 - 1, 2),
        "square.tif": tiff_of(60_000, 60_000),
        "tall.tif": tiff_of(1, MAX_PIXELS + 1),
        "square.ppm": b"P6 60000 60000 255\n" + bytes(100),
        "square.bmp": bmp_of(60_000, 60_000),
    }


@pytest.mark.parametrize("name", many_pixels())
def test_pictures_that_claim_too_many_pixels(name):
    image = modalities.modality("image")
    with pytest.raises(Rejected, match="more than 100,000,000 pixels"):
        image.decode(many_pixels()[name])
    assert "100,000,000 pixels" in image.show(many_pixels()[name], name)


def test_text_in_a_picture_that_unpacks_to_too_much():
    bomb = chunk(b"zTXt", b"comment\0\0" + zlib.compress(bytes(HUGE), 9))
    with pytest.raises(Rejected):
        modalities.modality("image").decode(png_of(8, 8, bomb))


def test_the_limit_is_stricter_than_pillows():
    assert Pillow.MAX_IMAGE_PIXELS is not None
    assert 2 * Pillow.MAX_IMAGE_PIXELS > MAX_PIXELS  # from where Pillow itself refuses


@pytest.mark.parametrize("modality", ["image", "satellite"])
@pytest.mark.parametrize("form", ["files", "webdataset", "parquet"])
def test_the_limit_is_that_of_the_config(write_config, tmp_path, digits, modality, form):
    folder = tmp_path / "pool"
    folder.mkdir()
    if form == "files":
        (folder / "0.png").write_bytes(digits[0])
    elif form == "webdataset":
        (folder / "x.tar").write_bytes(tar_of([("0.png", digits[0])]))
    else:
        pq.write_table(pa.table({"image": [digits[0]]}), folder / "x.parquet")
    for most in (63, 64):
        config = load_config(str(write_config(folder, modality=modality, limits={"pixels": most})))
        pool = open_pool(config)
        (record,) = pool.source.read(pool.parts[0])
        if most == 64:
            assert pool.modality.decode(record.payload).shape == (8, 8, 1)
            continue
        with pytest.raises(Rejected, match=r"more than 63 pixels \(limits\.pixels\)"):
            pool.modality.decode(record.payload)


@pytest.mark.slow
def test_bombs_cost_only_themselves(evenset, write_config, tmp_path, digits):
    pool = tmp_path / "pool"
    pool.mkdir()
    bombs = many_pixels() | {
        "text.png": png_of(8, 8, chunk(b"zTXt", b"c\0\0" + zlib.compress(bytes(HUGE), 9)))
    }
    for name, payload in bombs.items():
        (pool / name).write_bytes(payload)
    for i, payload in enumerate(digits[:40]):
        (pool / f"{i}.png").write_bytes(payload)
    config = write_config(pool, cluster={"n_clusters": [4]}, sample={"size": 10})
    done = evenset("run", config)
    assert done.code == 0, done
    rejects = rows_of(Store(str(tmp_path / "run")), "rejected/embed")
    assert set(rejects) == set(bombs)
    assert all(row["reason"].endswith(".") for row in rejects.values())
    less = evenset("embed", config, "limits.pixels=63")
    assert less.code == 1
    assert "limits.pixels (nothing) -> 63" in less.text
    assert "more than 63 pixels" in less.text


def records(path, form, name):
    pool = modalities.source(form, str(path), modality=modalities.modality(name))
    return [record for part in pool.parts() for record in pool.read(part)]


def test_a_text_of_a_hundred_megabytes_is_cut_before_it_is_tokenised(tmp_path):
    text, encoder = (
        modalities.modality("text"),
        modalities.encoder("sentence-transformers:all-MiniLM-L6-v2", modalities.modality("text")),
    )
    (tmp_path / "long.txt").write_bytes(b"word " * (HUGE // 5))
    (record,) = records(tmp_path, "files", "text")
    sample = text.decode(record.payload)
    assert len(sample) == HUGE
    prepared = encoder.prepare(sample)
    assert len(prepared) < MAX_CHARACTERS
    assert encoder.is_truncated(sample, prepared)
    assert len(text.show(record.payload, record.uri)) < 2_000
    clip = modalities.encoder("open_clip:ViT-S-32-alt/", text)
    assert len(clip.prepare(sample)) < 100_000


def test_a_line_of_a_hundred_megabytes_costs_only_itself(tmp_path):
    line = json.dumps({"text": "x" * HUGE})
    (tmp_path / "pool.jsonl").write_text(f'{{"text": "a"}}\n{line}\n{{"text": "b"}}\n')
    found = records(tmp_path / "pool.jsonl", "jsonl", "text")
    assert [record.payload for record in found] == [b"a", None, b"b"]
    assert "more than" in found[1].reason


@pytest.mark.parametrize("line", ["[" * 100_000, '{"text": ' * 50_000, '{"text": 1' + "0" * 10_000 + "}"])
def test_lines_that_are_hard_to_parse(tmp_path, line):
    (tmp_path / "pool.jsonl").write_text(f'{{"text": "a"}}\n{line}\n')
    found = records(tmp_path / "pool.jsonl", "jsonl", "text")
    assert [record.payload for record in found] == [b"a", None]


def test_a_file_above_the_limit_is_not_read(tmp_path):
    with (tmp_path / "huge.png").open("wb") as file:
        file.write(png(np.zeros((8, 8), np.uint8)))
        file.truncate(files.SAMPLE_BYTES + 1)  # a hole: it takes no room
    (record,) = records(tmp_path, "files", "image")
    assert record.payload is None
    assert "more than" in record.reason
