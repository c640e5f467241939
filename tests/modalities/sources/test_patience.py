"""Reading that never ends: a pipe that nobody writes to stands in the place of a file."""

import os
import threading
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import modalities
from modalities.sources import open_source
from modalities.sources.patience import SlowError, in_time

SLOW = "It could not be read within 0.2 seconds (limits.timeout)."


def opened(path, fmt, **columns):
    return open_source(
        fmt,
        str(path),
        column=columns.get("column"),
        id_column=None,
        modality=modalities.modality("text"),
        timeout=0.2,
    )


def hang(file):
    file.unlink()
    os.mkfifo(file)


def test_what_is_read_in_time_is_what_was_read():
    assert in_time(lambda: 3, 10) == 3
    with pytest.raises(KeyError):
        in_time(lambda: {}["a"], 10)


def test_nobody_waits_for_what_takes_too_long():
    end, began = threading.Event(), time.monotonic()
    with pytest.raises(SlowError, match=r"within 0.1 seconds \(limits.timeout\)"):
        in_time(end.wait, 0.1)
    assert time.monotonic() - began < 10
    end.set()


@pytest.mark.parametrize("fmt", ["txt", "jsonl", "parquet"])
def test_the_samples_of_a_table_that_hangs_are_rejected(tmp_path, fmt):
    file = tmp_path / f"pool.{fmt}"
    if fmt == "parquet":
        pq.write_table(pa.table({"text": ["a", "b", "c"]}), file)
    else:
        lines = ["a", "b", "c"] if fmt == "txt" else ['{"text": "a"}'] * 3
        file.write_text("\n".join(lines))
    source = opened(file, fmt)
    (part,) = source.parts()
    hang(file)
    records = list(source.read(part))
    assert [record.id for record in records] == [f"pool.{fmt}#{row}" for row in range(3)]
    assert {record.payload for record in records} == {None}
    assert {record.reason for record in records} == {SLOW}


def test_a_table_that_hung_can_be_read_later(tmp_path):
    file, rows = tmp_path / "pool.parquet", pa.table({"text": ["a", "b", "c"]})
    pq.write_table(rows, file)
    source = opened(file, "parquet")
    (part,) = source.parts()
    hang(file)
    assert all(record.reason for record in source.read(part))
    file.unlink()
    pq.write_table(rows, file)
    assert [record.payload for record in source.read(part)] == [b"a", b"b", b"c"]


@pytest.mark.parametrize("fmt", ["npy", "parquet"])
def test_the_embeddings_of_a_file_that_hangs_are_rejected(tmp_path, fmt):
    file, points = tmp_path / f"pool.{fmt}", np.ones((5, 3), np.float32)
    if fmt == "npy":
        np.save(file, points)
    else:
        pq.write_table(pa.table({"id": list("abcde"), "embedding": points.tolist()}), file)
    source = opened(file, "embeddings")
    (part,) = source.parts()
    hang(file)
    ids, uris, vectors, reasons = source.read_vectors(part)
    label = "" if fmt == "npy" else "pool.parquet#"  # its own ids were not read
    assert ids == [f"{label}{row}" for row in range(5)]
    assert uris == [f"{file}#{row}" for row in range(5)]
    assert np.isnan(vectors).all()
    assert reasons == [SLOW] * 5
