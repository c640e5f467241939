"""Thinned pools have the sizes they claim, and features are computed once."""

import io
import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from benchmarks import real_pools
from benchmarks.features import cached, without_headers, zipf_counts, zipf_thinned
from benchmarks.mobilenet import WEIGHTS, MobileNetV2


@given(st.integers(0, 10_000), st.integers(1, 50), st.floats(0, 3))
def test_zipf_counts_add_up_and_fall(total, groups, exponent):
    counts = zipf_counts(total, groups, exponent)
    assert counts.sum() == total
    assert np.all(np.diff(counts) <= 0)


@given(st.lists(st.integers(1, 200), min_size=2, max_size=12), st.integers(0, 5), st.integers(20, 2000))
def test_thinned_classes_are_a_long_tail_of_what_is_there(held, seed, most):
    classes = np.repeat(np.arange(len(held)), held)
    rows = zipf_thinned(classes, 1.2, seed, most)
    assert np.all(np.diff(rows) > 0)
    assert 0 < len(rows) <= most
    found = np.sort(np.bincount(classes[rows], minlength=len(held)))[::-1]
    assert np.array_equal(found, zipf_counts(len(rows), len(held), 1.2))
    assert np.array_equal(rows, zipf_thinned(classes, 1.2, seed, most))


def test_seeds_rank_the_classes_differently():
    classes = np.repeat(np.arange(10), 500)
    heads = {int(np.bincount(classes[zipf_thinned(classes, 1.2, seed, 900)]).argmax()) for seed in range(8)}
    assert len(heads) > 2


def test_features_are_kept_for_the_same_bytes_alone(tmp_path):
    calls = []

    def lengths(payloads):
        calls.append(len(payloads))
        return np.array([[len(p), 3.0] for p in payloads], np.float32)

    first = cached(tmp_path, "lengths", [b"abcd", b""], lengths)
    assert np.allclose(first, [[0.8, 0.6], [0, 1]], atol=1e-3)
    assert np.array_equal(cached(tmp_path, "lengths", [b"abcd", b""], lengths), first)
    assert calls == [2]
    cached(tmp_path, "lengths", [b"abcd", b"x"], lengths)
    cached(tmp_path, "other", [b"abcd", b""], lengths)
    assert calls == [2, 2, 2]
    assert len(list(tmp_path.iterdir())) == 3


def test_headers_end_at_the_first_empty_line():
    assert without_headers(b"From: a\nSubject: b\n\nHello.\n\nBye.\n") == "Hello.\n\nBye."


@pytest.mark.parametrize("value", [None, "", "/not/there"])
def test_missing_data_is_said_in_a_sentence(value, monkeypatch, capsys, tmp_path):
    if value is None:
        monkeypatch.delenv("EVENSET_DATA", raising=False)
    else:
        monkeypatch.setenv("EVENSET_DATA", value)
    assert real_pools.main(["--cache", str(tmp_path)]) == 2
    assert "set it to the folder" in capsys.readouterr().err


@pytest.mark.skipif("EVENSET_DATA" not in os.environ, reason="EVENSET_DATA is not set: no real data")
def test_mobilenet_tells_aeroplanes_from_horses():
    data = Path(os.environ["EVENSET_DATA"])
    table = pq.read_table(data / "cifar10.parquet")
    labels = np.array(table["label"].to_pylist())
    rows = np.r_[np.flatnonzero(labels == "airplane")[:30], np.flatnonzero(labels == "horse")[:30]]
    features = MobileNetV2(data / WEIGHTS).encode(
        [Image.open(io.BytesIO(picture)) for picture in table.take(rows)["image"].to_pylist()]
    )
    assert features.shape == (60, 1280)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    alike = features @ features.T - 2 * np.eye(60)
    assert np.mean(labels[rows][alike.argmax(axis=1)] == labels[rows]) > 0.85
