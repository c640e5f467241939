"""Whether rows are held in memory follows from the bytes allowed; a file of rows is whole or not there."""

from dataclasses import replace

import numpy as np
import pytest

from curation import CurationError
from curation.rows import CHUNK_BYTES, Footing, ResidentRows, store_smallest

FOOTING = Footing(2**30, 100_000, 256, 1000)
LARGE = replace(FOOTING, n_points=5_000_000, n_clusters=20_000)


def test_points_are_resident_where_they_fit():
    everything = 100_000 * 4 * (256 + 48) + FOOTING.fixed  # with their sketch
    assert replace(FOOTING, memory=everything).resident
    assert not replace(FOOTING, memory=everything - 1).resident


@pytest.mark.parametrize("dimensions", [256, 64])
def test_points_of_a_resampling_step_are_held_a_second_time(dimensions):
    plain = replace(FOOTING, dimensions=dimensions)
    twice, whole = replace(plain, n_selected=40_000), replace(plain, n_points=140_000)
    assert twice.whole == whole.whole
    assert replace(twice, memory=whole.whole).resident
    assert not replace(twice, memory=whole.whole - 1).resident


def test_rows_in_memory_are_whole_as_they_are(tmp_path, monkeypatch):
    monkeypatch.setattr("curation.rows.CHUNK_BYTES", 4 * 6 * 7)
    assert ResidentRows(WHOLE).whole() is WHOLE
    assert np.array_equal(store_smallest(chunks(WHOLE), tmp_path, WHOLE.shape, 100).whole(), WHOLE)


def test_the_least_memory_is_said_and_will_do():
    least = LARGE.least
    assert replace(LARGE, memory=least).chunk_bytes >= 4 * 256
    with pytest.raises(CurationError, match=f"at least {least:,}"):
        replace(LARGE, memory=least - 1)


def test_chunks_grow_with_the_memory_up_to_a_bound():
    sizes = [replace(LARGE, memory=memory).chunk_bytes for memory in (2**30, 2**31, 2**34)]
    assert sizes[0] < sizes[1] <= sizes[2] == CHUNK_BYTES
    assert LARGE.fixed + 4 * sizes[0] <= 2**30


def chunks(rows):
    return lambda: iter(np.array_split(rows, 3))


def read(stored):
    return np.concatenate([chunk for _, chunk in stored.chunks()])


HALF = (np.random.default_rng(0).random((50, 6)) - 0.5).astype(np.float16).astype(np.float32)
HALF = np.rint(HALF * 2**24) / np.float32(2**24)
WHOLE = HALF.copy()
WHOLE[40, 2] += np.float32(2.0**-20)


@pytest.mark.parametrize(("rows", "name"), [(HALF, "rows.f2"), (WHOLE, "rows.f4")])
def test_the_smallest_type_that_fits_is_taken(tmp_path, rows, name):
    stored = store_smallest(chunks(rows), tmp_path / "new", rows.shape, 100)
    assert [path.name for path in (tmp_path / "new").iterdir()] == [name]
    assert np.array_equal(read(stored), rows)


def test_a_finished_file_is_taken_again_and_a_cut_one_is_not(tmp_path):
    first = store_smallest(chunks(HALF), tmp_path, HALF.shape, 100)
    again = store_smallest(lambda: pytest.fail("read again"), tmp_path, HALF.shape, 100)
    assert np.array_equal(read(again), HALF)
    first.path.write_bytes(first.path.read_bytes()[:-1])
    assert np.array_equal(read(store_smallest(chunks(HALF), tmp_path, HALF.shape, 100)), HALF)


def test_nothing_is_left_of_a_file_that_was_broken_off(tmp_path):
    def broken():
        yield HALF[:20]
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        store_smallest(broken, tmp_path, HALF.shape, 100)
    assert not list(tmp_path.iterdir())
