import gzip
import io
import tarfile

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
