import gzip
import io
import tarfile
import tracemalloc

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from modalities.base import ModalityError
from modalities.image import Image
from modalities.sources import (
    EmbeddingsSource,
    FilesSource,
    JsonLinesSource,
    ParquetSource,
    TextLinesSource,
    WebDatasetSource,
    open_source,
)
from modalities.text import Text


def parquet_bytes():
    buffer = io.BytesIO()
    pq.write_table(pa.table({"text": ["a", "b"]}), buffer)
    return buffer.getvalue()


def npy_bytes():
    buffer = io.BytesIO()
    np.save(buffer, np.ones((3, 2), np.float32))
    return buffer.getvalue()


def tar_bytes():
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        member = tarfile.TarInfo("a.txt")
        member.size = 1
        tar.addfile(member, io.BytesIO(b"a"))
    return buffer.getvalue()


def auto(path, modality):
    return open_source("auto", str(path), column=None, id_column=None, modality=modality)


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("x.parquet", parquet_bytes(), ParquetSource),
        ("x.JSONL", b'{"text": "a"}\n', JsonLinesSource),
        ("x.npy", npy_bytes(), EmbeddingsSource),
        ("x.txt", b"a\nb\n", TextLinesSource),
        ("noname", parquet_bytes(), ParquetSource),
        ("noname", npy_bytes(), EmbeddingsSource),
        ("noname", b'  {"text": "a"}\n', JsonLinesSource),
        ("noname", gzip.compress(b'{"text": "a"}\n', mtime=0), JsonLinesSource),
        ("noname", tar_bytes(), WebDatasetSource),
        ("x.jsonl.gz", gzip.compress(b'{"text": "a"}\n', mtime=0), JsonLinesSource),
        ("x.tar", tar_bytes(), WebDatasetSource),
        ("x.TGZ", gzip.compress(tar_bytes(), mtime=0), WebDatasetSource),
        ("x.txt.gz", gzip.compress(b"a\nb", mtime=0), TextLinesSource),
        ("noname", b"plain words", FilesSource),
    ],
)
def test_a_single_file(tmp_path, name, content, kind):
    (tmp_path / name).write_bytes(content)
    source = auto(tmp_path / name, Text())
    assert type(source) is kind
    assert source.parts()
    assert source.decided.startswith("source.format auto is ")


def test_the_format_with_most_bytes_is_the_pool(tmp_path):
    (tmp_path / "README.md").write_text("about")
    (tmp_path / "a.parquet").write_bytes(parquet_bytes())
    assert type(auto(tmp_path, Text())) is ParquetSource
    (tmp_path / "big.txt").write_bytes(b"x" * 100_000)
    assert type(auto(tmp_path, Text())) is FilesSource


def test_text_in_a_folder_is_a_document_a_file(tmp_path):
    (tmp_path / "a.txt").write_text("one\ntwo")
    source = open_source("txt", str(tmp_path), column=None, id_column=None, modality=Text())
    assert [r.payload for p in source.parts() for r in source.read(p)] == [b"one\ntwo"]


def test_nothing_known_is_said(tmp_path):
    (tmp_path / "a.xyz").write_text("x")
    with pytest.raises(ModalityError, match=r"\.xyz"):
        auto(tmp_path, Image())


@pytest.mark.parametrize("fmt", ["geotiff", "excel"])
def test_formats_that_are_not_there_are_refused_by_name(fmt, tmp_path):
    with pytest.raises(ModalityError, match=fmt):
        open_source(fmt, str(tmp_path), column=None, id_column=None, modality=Image())


