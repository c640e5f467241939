import datetime as dt
import json
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from modalities.base import ModalityError
from modalities.image import Image
from modalities.sources import open_source
from modalities.text import Text

from .tars import special, tar_of

SIGNED = "s3://user:hunter2@host/a.png?X-Amz-Signature=abc"
CLEAN = "s3://***@host/a.png?X-Amz-Signature=***"


def opened(fmt, path, keep, modality=None, column=None):
    modality = modality or Text()
    return open_source(fmt, str(path), column=column, id_column=None, keep=keep, modality=modality)


def kept(pool):
    return [record.kept for part in pool.parts() for record in pool.read(part)]


def test_columns_of_parquet_keep_their_types(tmp_path):
    when = dt.datetime(2020, 1, 2, tzinfo=dt.UTC)
    table = pa.table(
        {
            "text": ["one", "two"],
            "license": pa.array(["CC0", None]).dictionary_encode(),
            "when": pa.array([when, None], pa.timestamp("ms", "UTC")),
            "from": [[{"url": SIGNED}], None],
            "raw": pa.array([b"x", b"y"]),
        }
    )
    pq.write_table(table, tmp_path / "x.parquet")
    pool = opened("parquet", tmp_path, ["license", "when", "from", "raw"], column="text")
    assert pool.kept["license"] == pa.string()
    assert {key: kind for key, kind in pool.kept.items() if key != "license"} == {
        key: table.schema.field(key).type for key in ("when", "from", "raw")
    }
    assert kept(pool) == [
        {"license": "CC0", "when": when, "from": [{"url": CLEAN}], "raw": b"x"},
        {"license": None, "when": None, "from": None, "raw": b"y"},
    ]


def test_a_kept_string_that_is_not_utf8_is_null(tmp_path):
    names = pa.Array.from_buffers(pa.string(), 2, pa.array([b"\xff", b"b"], pa.binary()).buffers())
    pq.write_table(pa.table({"text": ["one", "two"], "name": names}), tmp_path / "x.parquet")
    assert kept(opened("parquet", tmp_path, ["name"], column="text")) == [{"name": None}, {"name": "b"}]


OBJECTS = [
    {"text": "one", "license": SIGNED, "n": 1, "tags": ["é", None]},
    {"text": "two", "license": "\ud800", "n": None},
]
EXPECTED = [
    {"license": CLEAN, "n": "1", "tags": '["é", null]'},
    {"license": "\\ud800", "n": None, "tags": None},
]


def test_keys_of_json_are_strings(tmp_path):
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, OBJECTS)))
    pool = opened("jsonl", tmp_path, ["license", "n", "tags"])
    assert set(pool.kept.values()) == {pa.string()}
    assert kept(pool) == EXPECTED


def test_keys_of_json_members_are_strings(tmp_path):
    members = [(f"{i}.json", json.dumps(value).encode()) for i, value in enumerate(OBJECTS)]
    (tmp_path / "x.tar").write_bytes(tar_of([*members, ("2.txt", b"no json")]))
    pool = opened("webdataset", tmp_path, ["license", "n", "tags"])
    assert kept(pool) == [*EXPECTED, dict.fromkeys(EXPECTED[0])]


def test_members_of_text_are_strings_and_keys_of_json_come_first(tmp_path):
    members = [
        *(("0.png", b"x"), ("0.CLS", b" 7\n"), ("0.caption.txt", "\ufeffein Häuschen".encode())),
        *(("1.png", b"x"), ("1.cls", b"7"), ("1.json", b'{"cls": 8, "n": null}'), ("1.caption.txt", b"")),
        *(("2.png", b"x"), ("2.cls", b"\xff"), ("2.caption.txt", b"x" * (2**16 + 1))),
        *(("3.png", b"x"), ("3.n", b"3"), ("3.caption.txt", SIGNED.encode())),
        ("4.png", b"x"), (special("4.cls", tarfile.SYMTYPE, "3.n"), None),
    ]  # fmt: skip
    (tmp_path / "x.tar").write_bytes(tar_of(members))
    pool = opened("webdataset", tmp_path, ["cls", "n", "caption.txt"], Image())
    assert set(pool.kept.values()) == {pa.string()}
    assert [tuple(values.values()) for values in kept(pool)] == [
        ("7", None, "ein Häuschen"), ("8", None, ""), (None, None, None), (None, "3", CLEAN),
        (None, None, None),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("keep", "members", "there"),
    [
        ("label", [("0.png", b"\xff"), ("0.cls", b"7"), ("1.json", b'{"n": 1}')], "cls, json, n"),
        ("png", [("0.png", b"\xff"), ("0.cls", b"7")], "cls"),
        ("cls", [("0.png", b"\xff")], "none at all"),
    ],
)
def test_what_no_sample_of_a_tar_has_is_refused(tmp_path, keep, members, there):
    (tmp_path / "x.tar").write_bytes(tar_of(members))
    with pytest.raises(ModalityError, match=f"a json key or a text member '{keep}'; they have {there}"):
        opened("webdataset", tmp_path, [keep], Image()).parts()


@pytest.mark.parametrize(
    ("keep", "modality", "said"),
    [
        (["path"], Text(), "'path'"),
        (["characters"], Text(), "'characters'"),
        (["width"], Image(), "'width'"),
        (["n", "n"], Text(), "twice"),
        (["licence"], Text(), "'licence'.*license"),
    ],
)
@pytest.mark.parametrize("fmt", ["parquet", "jsonl", "webdataset"])
def test_names_that_cannot_be_kept_are_refused(tmp_path, fmt, keep, modality, said):
    pq.write_table(pa.table({"text": ["x"], "license": ["y"], "n": [1]}), tmp_path / "x.parquet")
    (tmp_path / "x.jsonl").write_text('{"text": "x", "license": "y", "n": 1}\n')
    (tmp_path / "x.tar").write_bytes(tar_of([("a.json", b'{"text": "x", "license": "y", "n": 1}')]))
    with pytest.raises(ModalityError, match=f"{said}"):
        opened(fmt, tmp_path, keep, modality, column="text").parts()


def test_files_have_nothing_to_keep(tmp_path):
    (tmp_path / "x.txt").write_text("x")
    with pytest.raises(ModalityError, match=r"source\.keep"):
        opened("files", tmp_path, ["license"])
