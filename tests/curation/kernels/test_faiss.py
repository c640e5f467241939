"""Neighbour lists are exact; the approximate assignment finds nearly all, and the same ones again."""

import subprocess
import sys

import numpy as np
import pytest

from curation import exact
from curation.assign import Centroids
from curation.errors import CurationError
from curation.kernels import faiss
from tests.curation import pools
from tests.curation.kernels.twins import on_grid, two_nearest


def slow_twin(centroids, count):
    wide = centroids.astype(np.float64)
    squared = (wide**2).sum(1)[:, None] + (wide**2).sum(1) - 2 * wide @ wide.T
    return np.sort(np.argsort(squared, axis=1, kind="stable")[:, :count], axis=1)


def lattice():
    """Many points at equal distances, and two of each."""
    side = np.arange(6, dtype=np.float32) / 16
    points = np.stack(np.meshgrid(side, side, side), -1).reshape(-1, 3)
    return np.concatenate([points, points])[np.random.default_rng(0).permutation(432)]


@pytest.mark.parametrize("count", [1, 2, 16, 57])
@pytest.mark.parametrize(
    "centroids",
    [lattice(), on_grid(pools.halfway(500, 20, 60)), np.repeat(on_grid(pools.blobs(3, 7, 2)), 40, axis=0)],
    ids=["lattice", "halfway", "repeated"],
)
def test_neighbours_are_exact(centroids, count):
    found = faiss.neighbours(centroids, count)
    assert found.dtype == np.int32
    assert np.array_equal(found, slow_twin(centroids, count))


def test_all_are_neighbours_where_all_are_asked_for():
    centroids = on_grid(pools.blobs(30, 5, 3))
    assert np.array_equal(faiss.neighbours(centroids, 30), np.tile(np.arange(30), (30, 1)))
    assert np.array_equal(faiss.neighbours(centroids[:1], 1), [[0]])


@pytest.mark.parametrize("count", [0, 6])
def test_a_number_of_neighbours_that_there_is_not(count):
    with pytest.raises(CurationError, match=f"{count} neighbours of 5 centroids"):
        faiss.neighbours(on_grid(pools.blobs(5, 4, 2)), count)


def test_distances_of_low_precision_are_refused():
    centroids = on_grid(pools.blobs(50, 8, 3))
    labels = np.tile(np.arange(50), (50, 1))
    found = exact.squared_distances(
        centroids, centroids, np.repeat(np.arange(50), 50), labels.ravel()
    ).reshape(50, 50)
    errors = faiss._distance_errors(centroids)
    faiss._probe(centroids, found.astype(np.float32), labels, errors)
    with pytest.raises(CurationError, match="times float32's bound"):
        faiss._probe(centroids, (found * (1 + 2.0**-8)).astype(np.float32), labels, errors)


@pytest.fixture(scope="module")
def fitted():
    """Rows, and the centroids of their components, which a fit would find."""
    rows = on_grid(pools.blobs(6000, 32, 400, spread=0.5))
    centroids = rows[:400]
    for _ in range(4):
        sums, counts = exact.cluster_sums(rows, two_nearest(rows, centroids)[0], 400)
        centroids = exact.mean_on_grid(sums, counts, unit_norm=False)
    return rows, Centroids(centroids)


def test_ivf_finds_nearly_all(fitted):
    rows, centroids = fitted
    first, second = two_nearest(rows, centroids.values)
    found = faiss.IvfAssigner().nearest(rows, np.zeros(0), centroids, seconds=True)
    assert (found.labels == first).mean() > 0.98
    assert (found.seconds == second).mean() > 0.8
    every = faiss.IvfAssigner(probes=10**6).nearest(rows, np.zeros(0), centroids)
    assert every.seconds is None
    assert (every.labels == first).mean() > 0.999  # float32 alone


def test_ivf_finds_the_same_again(fitted):
    rows, centroids = fitted
    found = faiss.IvfAssigner().nearest(rows, np.zeros(0), centroids)
    again = faiss.IvfAssigner().nearest(rows, np.zeros(0), Centroids(centroids.values.copy()))
    assert np.array_equal(found.labels, again.labels)


@pytest.mark.parametrize("k", [1, 2, 5])
def test_ivf_of_a_few_centroids(k):
    rows = on_grid(pools.blobs(20, 4, 3))
    found = faiss.IvfAssigner().nearest(rows, np.zeros(0), Centroids(rows[:k]), seconds=True)
    assert np.array_equal(found.labels, two_nearest(rows, rows[:k])[0])
    assert ((found.seconds >= 0) & (found.seconds != found.labels)).all() or k < 5


@pytest.mark.parametrize("order", ["torch, faiss", "faiss, torch"])
def test_torch_and_faiss_live_in_one_process(order):
    code = f"import {order}; import numpy as np; x = np.random.rand(2000, 32).astype('f')"
    code += "; t = torch.rand(800, 800); i = faiss.IndexFlatL2(32); i.add(x)"
    code += "; t @ t; i.search(x, 4); t @ t; print('fine')"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "fine"