def test_keys_without_meaning_are_refused(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(ModalityError, match=r"source\.column"):
        open_source("files", str(tmp_path), column="image", id_column=None, modality=Image())
    with pytest.raises(ModalityError, match="documents"):
        open_source("txt", str(tmp_path), column=None, id_column=None, modality=Image())


def names_and_payloads(source):
    return [(r.id, r.payload) for part in source.parts() for r in source.read(part)]


BARE = {
    "parquet": (parquet_bytes(), ParquetSource),
    "tar": (tar_bytes(), WebDatasetSource),
    "json": (b'{"text": "a"}\n', JsonLinesSource),
    "npy": (npy_bytes(), EmbeddingsSource),
    "text": (b"words", FilesSource),
}


@pytest.mark.parametrize("end", ["", "/*"])
@pytest.mark.parametrize("kind", BARE)
def test_files_without_a_suffix_are_looked_into_where_no_other_is_known(tmp_path, kind, end):
    content, source = BARE[kind]
    for i in range(20):
        (tmp_path / f"{i:02}").write_bytes(content)
    (tmp_path / "z.xyz").write_bytes(content * 100)
    pool = auto(f"{tmp_path}{end}", Text())
    assert type(pool) is source
    assert pool.decided.endswith("as the first bytes of 16 files tell")
    assert (
        len({part.spec["file"] for part in pool.parts()} if kind != "text" else pool.parts()[0].spec["files"])
        == 20
    )
    (tmp_path / "a.txt").write_text("known")
    assert type(auto(f"{tmp_path}{end}", Text())) is FilesSource
    assert names_and_payloads(auto(f"{tmp_path}{end}", Text())) == [("a.txt", b"known")]


@pytest.mark.parametrize("fmt", ["files", "auto"])
def test_pictures_without_a_suffix_are_read(tmp_path, fmt):
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"picture")
    pool = open_source(fmt, str(tmp_path), column=None, id_column=None, modality=Image())
    assert names_and_payloads(pool) == [("a", b"picture"), ("b", b"picture")]


@pytest.mark.parametrize("fmt", ["files", "auto"])
def test_suffixes_that_say_nothing_are_named_as_the_error_advises(tmp_path, fmt):
    for name in ("a.xyz", "b.xyz", "README"):
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / "some.lst").write_text("a.xyz\nREADME\n")

    def read(path):
        return names_and_payloads(open_source(fmt, str(path), column=None, id_column=None, modality=Image()))

    with pytest.raises(ModalityError, match=r"holds no .*\(folder/\*\.xyz\), or in a list \(list:FILE\)"):
        read(tmp_path)
    assert [name for name, _ in read(tmp_path / "*.xyz")] == ["a.xyz", "b.xyz"]
    assert [name for name, _ in read(f"list:{tmp_path}/some.lst")] == ["README", "a.xyz"]


@pytest.mark.parametrize("end", ["", "/*", "/*.gz"])
@pytest.mark.parametrize("fmt", ["txt", "auto"])
def test_compressed_texts_of_a_folder_are_inflated(tmp_path, fmt, end):
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"one\ntwo") + gzip.compress(b"three"))
    (tmp_path / "b.text.gz").write_bytes(b"plain after all")
    pool = open_source(fmt, f"{tmp_path}{end}", column=None, id_column="__key__", modality=Text())
    assert names_and_payloads(pool) == [("a", b"one\ntwothree"), ("b", b"plain after all")]
    (tmp_path / "c.text.zst").write_bytes(pa.compress(b"four", "zstd", asbytes=True))
    (tmp_path / "d.txt").write_bytes(b"five")
    if end != "/*.gz":
        assert [p for _, p in names_and_payloads(auto(f"{tmp_path}{end}", Text()))][2:] == [b"four", b"five"]


def test_lines_of_json_in_spite_of_their_name(tmp_path):
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b'{"text": "a"}\n', mtime=0))
    assert type(auto(tmp_path / "a.txt.gz", Text())) is JsonLinesSource
    assert type(auto(tmp_path / "*.gz", Text())) is JsonLinesSource


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-40], lambda data: data[:60] + b"\xff" * 60 + data[120:]]
)
def test_a_compressed_text_that_is_damaged_or_a_bomb_costs_only_itself(tmp_path, damage):
    words = b" ".join(b"%d" % i for i in range(1000))
    (tmp_path / "a.txt.gz").write_bytes(damage(gzip.compress(words)))
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(bytes(2**20), 1) * 100)
    (tmp_path / "c.txt.gz").write_bytes(gzip.compress(words))
    tracemalloc.start()
    records = [r for part in auto(tmp_path, Text()).parts() for r in auto(tmp_path, Text()).read(part)]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [r.payload for r in records] == [None, None, words]
    assert records[0].reason == "The compressed file is damaged or cut off from here on."
    assert records[1].reason == "The compressed file inflates to more than 67,108,864 bytes."
    assert peak < 100 * 2**20
