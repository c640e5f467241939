"""A list names the files of a pool, a line each; a text file that only looks like one is not taken for it."""

import gzip
import os
import pickle

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from modalities.base import ModalityError
from modalities.image import Image
from modalities.sources import open_source
from modalities.sources.paths import list_files
from modalities.text import Text
from tests.modalities.sources.tars import tar_of


def opened(path, modality=None, fmt="auto", **columns):
    columns = {"column": None, "id_column": None, **columns}
    return open_source(fmt, str(path), modality=modality or Image(), **columns)


def everything(source):
    return [record for part in source.parts() for record in source.read(part)]


def ids(source):
    return [record.id for record in everything(source)]


@pytest.fixture
def pool(tmp_path):
    """A folder with pictures, and a function that writes a list into it."""
    for name in ("a.png", "b.jpg", "sub/c.png", "sub/d.PNG"):
        (tmp_path / "pool" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "pool" / name).write_bytes(name.encode())

    def write(text, name="train.txt"):
        path = tmp_path / "pool" / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return f"list:{path}"

    return write


def test_a_list_is_the_folder_without_what_it_does_not_name(pool, tmp_path):
    path = pool("# the training set\n\nsub/c.png\r\n  a.png \n./b.jpg")
    records = everything(opened(path))
    assert [(r.id, r.payload) for r in records] == [
        ("a.png", b"a.png"), ("b.jpg", b"b.jpg"), ("sub/c.png", b"sub/c.png"),
    ]  # fmt: skip
    folder = {r.id: r for r in everything(opened(tmp_path / "pool", fmt="files"))}
    assert [folder[r.id] for r in records] == records
    assert ids(opened(path, fmt="files", id_column="__key__")) == ["a", "b", "sub/c"]


def test_a_file_that_is_not_there_is_rejected_by_its_name(pool, tmp_path):
    (tmp_path / "pool" / "odd\x01").mkdir()
    path = pool("a.png\ngone.png\nsub\nodd\x01\n" + "x" * 5000 + ".png\n")
    records = {r.id: r for r in everything(opened(path, fmt="files"))}
    assert [id for id, r in records.items() if r.payload] == ["a.png"]
    assert {records[id].reason for id in ("gone.png", "sub", "odd\x01")} == {
        "The file is gone, or is no regular file."
    }
    assert len(records) == 5
    with pytest.raises(ModalityError, match=r"2 files, and none of them is there.*folder of the list"):
        opened(pool("pool/a.png\npool/b.jpg\n"))


def test_what_is_named_is_a_sample_whatever_its_suffix(pool, tmp_path):
    (tmp_path / "pool" / "picture").write_bytes(b"x")
    assert ids(opened(pool("picture\na.png\n"))) == ["a.png", "picture"]
    assert ids(opened(pool("picture\n"), Text(), fmt="files")) == ["picture"]


def test_absolute_paths_and_those_above_the_list(pool, tmp_path):
    (tmp_path / "lists").mkdir()
    here = tmp_path / "lists" / "x.list"
    here.write_text(f"{tmp_path}/pool/a.png\nfile://{tmp_path}/pool/sub/c.png\n../pool/b.jpg\n")
    assert ids(opened(f"list:{here}")) == ["a.png", "b.jpg", "sub/c.png"]
    here.write_text(f"{tmp_path}/pool/a.png\n")
    assert ids(opened(f"list:{here}")) == ["a.png"]
    assert ids(opened(pool(f"{tmp_path}/pool/sub/c.png\n"))) == ["sub/c.png"]


def test_names_that_are_not_utf8(pool, tmp_path):
    with open(os.fsencode(tmp_path) + b"/pool/caf\xe9.png", "wb") as file:  # noqa: PTH123 - bytes
        file.write(b"x")
    records = everything(opened(pool(b"\xef\xbb\xbfa.png\ncaf\xe9.png\n")))
    assert [(r.id, r.reason) for r in records] == [
        ("a.png", None), ("caf\\udce9.png", "The file name is not valid UTF-8."),
    ]  # fmt: skip


def test_a_list_of_tars_or_with_other_paths(pool, tmp_path):
    for name in ("1.tar", "2.tar", "3.tar"):
        (tmp_path / "pool" / name).write_bytes(tar_of([("k.png", name.encode())]))
    assert ids(opened(pool("1.tar\n3.tar\n"))) == ["1.tar#k", "3.tar#k"]
    pool("1.tar\n", "one.txt")
    path = pool("2.tar\n", "two.txt").replace("two", "{one,two}")
    assert ids(opened(path)) == ["1.tar#k", "2.tar#k"]
    assert len(list_files([pool("sub/c.png\n"), f"{tmp_path}/pool/sub"]).files) == 2


