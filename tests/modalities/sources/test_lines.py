import gzip
import json
import pickle
import tracemalloc

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from modalities.base import ModalityError
from modalities.image import Image
from modalities.sources import JsonLinesSource, TextLinesSource
from modalities.sources.compression import MAGIC
from modalities.sources.paths import list_files
from modalities.text import Text


def everything(pool):
    return [record for part in pool.parts() for record in pool.read(part)]


def json_lines(path, modality=None, **options):
    return JsonLinesSource(list_files(str(path)), modality or Text(), **options)


@given(
    lines=st.lists(st.binary(max_size=30).map(lambda b: b.replace(b"\n", b"")), min_size=1, max_size=40),
    part_rows=st.integers(1, 12),
    end=st.sampled_from([b"", b"\n"]),
)
def test_every_line_comes_once(lines, part_rows, end, tmp_path_factory):
    path = tmp_path_factory.mktemp("pool") / "x.txt"
    path.write_bytes(b"\n".join(lines) + end)
    assume(not path.read_bytes().startswith(tuple(MAGIC)))
    expected = path.read_bytes().split(b"\n")
    if expected[-1] == b"":
        expected.pop()
    pool = TextLinesSource(list_files(str(path)), part_rows)
    if not expected:
        with pytest.raises(ModalityError, match="empty"):
            pool.parts()
        return
    records = everything(pool)
    assert [r.payload for r in records] == [line.removesuffix(b"\r") for line in expected]
    assert [r.id for r in records] == [f"x.txt#{row}" for row in range(len(expected))]
    assert all(part.spec["stop"] - part.spec["start"] <= part_rows for part in pool.parts())


def test_long_lines_stand_alone(tmp_path, monkeypatch):
    monkeypatch.setattr("modalities.sources.runs.PART_BYTES", 20)
    monkeypatch.setattr(TextLinesSource, "sample_bytes", 20)
    monkeypatch.setattr("modalities.sources.lines.CHUNK", 7)
    lines = [b"a" * 9, b"b" * 9, b"c" * 9, b"d" * 50, b"e"]
    (tmp_path / "x.txt").write_bytes(b"\n".join(lines))
    records = everything(TextLinesSource(list_files(str(tmp_path / "x.txt"))))
    assert [r.payload for r in records] == [*lines[:3], None, b"e"]
    assert "more than" in records[3].reason


def test_an_id_that_is_not_unicode_costs_only_its_line(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"text": "one", "id": "\\ud800"}\n{"text": "two", "id": "b"}\n')
    records = everything(json_lines(tmp_path, id_column="id"))
    assert [(r.id, r.payload) for r in records] == [("x.jsonl#0", None), ("b", b"two")]
    assert "Unicode" in records[0].reason


def test_a_bad_line_costs_only_itself(tmp_path):
    lines = [
        b'{"text": "one", "id": "a"}', b"", b"{broken", b'["text"]', b'{"other": 1}',
        b'{"text": 3, "id": "b"}',
        b'{"text": null, "id": "c"}', b'{"text": "\\ud800", "id": "d"}', b"\xff\xfe", b"[" * 100_000,
        b'{"text": "no id"}', b'{"text": "two", "id": 2}\r',
    ]  # fmt: skip
    (tmp_path / "x.jsonl").write_bytes(b"\n".join(lines))
    records = everything(json_lines(tmp_path, id_column="id"))
    assert len(records) == len(lines)
    assert [(r.id, r.payload) for r in records if r.payload is not None] == [("a", b"one"), ("2", b"two")]
    assert all(r.reason.endswith(".") for r in records if r.payload is None)
    assert len({r.id for r in records}) == len(lines)


@given(texts=st.lists(st.text(), min_size=1, max_size=20))
def test_any_text_survives_json(texts, tmp_path_factory):
    path = tmp_path_factory.mktemp("pool") / "x.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    assert [r.payload.decode() for r in everything(json_lines(path))] == texts


def test_missing_keys_are_named(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"body": "x"}\n')
    with pytest.raises(ModalityError, match=r"'text'.*body"):
        json_lines(tmp_path).parts()
    with pytest.raises(ModalityError, match=r"'n'.*body"):
        json_lines(tmp_path, column="body", id_column="n").parts()


def test_addresses_of_images(tmp_path):
    (tmp_path / "a.png").write_bytes(b"a")
    (tmp_path / "x.jsonl").write_text('{"url": "a.png"}\n{"url": "../a.png"}\n')
    records = everything(json_lines(tmp_path, Image(), column="url"))
    assert [r.payload for r in records] == [b"a", None]


