"""The objective is that of float64, whatever float32 makes of close calls."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import objective
from benchmarks.objective import mean_squared_distance


def plain(rows, centroids):
    differences = rows.astype(np.float64)[:, None] - np.asarray(centroids, np.float64)
    return np.square(differences).sum(axis=2).min(axis=1).mean()


@given(st.integers(1, 60), st.integers(1, 20), st.integers(1, 30), st.integers(0, 5), st.integers(1, 200))
def test_it_is_float64s(n, d, k, seed, scores):
    random = np.random.default_rng(seed)
    rows = random.standard_normal((n, d), np.float32)
    centroids = random.standard_normal((k, d), np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(objective, "_SCORES", scores)
        assert mean_squared_distance(rows, centroids) == pytest.approx(plain(rows, centroids), rel=1e-13)


def test_close_calls_are_float64s():
    random = np.random.default_rng(0)
    centre = 100 * random.standard_normal(64)
    centroids = (centre + 1e-3 * random.standard_normal((40, 64))).astype(np.float32)
    rows = (centre + 1e-3 * random.standard_normal((200, 64))).astype(np.float32)
    assert mean_squared_distance(rows, centroids) == pytest.approx(plain(rows, centroids), rel=1e-13)
    product = (np.square(centroids).sum(axis=1) / 2 - rows @ centroids.T).argmin(axis=1)
    naive = np.square(rows.astype(np.float64) - centroids[product]).sum(axis=1).mean()
    assert naive > 1.001 * plain(rows, centroids)  # float32 alone would not do


def test_equal_centroids_count_once():
    rows = np.eye(4, dtype=np.float32)
    assert mean_squared_distance(rows, np.zeros((7, 4))) == 1


def test_centroids_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="2 centroids are not finite"):
        mean_squared_distance(np.eye(3, dtype=np.float32), [[0, 0, np.nan], [0, 0, 0], [np.inf, 0, 0]])
