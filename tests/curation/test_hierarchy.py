"""Levels, resampling, and what happens when there is too little to cluster."""

import numpy as np
import pytest

from curation import CurationError, HierarchicalKMeans
from curation.block import PointBlock
from curation.chance import keys_of
from curation.exact import squared_distances
from curation.hierarchy import grow
from curation.inputs import grid_rows
from curation.recipe import Recipe
from curation.workers import LocalWorkers
from tests.curation.pools import blobs, halfway


def test_every_level_is_the_nearest_centroid_of_the_one_below():
    points = blobs(3000, 6, 80)
    tree = HierarchicalKMeans([200, 40, 8], resample_steps=2).fit(points).tree_
    inputs, labels = points, tree.leaves.clusters
    for level in tree.levels:
        distances = ((inputs[:, None].astype(np.float64) - level.centroids.astype(np.float64)) ** 2).sum(2)
        assert np.array_equal(distances.argmin(1), labels)
        inputs, labels = level.centroids, level.parents
    assert tree.size == 3000
    assert [len(level) for level in tree.levels] == [200, 40, 8]
    paths = tree.paths()
    assert np.array_equal(paths[:, 2], np.arange(200))
    assert np.array_equal(paths[:, 0], tree.levels[1].parents[paths[:, 1]])


def test_cosine_centroids_have_unit_norm_at_every_level():
    """Means of unit rows do not, nor would those of the levels above."""
    points = 37 * blobs(1500, 6, 40)
    tree = HierarchicalKMeans([90, 20, 4], distance="cosine", resample_steps=1).fit(points).tree_
    assert [len(level) for level in tree.levels] == [90, 20, 4]
    for level in tree.levels:
        np.testing.assert_allclose(np.linalg.norm(level.centroids, axis=1), 1, atol=1e-6)


def test_levels_move_the_centroids_towards_uniform():
    generator = np.random.default_rng(0)
    points = np.r_[generator.normal(-1, 0.3, (9000, 2)), generator.uniform(-3, 3, (1000, 2))].astype(
        np.float32
    )
    dense = lambda tree: (np.abs(tree.levels[-1].centroids + 1) < 0.6).all(1).mean()  # noqa: E731
    one = dense(HierarchicalKMeans([100]).fit(points).tree_)
    two = dense(HierarchicalKMeans([1000, 100]).fit(points).tree_)
    resampled = dense(
        HierarchicalKMeans([1000, 100], resample_steps=5, resample_points=[3, 3]).fit(points).tree_
    )
    assert resampled < two < one


@pytest.mark.parametrize("strategy", ["closest", "random"])
def test_resampling_takes_the_points_it_says(strategy):
    """Recomputes from the first clustering which points the second one may see."""
    points = blobs(600, 3, 20)
    rows, _ = grid_rows(points, "euclidean")
    keys = keys_of(str(i) for i in range(600))
    block = PointBlock(rows, keys)
    workers = LocalWorkers([block])
    seen = {}
    select = block.select

    def spy(own, view, how, salt, n_slices, *slices):
        count = select(own, view, how, salt, n_slices, *slices)
        taken = np.flatnonzero(np.isin(keys[:, 0], block._view[1].keys[:, 0]))
        seen[view] = (taken, np.concatenate(slices[:n_slices]), how, count)
        return count

    block.select = spy
    grow(
        workers,
        Recipe([30], resample_steps=1, resample_points=[4], resample_strategy=strategy),
        lambda leaves: None,
    )
    index, centroids, how, count = seen["level 1 step 1"]
    assert how == strategy
    every = np.arange(600)
    labels = np.stack(
        [squared_distances(rows, centroids, None, np.full(600, j)) for j in range(len(centroids))]
    ).argmin(0)
    taken = np.bincount(labels[index], minlength=30)
    assert np.array_equal(taken, np.minimum(np.bincount(labels, minlength=30), 4))
    assert count == len(index) == taken.sum()
    if strategy == "closest":
        distance = squared_distances(rows, centroids, every, labels)
        for j in range(30):
            inside, outside = index[labels[index] == j], np.setdiff1d(every[labels == j], index)
            if len(inside) and len(outside):
                assert distance[inside].max() <= distance[outside].min()


def test_auto_resampling_follows_the_authors():
    recipe = Recipe([10_000_000, 500_000, 50_000, 10_000], resample_steps=10)
    points = [
        recipe.points_of(level, n)
        for level, n in enumerate([743_000_000, 10_000_000, 500_000, 50_000], start=1)
    ]
    assert points == [0, 10, 5, 3]
    assert recipe.fits(743_000_000) == 1 + 3 * 11


def test_a_level_with_fewer_distinct_inputs_takes_one_cluster_each_and_says_so():
    points = np.repeat(np.eye(5, dtype=np.float32), 20, axis=0)
    tree = HierarchicalKMeans([50, 20, 3]).fit(points).tree_
    assert [len(level) for level in tree.levels] == [5, 5, 3]
    assert any("level 1: 50 clusters" in note and "only 5 distinct" in note for note in tree.notes)
    assert any("level 2: 20 clusters" in note for note in tree.notes)


def test_all_points_equal_is_one_cluster_at_every_level():
    tree = HierarchicalKMeans([10, 4, 2]).fit(np.ones((50, 3))).tree_
    assert [list(level.sizes) for level in tree.levels] == [[50], [50], [50]]


@pytest.mark.parametrize(
    ("points", "levels"),
    [(blobs(2500, 10, 60), [200, 50, 10]), (halfway(4000, 150, 900), [600, 540, 20])],
    ids=["few clusters", "many clusters and a sketch"],
)
def test_blocks_slices_and_order_do_not_matter(points, levels):
    whole = HierarchicalKMeans(levels, resample_steps=2, resample_points=[5, 3, 3]).fit(points)
    rows, grid = grid_rows(points, "euclidean")
    keys = keys_of(str(i) for i in range(len(points)))
    order = np.random.default_rng(1).permutation(len(points))
    blocks = [PointBlock(rows[part], keys[part]) for part in np.array_split(order, 5)]
    grown = grow(
        LocalWorkers(blocks, 3),
        Recipe(levels, resample_steps=2, resample_points=[5, 3, 3]),
        lambda leaves: None,
    )
    for level, twin in zip(grown, whole.tree_.levels, strict=True):
        assert np.array_equal(grid.decode(np.concatenate(level.slices)), twin.centroids)
        assert np.array_equal(level.sizes, twin.sizes)


@pytest.mark.parametrize(
    ("levels", "options", "message"),
    [
        ([], {}, "n_clusters is"),
        ([10, 10], {}, "fewer than the one below"),
        ([10, 20], {}, "fewer than the one below"),
        ([10, 0], {}, "n_clusters is"),
        ([10, 5], {"resample_points": [3]}, "1 entries for 2 levels"),
        ([10.5], {}, "whole numbers"),
        (10.0, {}, "whole numbers"),
        ([10], {"resample_steps": -1}, "resample_steps is -1"),
        ([10], {"resample_steps": 2.5}, "resample_steps is 2.5"),
        ([10], {"random_state": "luck"}, "random_state is 'luck'"),
        ([10], {"distance": "l1"}, "no distance 'l1'"),
        ([10], {"resample_strategy": "furthest"}, "no resampling strategy 'furthest'"),
        ([10], {"resample_points": [-1]}, "negative entry"),
        ([101], {}, "101 clusters of 100 points"),
    ],
)
def test_unfit_requests_are_refused(levels, options, message):
    with pytest.raises(CurationError, match=message):
        HierarchicalKMeans(levels, **options).fit(blobs(100, 2, 5))
