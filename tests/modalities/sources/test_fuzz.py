"""Damaged files of every kind: what a reader cannot use it rejects, or refuses in a sentence; it never dies.

Each input is a valid file with some bytes flipped, cut out, repeated, put in, or made into numbers that lie.
A few hundred are tried whenever the tests are run, more than ten thousand in those that are marked slow.
"""

import gzip
import io
import json
import re
import signal
import subprocess
import sys
import tarfile
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow
from rasterio.io import MemoryFile
from rasterio.transform import from_origin

import modalities
from modalities.base import ModalityError, Rejected, Settings
from modalities.satellite_settings import SatelliteSettings
from modalities.sources import EmbeddingsSource
from pipelines.pool import samples_of
from tests.modalities.scenes import CORNER, UTM, values
from tests.modalities.sources.tars import special, tar_of

SECONDS = 60
"""After which a reader hangs."""

ROOT = Path(__file__).resolve().parents[3]

FEW, MANY = 20, 640
"""Inputs of each reader."""


@dataclass(frozen=True)
class Reader:
    """A kind of pool: its file, what its samples are, valid contents, and how it is read."""

    file: str
    modality: str
    valid: list[bytes]
    format: str = "auto"
    columns: dict[str, str] = field(default_factory=dict)
    settings: Settings | None = None
    prefix: str = ""


def zstd(data):
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


def picture(kind="PNG", mode="RGB", **options):
    pixels = np.random.default_rng(0).integers(0, 255, (12, 16), dtype=np.uint8)
    buffer = io.BytesIO()
    Pillow.fromarray(pixels).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


def scene(pixels, **way):
    """A GeoTIFF of (bands, rows, columns)."""
    bands, height, width = pixels.shape
    place = {"crs": UTM, "transform": from_origin(*CORNER, 10, 10)}
    shape = {"width": width, "height": height, "count": bands, "dtype": pixels.dtype}
    with MemoryFile() as memory:
        with memory.open(driver="GTiff", **shape, **place, **way) as file:
            file.write(pixels)
            file.update_tags(DATETIME="2020:01:31 10:13:21")
        return bytes(memory.getbuffer())


def parquet(columns, **options):
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer, **options)
    return buffer.getvalue()


def npy(dtype):
    buffer = io.BytesIO()
    np.save(buffer, VECTORS.astype(dtype))
    return buffer.getvalue()


def tar(form):
    members = {"png": PNG, "json": json.dumps({"id": "x", "text": "caption"}).encode()}
    found = [(f"{'folder/' * 20}{i}.{kind}", data) for i in range(4) for kind, data in members.items()]
    return tar_of([*found, (special("link.png", tarfile.SYMTYPE, "x"), None)], form)


PNG = picture()
WORDS = ["one", "zwei 二", "שלום", "", "a\tb", "𝔘"] * 4
LINES = "\n".join(WORDS).encode()
JSON = "\n".join(
    json.dumps({"id": i, "text": w, "n": [1, {"a": None}]}) for i, w in enumerate(WORDS)
).encode()
VECTORS = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
TEXTS = [parquet({"id": [*range(24)], "text": WORDS}, compression=c) for c in ("none", "snappy", "zstd")]
BYTES = pa.array([PNG] * 3, pa.binary())
STRUCTS = pa.StructArray.from_arrays([BYTES, pa.array(["a.png", "../b.png", None])], ["bytes", "path"])
EMBEDDED = {"id": [str(i) for i in range(30)], "embedding": VECTORS.tolist()}
TARS = [tar(form) for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT)]
PICTURES = [
    *(picture(mode=mode) for mode in ("RGBA", "P", "I;16", "1")),
    *(picture("JPEG", mode, progressive=mode == "L") for mode in ("RGB", "CMYK", "L")),
    *(picture("TIFF", compression=way) for way in ("raw", "tiff_lzw", "jpeg")),
    *(picture(kind) for kind in ("GIF", "WEBP", "BMP", "PPM", "JPEG2000", "AVIF")),
    *(picture(kind) for kind in ("QOI", "DDS", "DIB", "ICO", "SGI", "PCX", "TGA")),
]
SCENES = [
    scene(values(3, 40, 48), tiled=True, blockxsize=32, blockysize=32, compress="deflate"),
    scene(values(3, 40, 48, "uint8"), compress="lzw", nodata=0),
    scene(values(2, 40, 48, "float32"), interleave="band", compress="packbits"),
]
IDS, CHIPS = {"id_column": "id"}, SatelliteSettings(chip=32, scale="none")

READERS = {
    "jsonl": Reader("x.jsonl", "text", [JSON], columns=IDS),
    "jsonl.gz": Reader("x.jsonl.gz", "text", [gzip.compress(JSON), gzip.compress(JSON) * 2]),
    "jsonl.zst": Reader("x.jsonl.zst", "text", [zstd(JSON), zstd(JSON) * 2]),
    "txt": Reader("x.txt", "text", [LINES], "txt"),
    "txt.gz": Reader("x.txt.gz", "text", [gzip.compress(LINES), zstd(LINES)], "txt"),
    "list": Reader("x.txt", "text", [b"# x\nx.txt\na.txt\n../b.txt\n"], "files", prefix="list:"),
    "parquet of texts": Reader("x.parquet", "text", TEXTS, columns={"column": "text", **IDS}),
    "parquet of bytes": Reader("x.parquet", "image", [parquet({"image": BYTES, "n": [1, 2, None]})]),
    "parquet of structs": Reader("x.parquet", "image", [parquet({"image": STRUCTS})], "parquet"),
    "parquet of embeddings": Reader("x.parquet", "image", [parquet(EMBEDDED)], "embeddings"),
    "npy": Reader("x.npy", "image", [npy(kind) for kind in ("float16", "float32", "float64")]),
    "tar": Reader("x.tar", "image", TARS, columns=IDS),
    "tar.gz": Reader("x.tar.gz", "image", [gzip.compress(one) for one in TARS]),
    "tar.zst": Reader("x.tar.zst", "text", [zstd(one) for one in TARS]),
    "pictures": Reader("x.png", "image", PICTURES, "files"),
    "scenes": Reader("x.tif", "satellite", SCENES, "geotiff", settings=CHIPS),
    "tiles": Reader("x.tif", "satellite", [*SCENES, *PICTURES], "files", settings=CHIPS),
}

