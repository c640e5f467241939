"""A run directory: the same on a disk and on an object store, and never half a file."""

import os
import pickle
import uuid

import pyarrow as pa
import pytest

from pipelines.store import Store


@pytest.fixture(params=["disk", "memory"])
def store(request, tmp_path):
    return Store(str(tmp_path / "run") if request.param == "disk" else f"memory://{uuid.uuid4().hex}/run")


def test_what_is_written_is_read(store):
    table = pa.table({"id": ["a", "b"], "x": [1.0, 2.0]})
    store.write_table("embeddings/part-00001.parquet", table)
    store.write_table("embeddings/part-00000.parquet", table.slice(0, 1))
    store.write_bytes("embeddings/_manifest.json", b"{}")
    names = ["embeddings/part-00000.parquet", "embeddings/part-00001.parquet"]
    assert store.list("embeddings") == names
    assert [store.rows(name) for name in names] == [1, 2]
    assert store.read_table(names[1]).equals(table)
    assert store.read_table(names[1], ["x"]).column_names == ["x"]
    store.append_line("log.jsonl", "one")
    store.append_line("log.jsonl", "two")
    assert store.read_bytes("log.jsonl") == b"one\ntwo\n"


def test_a_copy_in_another_process_means_the_same_place(store, tmp_path, monkeypatch):
    store.write_bytes("a", b"1")
    copy = pickle.loads(pickle.dumps(store))
    monkeypatch.chdir(os.path.sep)
    assert copy.read_bytes("a") == b"1"


def test_relative_paths_are_fixed_when_the_store_is_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = Store("runs/x")
    monkeypatch.chdir(os.path.sep)
    store.write_bytes("a", b"1")
    assert (tmp_path / "runs/x/a").read_bytes() == b"1"


def test_folders_and_files_are_deleted_and_absence_is_fine(store):
    store.write_bytes("tree/level-1/a.parquet", b"1")
    store.delete("tree")
    store.delete("tree")
    assert not store.exists("tree/level-1/a.parquet")
    assert store.list("tree/level-1") == []


def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    store = Store(str(tmp_path))
    store.write_bytes("folder/file", b"old")
    with pytest.raises(TypeError):
        store.write_bytes("folder/file", "no bytes")  # type: ignore[arg-type]
    assert store.read_bytes("folder/file") == b"old"
    assert [entry.name for entry in (tmp_path / "folder").iterdir()] == ["file"]


def test_temporary_files_of_a_killed_writer_are_not_listed(tmp_path):
    store = Store(str(tmp_path))
    store.write_bytes("folder/.part-00000.parquet.1234.tmp", b"half")
    store.write_bytes("folder/.part-00000.parquet", b"half")
    assert store.list("folder") == []
