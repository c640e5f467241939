"""The Ray form gives the bits of the local one, on any number of shards and through their deaths."""

import numpy as np
import pytest
import ray

from curation import CurationError, HierarchicalKMeans, balanced_sample
from curation.assign import Assigner
from curation.chance import keys_of
from curation.hierarchy import Recipe, grow
from curation.inputs import grid_rows
from curation.shards import RayWorkers
from curation.tree import Leaves, Level, Tree
from tests.curation.pools import blobs, halfway

pytestmark = pytest.mark.usefixtures("ray_cluster")


class Rows:
    """Reads some rows of an array in the object store."""

    def __init__(self, rows, keys, index):
        self.refs, self.index = [rows, keys], index

    def __call__(self):
        rows, keys = ray.get(self.refs)
        return rows[self.index], keys[self.index]


def grow_on_ray(points, recipe, shards, *, slices=1, order=None, assigner=None, alone=10**6, killer=None):
    """A tree as `HierarchicalKMeans` gives it, grown on Ray over points in any order."""
    rows, grid = grid_rows(points, recipe.distance)
    keys = keys_of(str(i) for i in range(len(points)))
    order = np.arange(len(points)) if order is None else order
    shares = np.array_split(order, shards)
    refs = ray.put(rows), ray.put(keys)
    workers = RayWorkers([Rows(*refs, share) for share in shares], slices, assigner, alone)
    if killer is not None:
        workers.monitor = lambda *news: killer(workers, *news)
    told = []

    def keep(leaves):
        saved = workers.points("save", lambda *both: both, leaves.renumbered, *leaves.slices, own=leaves.own)
        told.extend(workers.get(saved))

    try:
        grown = grow(workers, recipe, keep)
        levels = [
            Level(level.sizes, level.parents, grid.decode(np.concatenate(ray.get(level.slices))))
            for level in grown
        ]
    finally:
        workers.close()
    clusters, distances = (np.concatenate(column)[np.argsort(order)] for column in zip(*told, strict=True))
    scaled = grid.decode_squared(distances).astype(np.float32)
    return Tree(levels, (), Leaves(np.arange(len(points)), keys, clusters, scaled))


def assert_equal(tree, twin, size):
    for level, other in zip(tree.levels, twin.levels, strict=True):
        assert np.array_equal(level.sizes, other.sizes)
        assert np.array_equal(level.centroids, other.centroids)
    assert np.array_equal(tree.leaves.clusters, twin.leaves.clusters)
    assert np.array_equal(tree.leaves.distances, twin.leaves.distances)
    assert np.array_equal(balanced_sample(tree, size), balanced_sample(twin, size))


def killing(*moments):
    """Kills actors as a fit goes on: (which actors, phase, how far) each once."""
    left = set(range(len(moments)))

    def killer(workers, phase, done, _):
        for i, (which, when, at) in enumerate(moments):
            if i in left and phase == when and done >= at:
                left.discard(i)
                for actor in which(workers):
                    ray.kill(actor, no_restart=False)

    killer.left = left
    return killer


POINTS = blobs(3000, 8, 80)
RECIPE = Recipe([200, 40, 8], 2, [5, 3, 2])


@pytest.fixture(scope="module")
def twin():
    levels, steps, points = RECIPE.n_clusters, RECIPE.resample_steps, RECIPE.resample_points
    return HierarchicalKMeans(levels, resample_steps=steps, resample_points=points).fit(POINTS).tree_


def test_upper_levels_spread_over_shards_as_well(twin):
    assert_equal(grow_on_ray(POINTS, RECIPE, 2, slices=3, alone=50), twin, 300)


def test_shards_that_die_change_nothing(twin):
    """A point shard while seeding, and all of them and a centroid shard while iterating."""
    killer = killing(
        (lambda w: w.point_shards[:1], "seeding", 60),
        (lambda w: w.point_shards + w.centroid_shards[:1], "iterations", 2),
    )
    order = np.random.default_rng(0).permutation(3000)
    assert_equal(grow_on_ray(POINTS, RECIPE, 2, slices=2, order=order, killer=killer), twin, 300)
    assert not killer.left


def test_a_request_that_cannot_be_met_comes_back_as_itself():
    with pytest.raises(CurationError, match="ask for at most 20"):
        grow_on_ray(POINTS[:20], Recipe([21]), 1)


# Small cases agree by luck even when close calls are left to float32; with 5,000 clusters they do not.
# Wide enough for a sketch, with iterations enough for scans of it, candidates and swaps.
LARGE = Recipe([5000, 500, 50], max_iter=7)


@pytest.fixture(scope="module")
def large():
    points = halfway(100_000, 160, 6000)
    return points, HierarchicalKMeans(LARGE.n_clusters, max_iter=LARGE.max_iter).fit(points).tree_


@pytest.mark.parametrize("shards", [1, 2, 5])
def test_a_hundred_thousand_points_agree(large, shards):
    """Other shards, order of rows, tiles, matrix product; with two shards each is killed once on the way."""
    points, twin = large
    order = np.random.default_rng(shards).permutation(len(points))
    how = {1: Assigner("numpy", 1), 2: Assigner("torch", 999), 5: Assigner("numpy", 5000)}[shards]
    killer = killing(
        (lambda w: w.point_shards[:1], "seeding", 2500), (lambda w: w.point_shards[1:], "iterations", 1)
    )
    killer = killer if shards == 2 else None
    tree = grow_on_ray(points, LARGE, shards, slices=2, order=order, assigner=how, killer=killer)
    assert_equal(tree, twin, 10_000)
    assert killer is None or not killer.left


@pytest.mark.parametrize("recheck", [True, False])
def test_only_the_recheck_makes_tiles_agree(recheck):
    """Of the same kind of pool: rows taken one by one and 64 at a time, where BLAS rounds differently."""
    points = halfway(20_000, 64, 1500)
    one, many = (
        HierarchicalKMeans([1000, 100], max_iter=2, assigner=Assigner("numpy", tile, recheck)).fit(points)
        for tile in (1, 64)
    )
    assert np.array_equal(one.labels_, many.labels_) == recheck