def test_a_file_that_shrank_is_rejected_row_by_row(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("a\nb\nc\n")
    pool = TextLinesSource(list_files(str(path)))
    parts = pool.parts()
    path.write_text("a\n")
    assert [r.payload for r in pool.read(parts[0])] == [None] * 3
    path.unlink()
    assert [bool(r.reason) for r in pool.read(parts[0])] == [True] * 3


def test_it_travels(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"text": "x"}\n' * 5)
    pool = json_lines(tmp_path)
    copy = pickle.loads(pickle.dumps(pool))
    assert copy.parts() == pool.parts()
    assert everything(copy) == everything(pool)


def zstd(data):
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


CODECS = {"gz": gzip.compress, "zst": zstd}


@pytest.mark.parametrize("codec", CODECS)
def test_compressed_lines_in_whatever_order_parts_are_read(tmp_path, codec):
    texts = [f"text {row} " * (row % 50) + "x" for row in range(3000)]
    content = "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()
    half = len(content) // 2
    (tmp_path / f"x.jsonl.{codec}").write_bytes(CODECS[codec](content[:half]) + CODECS[codec](content[half:]))
    pool = json_lines(tmp_path, part_rows=100)
    parts = pool.parts()
    order = [*parts[1::3], *parts[::3], *parts[2::3]]
    read = {part.index: [r.payload.decode() for r in pool.read(part)] for part in order}
    assert [text for part in parts for text in read[part.index]] == texts
    assert next(iter(pool.read(parts[0]))).id == f"x.jsonl.{codec}#0"


@pytest.mark.parametrize("codec", CODECS)
def test_of_a_compressed_file_that_is_cut_what_comes_before_is_kept(tmp_path, codec):
    random = np.random.default_rng(0).integers(0, 10**9, 100_000)
    lines = [b"%d" % number for number in random]
    whole = CODECS[codec](b"\n".join(lines))
    (tmp_path / f"x.txt.{codec}").write_bytes(whole[: len(whole) // 2])
    *kept, last = everything(TextLinesSource(list_files(str(tmp_path))))
    assert len(kept) > 20_000
    assert [r.payload for r in kept] == lines[: len(kept)]
    assert last.payload is None
    assert "cut off" in last.reason


def test_a_name_that_promises_compression_is_not_believed(tmp_path):
    (tmp_path / "x.jsonl.gz").write_text('{"text": "plain"}\n')
    (tmp_path / "y.jsonl").write_bytes(gzip.compress(b'{"text": "packed"}\n'))
    assert [r.payload for r in everything(json_lines(tmp_path))] == [b"plain", b"packed"]


@pytest.mark.parametrize("codec", CODECS)
def test_a_line_that_inflates_to_far_above_the_limit_is_never_held(tmp_path, codec):
    bomb = CODECS[codec](bytes(2**20)) * 160
    assert len(bomb) < 2**20
    end = CODECS[codec](b"\nlast")
    (tmp_path / f"x.txt.{codec}").write_bytes(CODECS[codec](b"first\n") + bomb + end)
    tracemalloc.start()
    records = everything(TextLinesSource(list_files(str(tmp_path))))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [r.payload for r in records] == [b"first", None, b"last"]
    assert "more than" in records[1].reason
    assert peak < 64 * 2**20


WORDS = [
    "שלום עולם",
    "مرحبا بالعالم",
    "\u202eabc\u202c",
    "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𐎠𐎡",
    "👩‍🚀 家族",
    "z\u0301\u0323",
    "a\0b",
    "\x85\u2028",
]


def test_writing_of_every_direction_and_plane_comes_through(tmp_path):
    lines = [json.dumps({"text": word, "id": word}, ensure_ascii=bool(i % 2)) for i, word in enumerate(WORDS)]
    (tmp_path / "x.jsonl").write_text("\n".join(lines), encoding="utf-8")
    records = everything(json_lines(tmp_path, id_column="id"))
    assert [(r.id, r.payload.decode()) for r in records] == [(word, word) for word in WORDS]
    (tmp_path / "x.txt").write_text("\n".join(WORDS), encoding="utf-8")
    assert [r.payload.decode() for r in everything(TextLinesSource(list_files(f"{tmp_path}/x.txt")))] == WORDS
    for record in records[:-1]:
        sample = Text().decode(record.payload)
        assert Text().describe(sample, record.payload) == {"characters": len(sample)}


def test_nul_bytes_and_bytes_that_are_no_text(tmp_path):
    lines = [b'{"text": "a"}', b'{"text": "a\0b"}', b'\0{"text": "a"}', b"\0" * 9, b'{"text": "\xc3("}']
    (tmp_path / "x.jsonl").write_bytes(b"\n".join(lines))
    records = everything(json_lines(tmp_path))
    assert [r.payload for r in records] == [b"a", None, None, None, None]
    assert [r.reason for r in records[1:]] == ["The line is not valid JSON."] * 3 + [
        "The line is not valid UTF-8."
    ]


def test_a_line_of_fifty_megabytes_is_a_sample(tmp_path):
    line = b'{"text": "' + b"word " * (10 * 2**20) + b'"}'
    assert len(line) > 50 * 10**6
    (tmp_path / "x.jsonl").write_bytes(b'{"text": "a"}\n' + line + b'\n{"text": "b"}\n')
    pool = json_lines(tmp_path)
    assert [len(r.payload) for r in everything(pool)] == [1, 50 * 2**20, 1]
    assert max(part.spec["length"] for part in pool.parts()) <= 64 * 2**20
