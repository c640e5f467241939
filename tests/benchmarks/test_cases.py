"""Generated pools are what they say, the same every time, and kept."""

import os

import numpy as np
import pytest

from benchmarks.cases import CASES, GENERATED, REAL, Case, manifold, mixture, named, noise


@pytest.mark.parametrize("generate", list(GENERATED.values()), ids=list(GENERATED))
def test_generated_rows_are_unit_and_follow_from_the_seed(generate):
    rows, components = generate(500, 32, 3)
    assert (rows.shape, rows.dtype) == ((500, 32), np.float32)
    assert (components.shape, components.dtype) == ((500,), np.int32)
    assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
    assert np.array_equal(generate(500, 32, 3)[0], rows)
    assert not np.array_equal(generate(500, 32, 4)[0], rows)


@pytest.mark.parametrize("generate", [mixture, manifold])
def test_components_are_a_long_tail(generate):
    _, components = generate(20_000, 8, 0)
    sizes = np.sort(np.bincount(components, minlength=2000))[::-1]
    assert sizes[0] == pytest.approx(20_000 / 8.18, rel=0.1)  # 1 / (1 + 1/2 + ... + 1/2000)
    assert sizes[:10].sum() > 0.3 * 20_000


def test_a_mixture_clusters_and_noise_does_not():
    shares = []
    for rows, labels in (mixture(5000, 64, 0), (noise(5000, 64, 0)[0], mixture(5000, 64, 0)[1])):
        sums = np.zeros((2000, 64))
        np.add.at(sums, labels, rows)
        sizes = np.maximum(np.bincount(labels, minlength=2000), 1)
        between = (np.square(sums).sum(axis=1) / sizes).sum()
        shares.append(between / len(rows))
    assert shares[0] > 0.75
    assert shares[1] < 0.3


def test_a_pool_is_generated_once(tmp_path, monkeypatch):
    case = Case("trial", "noise", 60, 4, 3)
    rows, components = case.load(tmp_path)
    monkeypatch.setitem(GENERATED, "noise", lambda *_: pytest.fail("generated again"))
    again = case.load(tmp_path)
    assert np.array_equal(again[0], rows)
    assert np.array_equal(again[1], components)


def test_small_cases_keep_the_ratio_of_rows_and_clusters():
    for name, case in CASES.items():
        small = named(f"{name}/20")
        assert small.name == f"{name}/20"
        assert named(name) is case
        assert small.rows / small.n_clusters == pytest.approx(case.rows / case.n_clusters)


@pytest.mark.skipif("EVENSET_DATA" not in os.environ, reason="EVENSET_DATA is not set: no real data")
@pytest.mark.parametrize(("kind", "width"), [("pictures", 1280), ("posts", 384)])
def test_real_features(kind, width, tmp_path):
    rows, labels = REAL[kind](20, width, tmp_path)
    assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-2)
    assert len(np.unique(labels)) > 5
