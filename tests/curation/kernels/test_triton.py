"""The fused kernel finds what it says, for every tile, up to the error that its scores may have."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from triton.runtime.errors import OutOfResources

from curation import CurationError, exact
from curation.kernels import gpu, halves, triton
from tests.curation.kernels.twins import hard_pool, random_candidates

NARROW = [
    triton.Tile(16, 16, 64),
    triton.Tile(32, 64, 64),
    triton.Tile(64, 256, 64),
    triton.Tile(128, 32, 64),
]
WIDE = [triton.Tile(32, 64, 64), triton.Tile(64, 128, 128), triton.Tile(16, 32, 512)]


@pytest.fixture(scope="module")
def pool():
    """Rows and centroids of a width, rounded, and their scores in float64."""

    def made(n, k, d, device):
        rows, centroids = (torch.from_numpy(part).to(device) for part in hard_pool(n, k, d))
        values, errors = halves.halve_rows(rows)
        prepared = halves.halve_centroids(centroids)
        scores = prepared.half_squares[:k].double() - values.double() @ prepared.values[:k].double().T
        norms = torch.from_numpy(np.sqrt(exact.squared_norms(rows.cpu().numpy()))).to(device)
        return values, prepared, scores.cpu().numpy(), prepared.bound(norms, errors).cpu().numpy()

    return made


def best(kernel, values, prepared, spans=None):
    scores = torch.full((len(values), 3), -1.0, device=values.device)
    labels = torch.full((len(values), 2), -1, dtype=torch.int32, device=values.device)
    kernel.nearest(values, prepared, spans, scores, labels)
    return scores.cpu().numpy(), labels.cpu().numpy()


def agree(scores, labels, true, bound):
    """Each score is its label's, and those of the best two, and none is missed, within the bound."""
    bound = bound[:, None]
    every = np.arange(len(true))[:, None]
    least = np.pad(np.sort(true, axis=1), ((0, 0), (0, 3)), constant_values=np.inf)
    there = np.isfinite(least[:, :2])
    off = np.abs(scores[:, :2] - true[every, np.where(there, labels, 0)])
    assert (off <= bound)[there].all()
    assert (np.abs(scores[:, :2] - np.minimum(least[:, :2], 9)) <= bound)[there].all()
    assert (scores[:, :2] >= halves.NOTHING)[~there].all()
    assert (scores[:, 2] <= np.where(np.isfinite(least[:, 2]), least[:, 2] + bound[:, 0], np.inf)).all()
    assert (scores[:, 2] >= scores[:, 1]).all()
    assert (labels[:, 0] != labels[:, 1])[there[:, 1]].all()


@pytest.mark.parametrize("tile", NARROW, ids=str)
@pytest.mark.parametrize(("n", "k"), [(1, 1), (40, 2), (33, 130)])
def test_every_tile_finds_the_best_two(n, k, tile, pool, device):
    values, prepared, true, bound = pool(n, k, 50, device)
    agree(*best(triton.kernel(64, device, tile), values, prepared), true, bound)


@pytest.mark.parametrize("tile", WIDE, ids=str)
def test_rows_come_in_steps(tile, pool, device):
    values, prepared, true, bound = pool(40, 90, 500, device)
    agree(*best(triton.kernel(512, device, tile), values, prepared), true, bound)


def test_very_wide_rows(pool, device):
    values, prepared, true, bound = pool(20, 30, 4096, device)
    agree(*best(triton.kernel(4096, device), values, prepared), true, bound)


def test_a_step_that_does_not_fit_is_refused(device):
    with pytest.raises(ValueError, match="320 columns do not come in steps of 128"):
        triton.kernel(320, device, triton.Tile(32, 32, 128))