NUMBERS = (
    b"\0" * 4,
    b"\xff" * 4,
    b"\xff\xff\xff\x7f",
    b"\x7f\xff\xff\xff",
    b"\0\0\0\x80",
    b"-1 9",
    b"\x80" * 8,
)


@st.composite
def damaged(draw, valid):
    """A valid file, damaged in up to five places."""
    data = bytearray(draw(st.sampled_from(valid)))
    for _ in range(draw(st.integers(0, 5))):
        at, size = draw(st.integers(0, max(len(data) - 1, 0))), draw(st.integers(1, 64))
        way = draw(st.sampled_from(["flip", "flip", "number", "cut", "end", "repeat", "put in"]))
        if way == "flip" and data:
            data[at] ^= draw(st.integers(1, 255))
        elif way == "number":
            data[at : at + 4] = draw(st.sampled_from(NUMBERS))
        elif way == "cut":
            del data[at : at + size]
        elif way == "end":
            del data[at:]
        elif way == "repeat":
            data[at:at] = data[at : at + size] * draw(st.integers(1, 40))
        elif way == "put in":
            data[at:at] = draw(st.binary(max_size=16))
    return bytes(data)


@contextmanager
def bounded():
    """Ends what hangs."""

    def end(*_):
        raise AssertionError(f"it takes more than {SECONDS} seconds")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def check(sentence):
    assert sentence == sentence.strip()
    assert len(sentence.split()) > 2


def play(reader, payload, folder):
    """Read a pool of one file to its end; return what became of its samples, counted."""
    path = folder / reader.file
    path.write_bytes(payload)
    modality = modalities.modality(reader.modality, reader.settings)
    modality.max_pixels = 1_000_000
    where, became = f"{reader.prefix}{path}", Counter()
    try:
        source = modalities.source(
            reader.format, where, modality=modality, timeout=SECONDS / 2, **reader.columns
        )
        for part in source.parts():
            if isinstance(source, EmbeddingsSource):
                reasons = source.read_vectors(part)[3]
                became.update("rejected" if reason else "used" for reason in reasons)
            else:
                records = list(source.read(part))
                became.update(judged(modality, record) for record in records)
                assert len(records) == samples_of(part)
    except ModalityError as refusal:
        check(str(refusal))
        became["refused"] += 1
    return became


def judged(modality, record):
    """What becomes of a sample; raises where it is neither used nor rejected in a sentence."""
    (record.id + record.uri).encode()
    reason = record.reason
    if record.payload is not None:
        assert reason is None
        try:
            modality.describe(modality.decode(record.payload), record.payload)
            return "used"
        except Rejected as rejection:
            reason = str(rejection)
    check(reason)
    assert "limits.timeout" not in reason
    return "rejected"


def fuzz(reader, inputs, folder, **how):
    became = Counter()

    @settings(max_examples=inputs, database=None, suppress_health_check=list(HealthCheck), **how)
    @given(damaged(reader.valid))
    def once(payload):
        with bounded():
            became.update(play(reader, payload, folder))
        became["inputs"] += 1

    once()
    assert became["used"]
    assert became["rejected"] + became["refused"]
    return became


@pytest.mark.parametrize("name", READERS)
def test_damaged_files(name, tmp_path):
    fuzz(READERS[name], FEW, tmp_path, derandomize=True)


@pytest.mark.slow
def test_ten_thousand_damaged_files(tmp_path, capsys):
    total = Counter()
    for name, reader in READERS.items():
        became = fuzz(reader, MANY, tmp_path)
        total += became
        with capsys.disabled():
            print(f"\n{name}: {', '.join(f'{n:,} {what}' for what, n in sorted(became.items()))}", end="")
    with capsys.disabled():
        print(f"\nin all: {', '.join(f'{n:,} {what}' for what, n in sorted(total.items()))}")
    assert total["inputs"] >= 10_000


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_ten_thousand_inputs_that_coverage_leads_to(tmp_path, capsys):
    pytest.importorskip("atheris", reason="atheris is built for Linux on x86-64")
    total = 0
    for name in READERS:
        command = [sys.executable, "-m", "tests.modalities.sources.atheris_fuzz", name, str(MANY)]
        told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
        assert told.returncode == 0, told.stdout + told.stderr
        total += int(re.search(r"Done (\d+) runs", told.stderr)[1])
        reached = re.findall(r"cov: (\d+) .*corp: (\d+)", told.stderr)[-1]
        with capsys.disabled():
            print(f"\n{name}: {reached[0]} edges reached, by {reached[1]} inputs", end="")
    assert total >= 10_000
