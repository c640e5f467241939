import json
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modalities.base import ModalityError
from modalities.image import Image
from modalities.sources import JsonLinesSource, TextLinesSource
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
    monkeypatch.setattr("modalities.sources.lines.PART_BYTES", 20)
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
