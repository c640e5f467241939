"""Trees that share their leaves are the library's own, and the baselines draw what they say."""

import numpy as np
import pytest

from benchmarks.draws import flat_top_draw, random_draw, trees
from curation import CurationError, HierarchicalKMeans
from curation.chance import keys_of
from curation.recipe import Recipe
from curation.sampling import balanced_sample, flat_top_budgets

RECIPES = [
    Recipe([60, 20, 6], random_state=3),
    Recipe([60, 20, 6], random_state=3, resample_steps=3),
    Recipe([60], random_state=3),
]


@pytest.fixture(scope="module")
def pool():
    random = np.random.default_rng(0)
    return np.repeat(random.normal(size=(8, 5)), [400, 200, 100, 50, 25, 12, 6, 3], axis=0) + random.normal(
        0, 0.4, (796, 5)
    )


def test_sharing_leaves_changes_no_tree(pool):
    for recipe, tree in zip(RECIPES, trees(pool, RECIPES), strict=True):
        alone = HierarchicalKMeans(
            recipe.n_clusters, resample_steps=recipe.resample_steps, random_state=recipe.random_state
        ).fit(pool)
        for mine, theirs in zip(tree.levels, alone.tree_.levels, strict=True):
            assert np.array_equal(mine.centroids, theirs.centroids)
            assert np.array_equal(mine.parents, theirs.parents)
        assert np.array_equal(balanced_sample(tree, 100), balanced_sample(alone.tree_, 100))


@pytest.mark.parametrize(
    "other",
    [
        Recipe([50, 20], random_state=3),
        Recipe([60, 20], random_state=4),
        Recipe([60, 20], random_state=3, resample_steps=2, resample_points=[5, 2]),
    ],
)
def test_leaves_that_differ_are_not_shared(pool, other):
    with pytest.raises(CurationError, match="level 1"):
        trees(pool, [RECIPES[0], other])


def test_flat_top_shares_the_budget_among_top_clusters(pool):
    tree = trees(pool, RECIPES[:1])[0]
    drawn = flat_top_draw(tree, 90, seed=1)
    assert len(set(drawn)) == 90
    top = tree.paths()[tree.leaves.clusters, 0]
    assert np.array_equal(np.bincount(top[drawn], minlength=6), flat_top_budgets(tree, 90, seed=1))


def test_random_draw_is_of_different_rows_and_nested():
    keys = keys_of(str(i) for i in range(500))
    drawn = random_draw(keys, 100, seed=0)
    assert len(set(drawn)) == 100
    assert np.array_equal(drawn[:40], random_draw(keys, 40, seed=0))
    assert set(drawn) != set(random_draw(keys, 100, seed=1))
