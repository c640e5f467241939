"""Candidates are the exact neighbours among the nearest groups, and a function of the centroids alone."""

import numpy as np
import pytest

from curation import exact
from curation.assign import Assigner
from curation.neighbours import GROUP, NEAR_GROUPS, nearby
from tests.curation.kernels.twins import on_grid
from tests.curation.pools import blobs


def squared(rows, others):
    """Exact squared distances less |x|^2, which no order of a row's others hangs on."""
    wide = others.astype(np.float64)
    return (wide**2).sum(1) - 2 * rows.astype(np.float64) @ wide.T


def slow_groups(centroids):
    middles = centroids[::GROUP]
    for _ in range(2):
        nearest = squared(centroids, middles).argmin(1)
        middles = np.stack([centroids[nearest == g].mean(0, dtype=np.float64) for g in np.unique(nearest)])
        middles = exact.Grid(0).encode(middles)
    nearest = squared(centroids, middles).argmin(1)
    kept = np.unique(nearest)
    return np.searchsorted(kept, nearest), middles[kept]


def test_middles_are_those_of_the_groups():
    centroids = on_grid(blobs(900, 6, 60))
    found = nearby(centroids)
    groups, middles = slow_groups(centroids)
    assert np.array_equal(found.middles, middles)
    assert len(found.middles) == len(found.offsets) - 1 == groups.max() + 1


def slow_nearby(centroids, neighbours):
    groups, middles = slow_groups(centroids)
    members = []
    near_groups = np.argsort(squared(middles, middles), axis=1, kind="stable")[:, :NEAR_GROUPS]
    for group, near in enumerate(near_groups):
        pool = np.flatnonzero(np.isin(groups, near))
        scores = squared(centroids[groups == group], centroids[pool])
        taken = np.argsort(scores, axis=1, kind="stable")[:, :neighbours]
        members.append(np.union1d(pool[taken], np.flatnonzero(groups == group)))
    return groups, members


@pytest.mark.parametrize(("k", "d", "neighbours"), [(900, 6, 24), (900, 6, 3), (40, 2, 24), (1, 3, 24)])
@pytest.mark.parametrize("assigner", [Assigner(threads=1), Assigner(threads=2), Assigner(device="cpu:torch")])
def test_the_same_as_by_brute_force(k, d, neighbours, assigner):
    centroids = on_grid(blobs(k, d, 60))
    found = nearby(centroids, neighbours, assigner)
    groups, members = slow_nearby(centroids, neighbours)
    assert np.array_equal(found.groups, groups)
    assert np.array_equal(found.members, np.concatenate(members))
    assert np.array_equal(found.offsets, np.cumsum([0, *map(len, members)]))


@pytest.mark.parametrize("copies", [1, 3, 100])
def test_every_group_looks_at_its_own_centroids(copies):
    centroids = np.repeat(on_grid(blobs(600 // copies, 5, 40)), copies, axis=0)
    found = nearby(centroids)
    for group, (start, stop) in enumerate(zip(found.offsets, found.offsets[1:], strict=False)):
        members = found.members[start:stop]
        assert (np.diff(members) > 0).all()
        assert np.isin(np.flatnonzero(found.groups == group), members).all()
    assert np.array_equal(np.unique(found.groups), np.arange(len(found.offsets) - 1))


def test_read_only_centroids_give_the_same():
    centroids = on_grid(blobs(300, 5, 40))
    one = nearby(centroids)
    centroids.setflags(write=False)
    two = nearby(centroids)
    assert np.array_equal(one.members, two.members)
    assert one.members.dtype == one.groups.dtype == np.int32
    assert one.offsets.dtype == np.int64
