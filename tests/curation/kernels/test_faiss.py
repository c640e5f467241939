"""The approximate assignment finds nearly all nearest centroids, and the same ones again."""

import subprocess
import sys

import numpy as np
import pytest

from curation import exact
from curation.kernels import faiss
from tests.curation import pools
from tests.curation.kernels.twins import on_grid, two_nearest


@pytest.fixture(scope="module")
def fitted():
    """Rows, and the centroids of their components, which a fit would find."""
    rows = on_grid(pools.blobs(6000, 32, 400, spread=0.5))
    centroids = rows[:400]
    for _ in range(4):
        sums, counts = exact.cluster_sums(rows, two_nearest(rows, centroids)[0], 400)
        centroids = exact.mean_on_grid(sums, counts, unit_norm=False)
    return rows, centroids


def test_ivf_finds_nearly_all(fitted):
    rows, centroids = fitted
    first, _ = two_nearest(rows, centroids)
    found = faiss.near(rows, centroids, 8)
    assert found.dtype == np.int32
    assert (found == first).mean() > 0.98
    assert (faiss.near(rows, centroids, 10**6) == first).mean() > 0.999  # float32 alone


def test_ivf_finds_the_same_again(fitted):
    rows, centroids = fitted
    found = faiss.near(rows, centroids, 8)
    assert np.array_equal(found, faiss.near(rows, centroids.copy(), 8))


@pytest.mark.parametrize("k", [1, 2, 5])
def test_ivf_of_a_few_centroids(k):
    rows = on_grid(pools.blobs(20, 4, 3))
    assert np.array_equal(faiss.near(rows, rows[:k], 8), two_nearest(rows, rows[:k])[0])


@pytest.mark.parametrize("order", ["torch, faiss", "faiss, torch"])
def test_torch_and_faiss_live_in_one_process(order):
    code = f"import {order}; import numpy as np; x = np.random.rand(2000, 32).astype('f')"
    code += "; t = torch.rand(800, 800); i = faiss.IndexFlatL2(32); i.add(x)"
    code += "; t @ t; i.search(x, 4); t @ t; print('fine')"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "fine"
