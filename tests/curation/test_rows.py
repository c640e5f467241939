"""Rows in a file are the rows in memory, whatever the chunks."""

import os

import numpy as np
import pytest

from curation import exact
from curation.rows import ResidentRows, StoredRows, store

D = 6


def pool(n=50, dtype="<f4"):
    rows = exact.normalize_rows(np.random.default_rng(n).standard_normal((n, D))).astype(dtype)
    return exact.Grid(0).encode(rows)


def written(path, rows, dtype, chunk_rows):
    path.write_bytes(rows.astype(dtype).tobytes())
    return StoredRows(path, dtype, D, chunk_bytes=chunk_rows * 4 * D)


def joined(rows):
    """All chunks, which must lie end to end."""
    parts, at = [], 0
    for where, part in rows.chunks():
        assert where.start == at
        assert len(part) == where.stop - where.start > 0
        assert part.dtype == np.float32
        at = where.stop
        parts.append(part)
    assert at == len(rows)
    return np.concatenate([*parts, np.empty((0, rows.shape[1]), np.float32)])


def same_bits(left, right):
    return left.dtype == right.dtype and left.shape == right.shape and left.tobytes() == right.tobytes()


@pytest.mark.parametrize("dtype", ["<f4", "<f2"])
@pytest.mark.parametrize("chunk_rows", [1, 7, 50, 1000])
def test_a_file_gives_the_bits_of_memory(tmp_path, dtype, chunk_rows):
    values = pool(dtype=dtype)
    stored, resident = written(tmp_path / "rows", values, dtype, chunk_rows), ResidentRows(values)
    assert stored.shape == resident.shape == (50, D)
    assert same_bits(joined(stored), values)
    assert same_bits(joined(resident), values)
    index = np.random.default_rng(0).integers(0, 50, 30)
    assert same_bits(stored.take(index), resident.take(index))


@pytest.mark.parametrize("chunk_rows", [1, 7, 1000])
@pytest.mark.parametrize("wanted", [[], [0], [49], [0, 49], list(range(50)), [3, 4, 11, 12, 13, 40]])
def test_selections_of_selections(tmp_path, chunk_rows, wanted):
    values = pool()
    stored = written(tmp_path / "rows", values, "<f4", chunk_rows)
    index = np.array(wanted, np.int64)
    some = stored.select(index)
    assert same_bits(joined(some), values[index])
    again = np.arange(0, len(index), 2)
    assert same_bits(joined(some.select(again)), values[index][again])
    assert same_bits(some.take(again[::-1]), values[index][again[::-1]])
    assert same_bits(joined(ResidentRows(values).select(index)), values[index])


def test_a_sparse_selection_reads_no_more_than_a_chunk_at_a_time(tmp_path, monkeypatch):
    stored = written(tmp_path / "rows", pool(1000), "<f4", 10)
    read = []
    plain = StoredRows._read
    monkeypatch.setattr(StoredRows, "_read", lambda self, *a: read.append(a[2] - a[1]) or plain(self, *a))
    some = stored.select(np.arange(0, 1000, 7))
    assert same_bits(joined(some), pool(1000)[::7])
    assert max(read) <= 10


@pytest.mark.parametrize("chunk_rows", [1, 7, 1000])
def test_stored_chunks_are_read_back(tmp_path, chunk_rows):
    values = pool()
    chunks = iter([values[:20], values[20:20], np.asfortranarray(values[20:])])
    stored = store(chunks, tmp_path / "new", D, chunk_rows * 4 * D)
    assert same_bits(joined(stored), values)
    assert same_bits(joined(store(iter([]), tmp_path / "none", D)), values[:0])


def test_a_file_that_was_cut_says_so(tmp_path):
    stored = written(tmp_path / "rows", pool(), "<f4", 7)
    os.truncate(tmp_path / "rows", 1000)
    with pytest.raises(EOFError, match="ended early"):
        joined(stored)


def test_chunks_of_memory_are_views():
    values = pool()
    assert all(np.shares_memory(part, values) for _, part in ResidentRows(values).chunks())
