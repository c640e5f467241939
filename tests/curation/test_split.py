"""Splitting divides every coarse cluster as if it were alone, wherever its points are."""

import numpy as np
import pytest

from curation import CurationError, HierarchicalKMeans, KMeans, balanced_sample, chance, exact
from curation.assign import Assigner
from curation.batches import thinned
from curation.block import PointBlock
from curation.hierarchy import grow
from curation.inputs import grid_rows, point_keys
from curation.recipe import Recipe
from curation.workers import LocalWorkers
from tests.curation.on_ray import assert_equal, grow_on_ray, killing
from tests.curation.pools import blobs, halfway
from tests.curation.test_checkpoint import Broken, Run


def divided_alone(rows, keys, cell, leaves, seed, iterations):
    """One coarse cluster in plain NumPy: labels (n,) and centroids, seed after seed."""
    seeds = np.empty(0, np.int64)
    wide = rows.astype(np.float64)
    distances = np.ones(len(rows))
    for batch in range(100):
        wanted = min(leaves - len(seeds), -(-leaves // 10))
        salt = chance.salt(seed, chance.Purpose.SPLIT, 1, 0, batch)
        with np.errstate(divide="ignore"):
            values = chance.draws(chance.mixed(keys), salt) / distances
        drawn = chance.order(values, keys)[: wanted if batch == 0 else max(16, 2 * wanted)]
        drawn = drawn[np.isfinite(values[drawn])]
        if not wanted or not len(drawn):
            break
        luck = int(chance.splitmix64(np.array([salt ^ np.uint64(cell)]))[0])
        new = drawn[thinned(rows[drawn], keys[drawn], distances[drawn], wanted, luck)]
        seeds = np.concatenate([seeds, new])
        squared = ((wide[:, None] - wide[seeds]) ** 2).sum(2)
        labels, distances = squared.argmin(1), squared.min(1)
    centroids = None
    for _ in range(iterations + 1):
        sums, counts = exact.cluster_sums(rows, labels.astype(np.int32), len(seeds))
        moved = exact.mean_on_grid(sums, counts, unit_norm=False)
        if centroids is not None:
            moved[counts == 0] = centroids[counts == 0]
        centroids = moved
        labels = ((wide[:, None] - centroids.astype(np.float64)) ** 2).sum(2).argmin(1)
    return labels, centroids


def twin(points, coarse, leaves, max_iter, seed=0):
    """Labels and centroids of a split level, one coarse cluster after another."""
    rows, grid = grid_rows(points, "euclidean")
    keys = point_keys(len(rows), None)
    cells = KMeans(coarse, max_iter=max_iter, tol=0, random_state=seed).fit(points).labels_
    labels, centroids, start = np.empty(len(rows), np.int64), [], 0
    for cell in range(coarse):
        mine = np.flatnonzero(cells == cell)
        own, means = divided_alone(rows[mine], keys[mine], cell, leaves, seed, max_iter)
        kept, own = np.unique(own, return_inverse=True)
        labels[mine] = start + own
        centroids.append(means[kept])
        start += len(kept)
    return labels, grid.decode(np.concatenate(centroids))


@pytest.mark.parametrize(
    ("points", "coarse", "leaves", "max_iter"),
    [
        (blobs(2000, 5, 60), 8, 12, 4),
        (blobs(700, 3, 20), 5, 40, 30),
        (blobs(300, 1, 4), 1, 25, 5),
        (halfway(1500, 160, 200), 15, 7, 3),
    ],
)
def test_every_coarse_cluster_is_divided_as_if_alone(points, coarse, leaves, max_iter):
    tree = HierarchicalKMeans([coarse * leaves], split=[leaves], max_iter=max_iter, tol=0).fit(points).tree_
    labels, centroids = twin(points, coarse, leaves, max_iter)
    assert np.array_equal(tree.leaves.clusters, labels)
    assert np.array_equal(tree.levels[0].centroids, centroids)
    assert np.array_equal(tree.levels[0].sizes, np.bincount(labels))


def test_coarse_clusters_of_few_distinct_points_give_one_cluster_each():
    """Four places a long way apart, with 30 distinct points, 3, 1 and 1."""
    generator = np.random.default_rng(0)
    places = [np.repeat(generator.standard_normal((m, 6)) / 50, 40, axis=0) for m in (30, 3, 1, 1)]
    points = np.concatenate([part + 5 * np.eye(6)[i] for i, part in enumerate(places)])
    found = HierarchicalKMeans([40, 2], split=[10, 1]).fit(points)
    told = [len(np.unique(found.labels_[start : start + m * 40])) for start, m in ((0, 30), (1200, 3))]
    assert told == [10, 3]
    assert [len(level) for level in found.tree_.levels] == [15, 2]
    assert "divided into 15 clusters instead of 40" in found.tree_.notes[0]
    assert found.tree_.levels[0].sizes.sum() == len(points)


POINTS = halfway(4000, 150, 500)
RECIPE = Recipe([240, 30, 5], resample_steps=1, split=[8, 3, 1], max_iter=6)


@pytest.fixture(scope="module")
def alone():
    how = {"resample_steps": 1, "split": RECIPE.split, "max_iter": RECIPE.max_iter}
    return HierarchicalKMeans(RECIPE.n_clusters, **how).fit(POINTS).tree_


@pytest.mark.parametrize(("blocks", "slices", "tile"), [(2, 1, 1), (3, 2, 0), (7, 40, 64)])
def test_it_does_not_matter_where_points_are(alone, blocks, slices, tile):
    rows, _ = grid_rows(POINTS, "euclidean")
    keys = point_keys(len(rows), None)
    order = np.random.default_rng(blocks).permutation(len(rows))
    shares = np.array_split(order, blocks)
    assigner = Assigner(tile=tile)
    workers = LocalWorkers([PointBlock(rows[share], keys[share], assigner) for share in shares], slices)
    found = []

    def keep(leaves):
        found.append((np.concatenate([own.first for own in leaves.own]), leaves.renumbered))

    grown = grow(workers, RECIPE, keep)
    own, renumbered = found[0]
    assert np.array_equal(renumbered[own], alone.leaves.clusters[order])
    for level, other in zip(grown, alone.levels, strict=True):
        assert np.array_equal(level.sizes, other.sizes)
        assert other.parents is None or np.array_equal(level.parents, other.parents)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("reduce", ["store", "collective"])
def test_shards_give_the_same_and_may_die(alone, reduce):
    killer = killing(
        (lambda w: w.point_shards[:1] + w.centroid_shards[:1], "seeding", 100),
        (lambda w: w.point_shards[1:], "iterations", 3),
    )
    order = np.random.default_rng(0).permutation(len(POINTS))
    how = {"slices": 2, "order": order, "killer": killer, "reduce": reduce}
    assert_equal(grow_on_ray(POINTS, RECIPE, 2, **how), alone, 500)
    assert not killer.left


def test_a_split_tree_is_sampled_like_any_other(alone):
    assert [len(level) for level in alone.levels][2:] == [5]
    assert len(balanced_sample(alone, 300)) == 300


@pytest.mark.parametrize(
    ("split", "how", "message"),
    [
        ([7, 1], {}, "level 1 has 100 clusters, which are not coarse clusters of 7 each"),
        ([0, 1], {}, "level 1 has 100 clusters"),
        ([10], {}, "split .10. has 1 entries for 2 levels"),
        ([10, 1], {"resample_steps": 1, "resample_points": [3, 0]}, "level 1 is to be split and resampled"),
        ([1, 5], {"resample_steps": 1, "resample_points": [0, 2]}, "level 2 is to be split and resampled"),
    ],
)
def test_what_cannot_be_split_is_refused(split, how, message):
    with pytest.raises(CurationError, match=message):
        Recipe([100, 20], split=split, **how)


def test_a_level_is_split_or_resampled():
    recipe = Recipe([100, 20, 5], resample_steps=2, split=[10, 1, 1])
    assert [recipe.points_of(level, n) for level, n in ((1, 9000), (2, 100), (3, 20))] == [0, 3, 2]
    assert recipe.fits(9000) == 2 + 3 + 3


@pytest.mark.parametrize("level", [1, 2])
@pytest.mark.parametrize("phase", ["seeding", "iterations"])
def test_a_division_that_is_broken_off_ends_the_same(level, phase):
    points, recipe = halfway(1500, 12, 300), Recipe([72, 12, 3], split=[6, 2, 1], max_iter=6)

    def dividing(ticks):
        return (f"level {level}, splitting", 0) in ticks and ticks[-1][0] == phase

    run = Run(points, recipe)
    with pytest.raises(Broken):
        run.grow(blocks=2, until=dividing)
    whole, again = Run(points, recipe).grow(), run.grow(blocks=3, slices=2)
    assert all(map(np.array_equal, whole, again))
