"""Many texts hashed at once have the digests of hashlib."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation import chance
from curation.kernels import blake2b


def keys(texts):
    _, offsets, text = pa.array(texts, pa.large_string()).buffers()
    return blake2b.keys(np.frombuffer(text or b"", np.uint8), np.frombuffer(offsets, np.int64))


@given(st.lists(st.text(), min_size=1, max_size=40))
def test_digests_are_those_of_hashlib(texts):
    assert np.array_equal(keys(texts), chance.keys_from_digests(chance.digests(texts)))


@pytest.mark.parametrize("length", [0, 1, 7, 8, 127, 128, 129, 255, 256, 257, 5000])
def test_whole_and_broken_blocks(length):
    texts = ["x" * length, "é" * length, "", "y" * length]
    assert np.array_equal(keys(texts), chance.keys_from_digests(chance.digests(texts)))


def test_many_ids_have_the_keys_of_few(monkeypatch):
    ids = [f"s3://bucket/{i}.jpg" for i in range(1000)]
    few = chance.keys_of(ids)
    monkeypatch.setattr(chance, "_MANY", 10)
    for given_as in (
        ids,
        iter(ids),
        pa.array(ids),
        pa.array(["", *ids])[1:],
        pa.array(ids, pa.large_string()),
    ):
        assert np.array_equal(chance.keys_of(given_as), few)