def test_a_compressed_list_travels(pool):
    source = opened(pool(gzip.compress(b"a.png\nsub/c.png\n"), "train.txt.gz"))
    copy = pickle.loads(pickle.dumps(source))
    assert copy.parts() == source.parts()
    assert ids(copy) == ["a.png", "sub/c.png"]


def test_lists_on_another_filesystem(pool, tmp_path):
    memory = fsspec.filesystem("memory")
    memory.pipe({"/pool/a.png": b"a", "/pool/lists/x.txt": b"../a.png\nmemory://pool/gone.png\n"})
    records = everything(opened("list:memory://pool/lists/x.txt"))
    assert [(r.id, r.payload) for r in records] == [("a.png", b"a"), ("gone.png", None)]
    assert ids(opened(pool("memory://pool/a.png\n"))) == ["a.png"]
    with pytest.raises(ModalityError, match=r"'a\.png' in line 2.*one filesystem"):
        opened(pool("memory://pool/a.png\na.png\n"))
    memory.pipe("/pool/lists/x.txt", f"file://{tmp_path}/pool/a.png\n".encode())
    with pytest.raises(ModalityError, match="on this machine only where the list does"):
        opened("list:memory://pool/lists/x.txt")
    memory.rm("/pool", recursive=True)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a.png\nsub/c.png\n./a.png\n", r"'\./a\.png' twice, in lines 1 and 3"),
        ("a.png\nhttps://example.org/b.png\n", r"line 2, 'https://example\.org/b\.png'.*img2dataset"),
        ("simplecache::file:///etc/passwd\n", "chains filesystems in line 1"),
        ("# nothing\n\n", "names no file"),
        (b"a.png\n\0", "NUL"),
        (gzip.compress(b"a.png\n" * 9, mtime=0)[:-12], "damaged or cut off"),
    ],
)
def test_what_a_list_may_not_say(pool, text, said):
    with pytest.raises(ModalityError, match=rf"source\.path 'list:.*{said}"):
        opened(pool(text))


def test_a_list_that_is_not_there(tmp_path):
    with pytest.raises(ModalityError, match=r"'list:.*nowhere\.txt' is not there"):
        list_files(f"list:{tmp_path}/nowhere.txt")
    with pytest.raises(ModalityError, match="cannot be read"):
        list_files(f"list:{tmp_path}")


def test_a_text_that_looks_like_a_list_is_asked_about(pool, tmp_path):
    path = pool("# about\na.png\nsub/c.png\n").removeprefix("list:")
    with pytest.raises(ModalityError, match=rf"looks like a list of files .*write list:{path}.*\.$") as told:
        opened(path)
    assert "source.format=txt" not in str(told.value)
    with pytest.raises(ModalityError, match=r"looks like a list.*source\.format=txt"):
        opened(path, Text())
    assert len(everything(opened(path, Text(), fmt="txt"))) == 3
    web = pool("https://example.org/a.png\nhttp://example.org/b.png\n", "urls.lst").removeprefix("list:")
    with pytest.raises(ModalityError, match=r"addresses of the web .*img2dataset.*writes\.$"):
        opened(web)


@pytest.mark.parametrize(
    "text",
    ["A cat sat on the mat.\nRain is likely.\n", "a.png\nA picture of it.\n", "\n", "see https://x.org\n"],
)
def test_a_corpus_is_no_list(pool, text):
    source = opened(pool(text).removeprefix("list:"), Text())
    assert [r.payload for r in everything(source)] == [line.encode() for line in text.splitlines()]


@pytest.mark.parametrize("fmt", ["parquet", "jsonl"])
def test_columns_of_addresses_that_are_not_followed(pool, tmp_path, fmt):
    def table(*values):
        path = tmp_path / "pool" / f"x.{fmt}"
        rows = pa.table({"url": values})
        if fmt == "parquet":
            pq.write_table(rows, path)
        else:
            path.write_text("".join(f'{{"url": "{value}"}}\n' for value in values))
        return path

    def source(path, modality):
        return opened(path, modality, fmt, column="url")

    with pytest.raises(ModalityError, match=r"'url' holds addresses of the web.*img2dataset"):
        source(table("https://example.org/a.png", "HTTP://example.org/b.png"), Image()).parts()
    first, second = everything(source(table("a.png", "https://example.org/b.png"), Image()))
    assert first.payload == b"a.png"
    assert "img2dataset" in second.reason
    for modality in (Image(), Text()):
        pool_of = source(table("a.png", "sub/c.png"), modality)
        if modality.strings_are_samples:
            with pytest.raises(ModalityError, match=r"'url' holds addresses of files.*list:FILE"):
                pool_of.parts()
        else:
            assert [r.payload for r in everything(pool_of)] == [b"a.png", b"sub/c.png"]
    assert [r.payload for r in everything(source(table("a.png", "and words"), Text()))] == [
        b"a.png",
        b"and words",
    ]
