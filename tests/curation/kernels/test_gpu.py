"""Labels, distances and sums of the device are those of exact arithmetic, with and without Triton."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from curation import exact
from curation.errors import CurationError
from curation.kernels import gpu, halves
from tests.curation import pools
from tests.curation.kernels.twins import (
    hard_pool,
    on_grid,
    random_candidates,
    slow_gains,
    squared,
    two_nearest,
    whole,
)

SHAPES = [(1, 1, 1), (7, 2, 1), (70, 3, 100), (257, 130, 64), (150, 300, 300), (90, 257, 768), (3, 400, 17)]


def nearest(rows, centroids, device, **how):
    norms = np.sqrt(exact.squared_norms(rows.astype(np.float32)))
    groups = how.pop("groups", None)
    labels, seconds = gpu.nearest(
        torch.from_numpy(rows).to(device),
        torch.from_numpy(norms).to(device),
        torch.from_numpy(centroids).to(device),
        groups=None if groups is None else torch.from_numpy(groups).to(device),
        **how,
    )
    return labels.cpu().numpy(), None if seconds is None else seconds.cpu().numpy()


@pytest.mark.parametrize("backend", ["triton", "torch"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize(("n", "k", "d"), SHAPES)
def test_full_scans_are_exact(n, k, d, dtype, backend, device):
    rows, centroids = hard_pool(n, k, d, dtype)
    first, second = two_nearest(rows, centroids)
    labels, none = nearest(rows, centroids, device, backend=backend)
    assert none is None
    assert labels.dtype == np.int32
    assert np.array_equal(labels, first)
    labels, seconds = nearest(rows, centroids, device, backend=backend, seconds=True)
    assert np.array_equal(labels, first)
    assert np.array_equal(seconds, second)


@pytest.mark.parametrize("backend", ["triton", "torch"])
@pytest.mark.parametrize(
    ("n", "k", "d", "n_groups"), [(400, 300, 40, 9), (50, 20, 300, 1), (5, 130, 128, 40)]
)
def test_restricted_scans_are_exact(n, k, d, n_groups, backend, device):
    rows, centroids = hard_pool(n, k, d)
    candidates = random_candidates(k, n_groups)
    groups = np.random.default_rng(n).integers(-1, n_groups, n).astype(np.int32)
    first, second = two_nearest(rows, centroids, candidates, groups)
    how = {"candidates": candidates, "groups": groups, "backend": backend}
    labels, seconds = nearest(rows, centroids, device, seconds=True, **how)
    assert np.array_equal(labels, first)
    assert np.array_equal(seconds, second)
    assert np.array_equal(nearest(rows, centroids, device, **how)[0], first)


@pytest.mark.parametrize("backend", ["triton", "torch"])
def test_equal_centroids_give_the_lowest(backend, device):
    rows, centroids = hard_pool(40, 1, 30)[0], np.repeat(hard_pool(4, 1, 30)[1], 200, axis=0)
    labels, seconds = nearest(rows, centroids, device, seconds=True, backend=backend)
    assert not labels.any()
    assert (seconds == 1).all()


def test_rows_in_turns_have_the_same_labels(monkeypatch, device):
    rows, centroids = hard_pool(500, 90, 33)
    monkeypatch.setattr(gpu, "_ROWS", 77)
    monkeypatch.setattr(gpu, "_SCORES", 1000)
    monkeypatch.setattr(halves, "_IN_HAND", 1000)
    first, second = two_nearest(rows, centroids)
    labels, seconds = nearest(rows, centroids, device, seconds=True, backend="torch")
    assert np.array_equal(labels, first)
    assert np.array_equal(seconds, second)


def test_without_the_recheck_labels_would_differ(monkeypatch, device):
    rows, centroids = hard_pool(500, 300, 64)
    monkeypatch.setattr(halves.Halves, "bound", lambda self, norms, errors: norms * 0 - 1)
    monkeypatch.setattr(gpu, "probed", lambda backend, width, device: gpu._torch_kernel(device))
    labels = nearest(rows, centroids, device, backend="torch")[0]
    assert not np.array_equal(labels, two_nearest(rows, centroids)[0])


@pytest.mark.parametrize("d", [1, 100, 768])
def test_scores_keep_their_bound(d, device):
    rows, centroids = hard_pool(200, 80, d)
    prepared = halves.halve_centroids(torch.from_numpy(centroids).to(device))
    values, errors = halves.halve_rows(torch.from_numpy(rows).to(device))
    scores = prepared.half_squares - values.float() @ prepared.values.float().T
    wide = centroids.astype(np.float64)
    true = (wide**2).sum(1) / 2 - rows.astype(np.float64) @ (wide - wide.mean(0)).T
    norms = torch.from_numpy(np.sqrt(exact.squared_norms(rows))).to(device)
    off = np.abs(scores[:, : len(centroids)].cpu().numpy() - true).max(axis=1)
    assert (off <= prepared.bound(norms, errors).cpu().numpy()).all()
    assert (scores[:, len(centroids) :] >= halves.NOTHING).all()


def test_products_of_low_precision_are_refused(monkeypatch):
    def rough(device):
        kernel = true(device)

        def find(rows, *others):
            kernel.nearest((rows.float() * (1 + 2**-9)).half(), *others)

        return halves.Kernel(kernel.rows, kernel.centroids, find, kernel.close)

    true = gpu._torch_kernel
    monkeypatch.setattr(gpu, "_torch_kernel", rough)
    gpu.probed.cache_clear()
    with pytest.raises(CurationError, match="times their bound at 64 columns"):
        gpu.probed("torch", 64, torch.device("cpu"))


def test_an_unknown_backend_is_named():
    with pytest.raises(CurationError, match="'cuda'.*triton, torch"):
        gpu.probed("cuda", 64, torch.device("cpu"))


@pytest.mark.parametrize("backend", ["triton", "torch"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize(("n", "d"), [(1, 1), (1000, 24), (300, 200)])
def test_sums_and_distances_are_exact(n, d, dtype, backend, monkeypatch, device):
    monkeypatch.setattr(halves, "_IN_HAND", 3000)
    monkeypatch.setattr(gpu, "_EXACT_ROWS", 700)
    monkeypatch.setattr(gpu, "_SUM_ROWS", 50)
    rows = on_grid(pools.blobs(n, d, 9)).astype(dtype)
    labels = np.random.default_rng(0).integers(0, 7, n).astype(np.int32)
    true, counts = exact.cluster_sums(rows.astype(np.float32), labels.astype(np.int64), 8)
    moved = [torch.from_numpy(array).to(device) for array in (rows, labels)]
    sums, sizes = gpu.cluster_sums(*moved, 8, backend=backend)
    assert np.array_equal(sums.cpu().numpy(), true)
    assert np.array_equal(sizes.cpu().numpy(), counts)
    centroids = exact.mean_on_grid(true, counts, unit_norm=False)
    means = torch.from_numpy(centroids).to(device)
    some = np.random.default_rng(1).permutation(n)[: n // 2 + 1]
    for index, which in ((None, labels), (some, labels[some])):
        there = [None if array is None else torch.from_numpy(array).to(device) for array in (which, index)]
        found = gpu.squared_distances(moved[0], means, *there, backend=backend).cpu().numpy()
        expected = exact.squared_distances(rows.astype(np.float32), centroids, index, which)
        assert np.array_equal(found, expected)


@pytest.mark.parametrize("backend", ["triton", "torch"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("n", "m", "d"), [(1, 1, 1), (300, 70, 40), (120, 90, 300)])
def test_gains_are_exact_and_few_pairs_are_looked_at_twice(
    n, m, d, weighted, dtype, backend, monkeypatch, device
):
    rows, candidates = hard_pool(n, m, d, dtype)
    distances = squared(rows, candidates[: m // 4 + 1]).min(1)
    weights = np.random.default_rng(0).integers(0, 2**27, n) if weighted else None
    monkeypatch.setattr(gpu, "_COPIED", 90)
    monkeypatch.setattr(halves, "_IN_HAND", 1000)
    plain, looked = gpu.squared_distances, []

    def counted(rows, centroids, labels, index, **how):
        looked.append(len(labels))
        return plain(rows, centroids, labels, index, **how)

    monkeypatch.setattr(gpu, "squared_distances", counted)
    given = (rows, exact.squared_norms(rows.astype(np.float32)), distances, weights, candidates)
    moved = [None if array is None else torch.from_numpy(array).to(device) for array in given]
    found = gpu.gains(*moved, backend=backend).cpu().numpy()
    assert whole(found) == slow_gains(rows, distances, candidates, np.ones(n) if weights is None else weights)
    nearly = squared(rows, candidates) < distances[:, None] + 0.01
    assert sum(looked) <= nearly.sum()


def test_importing_the_library_imports_no_torch():
    code = (
        "import sys, curation; print([name for name in ('torch', 'triton', 'faiss') if name in sys.modules])"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"