@pytest.mark.parametrize("tile", NARROW[:3], ids=str)
def test_spans_look_at_their_candidates_alone(tile, pool, device):
    k, n_groups = 150, 7
    values, prepared, true, bound = pool(200, k, 50, device)
    candidates = random_candidates(k, n_groups)
    random = np.random.default_rng(0)
    index = random.permutation(200)[:150]  # the others are left alone
    groups = random.integers(0, n_groups, 150)
    members, offsets = (
        torch.from_numpy(part).to(device) for part in (candidates.members, candidates.offsets)
    )
    padded = halves.padded_members(members, offsets, tile.centroids, k)
    moved = [torch.from_numpy(part).to(device) for part in (index, groups)]
    spans = halves.spans(*moved, tile.rows, *padded)
    scores, labels = best(triton.kernel(64, device, tile), values, prepared, spans)
    for row, group in zip(index, groups, strict=True):
        mine = candidates.members[candidates.offsets[group] : candidates.offsets[group + 1]]
        true[row, np.setdiff1d(np.arange(k), mine)] = np.inf
    agree(scores[index], labels[index], true[index], bound[index])
    assert (np.delete(labels, index, axis=0) == -1).all()


@pytest.mark.parametrize("room", [1 << 24, 40])
def test_close_lists_every_pair_within_the_limit(room, monkeypatch, pool, device):
    monkeypatch.setattr(triton, "_PAIRS", room)  # too little room for all: in parts
    values, prepared, true, bound = pool(100, 37, 50, device)
    index = np.arange(0, 100, 2)
    limits = np.sort(true, axis=1)[:, 4] + bound
    spans = halves.spans(torch.from_numpy(index).to(device), None, 32)
    kernel = triton.kernel(64, device, triton.Tile(32, 32, 64))
    found = list(kernel.close(values, prepared, spans, torch.from_numpy(limits).float().to(device)))
    pairs = np.concatenate([torch.stack(part, 1).cpu().numpy() for part in found])
    assert len(found) == 1 or room == 40
    listed = np.zeros(true.shape, bool)
    listed[pairs[:, 0], pairs[:, 1]] = True
    assert len(pairs) == listed.sum()  # none twice
    assert not listed[1::2].any()
    sure, possible = true <= limits[:, None] - bound[:, None], true <= limits[:, None] + bound[:, None]
    assert listed[index][sure[index]].all()
    assert not listed[index][~possible[index]].any()


def test_triton_and_torch_agree_on_a_larger_pool(device):
    rows, centroids = (torch.from_numpy(part).to(device) for part in hard_pool(1500, 700, 96))
    norms = rows.double().norm(dim=1)
    fused = gpu.nearest(rows, norms, centroids, seconds=True, backend="triton")
    plain = gpu.nearest(rows, norms, centroids, seconds=True, backend="torch")
    assert torch.equal(fused[0], plain[0])
    assert torch.equal(fused[1], plain[1])


def test_kernels_compile_for_a_gpu_that_is_not_here():
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "tests.curation.kernels.hopper"]
    told = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    found = json.loads(told.stdout)
    # nothing is spilled, but where pairs are written, which few tiles come to
    assert all(kernel["stack"] == 0 for name, kernel in found.items() if "close" not in name)
    assert all(kernel["tensor_cores"] for name, kernel in found.items() if name not in ("sums", "distances"))
    assert all(found[width]["copy_engine"] for width in ("128", "768"))
    assert all(kernel["shared"] <= 227 * 1024 for kernel in found.values())
    few = [kernel for name, kernel in found.items() if "restricted" in name]
    assert all(2 * kernel["shared"] <= 227 * 1024 for kernel in few)  # two programs at once


@pytest.mark.parametrize("width", [64, 512])
@pytest.mark.parametrize("room", [0, 64, 128])
def test_a_gpu_of_little_memory_takes_a_small_tile(width, room, monkeypatch):
    def nearest(full, some, *_):
        if some.rows > room:
            raise OutOfResources(2 * room, room, "shared memory")

    monkeypatch.setattr(triton, "_nearest", nearest)
    triton.short.cache_clear()
    if not room:
        with pytest.raises(CurationError, match=f"too little .* at {width} columns.*cuda:torch"):
            triton.short(width, torch.device("cpu"))
        return
    assert triton.short(width, torch.device("cpu")).rows == room
    triton.short.cache_clear()
