"""Budgets, draws, ranks and weights, against a slow twin and over random trees."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation import CurationError, HierarchicalKMeans, Tree, balanced_sample
from curation.chance import keys_of, order
from curation.sampling import budgets, draw, flat_top_budgets, leaf_candidates, preferences, sibling_draws
from curation.tree import Level
from tests.curation.pools import blobs


@st.composite
def trees(draw_from):
    """A tree of one to three levels whose clusters hold up to 30 samples, some of them none; ties likely."""
    held = st.lists(st.integers(0, 30) | st.just(4), min_size=1, max_size=12).filter(any)
    sizes = np.array(draw_from(held), np.int64)
    shape = []
    for _ in range(draw_from(st.integers(0, 2))):
        parents = np.array(
            draw_from(st.lists(st.integers(0, len(sizes) - 1), min_size=len(sizes), max_size=len(sizes)))
        )
        _, parents = np.unique(parents, return_inverse=True)
        shape.append((sizes, parents))
        sizes = np.bincount(parents, weights=sizes).astype(np.int64)
    shape.append((sizes, None))
    return Tree([Level(size, parents) for size, parents in shape])


def slow_share(budget, capacity, hashes):
    """One sample at a time: to a child with the fewest that has room, in the order of hashes."""
    given_ = np.zeros(len(capacity), np.int64)
    for _ in range(budget):
        room = [j for j in range(len(capacity)) if given_[j] < capacity[j]]
        lucky = min(room, key=lambda j: (given_[j], hashes[j], j))
        given_[lucky] += 1
    return given_


def slow_budgets(tree, size, repeats, seed):
    above = np.array([size])
    out = []
    for number in range(len(tree.levels), 0, -1):
        level = tree.levels[number - 1]
        parents = level.parents if level.parents is not None else np.zeros(len(level), int)
        hashes = sibling_draws(number, len(level), seed)
        below = np.zeros(len(level), np.int64)
        for parent in range(len(above)):
            mine = np.flatnonzero(parents == parent)
            below[mine] = slow_share(above[parent], level.sizes[mine] * repeats, hashes[mine])
        out.append(below)
        above = below
    return out[::-1]


def take(tree, size, repeats, seed, within="random"):
    """The draw over a pool with samples 0.. in the order of their leaves."""
    leaf = np.repeat(np.arange(len(tree.levels[0])), tree.levels[0].sizes)
    keys = keys_of(str(i) for i in range(len(leaf)))
    distances = (np.arange(len(leaf)) % 5).astype(np.float32)
    wanted = budgets(tree, size, repeats, seed)[0]
    index = leaf_candidates(leaf, preferences(within, seed, keys, distances), keys, wanted)
    return leaf, distances, draw(tree, wanted, leaf[index], index, seed)


@settings(deadline=None)
@given(trees(), st.floats(0, 1), st.integers(1, 3), st.integers(0, 3))
def test_budgets_are_those_of_the_slow_twin(tree, share, repeats, seed):
    size = round(share * tree.size * repeats)
    for fast, slow in zip(
        budgets(tree, size, repeats, seed), slow_budgets(tree, size, repeats, seed), strict=True
    ):
        assert np.array_equal(fast, slow)
        assert fast.sum() == size


@settings(deadline=None, max_examples=60)
@given(trees(), st.integers(1, 3), st.integers(0, 3), st.data())
def test_smaller_sets_are_contained_and_ranks_say_where_copies_enter(tree, repeats, seed, data):
    size = data.draw(st.integers(1, tree.size * repeats))
    _, _, large = take(tree, size, repeats, seed)
    assert sorted(large.rank) == list(range(1, size + 1))
    smaller = data.draw(st.integers(0, size))
    _, _, small = take(tree, smaller, repeats, seed)
    expected = {
        int(index): int((ranks <= smaller).sum())
        for index, ranks in zip(large.index, large.ranks(), strict=True)
        if (ranks <= smaller).any()
    }
    assert dict(zip(small.index.tolist(), small.repeats.tolist(), strict=True)) == expected
    assert all((np.diff(ranks) > 0).all() for ranks in large.ranks())
    assert (np.diff([ranks[0] for ranks in large.ranks()]) > 0).all()


@settings(deadline=None)
@given(trees(), st.integers(1, 3), st.integers(0, 3), st.data())
def test_no_sample_is_taken_more_than_its_cluster_mates_plus_one(tree, repeats, seed, data):
    size = data.draw(st.integers(1, tree.size * repeats))
    leaf, _, drawn = take(tree, size, repeats, seed)
    copies = np.zeros(len(leaf), np.int64)
    copies[drawn.index] = drawn.repeats
    assert copies.max() <= repeats
    for j in set(leaf.tolist()):
        assert np.ptp(copies[leaf == j]) <= 1


@settings(deadline=None)
@given(trees(), st.integers(1, 3), st.data())
def test_weights_add_up_to_the_pool(tree, repeats, data):
    size = data.draw(st.integers(1, tree.size * repeats))
    _, _, drawn = take(tree, size, repeats, 0)
    assert drawn.weight.sum() == pytest.approx(tree.size)
    if size == tree.size * repeats:
        np.testing.assert_allclose(drawn.weight, 1)


@pytest.mark.parametrize(("within", "sign"), [("closest", 1), ("furthest", -1)])
def test_within_takes_the_closest_or_the_furthest(within, sign):
    tree = Tree([Level(np.array([40, 60]), None)])
    leaf, distances, drawn = take(tree, 30, 1, 0, within)
    for j in range(2):
        mine = drawn.index[drawn.leaf == j]
        others = np.setdiff1d(np.flatnonzero(leaf == j), mine)
        assert (sign * distances[mine]).max() <= (sign * distances[others]).min()


def test_offers_of_parts_merge_to_the_offer_of_the_whole():
    generator = np.random.default_rng(0)
    leaf = generator.integers(0, 20, 2000)
    values = generator.integers(0, 50, 2000).astype(float)
    keys = keys_of(str(i) for i in range(2000))
    wanted = generator.integers(0, 30, 20)
    whole = leaf_candidates(leaf, values, keys, wanted)
    found = []
    for part in np.array_split(generator.permutation(2000), 9):
        found.append(part[leaf_candidates(leaf[part], values[part], keys[part], wanted)])
    pooled = np.concatenate(found)
    merged = pooled[leaf_candidates(leaf[pooled], values[pooled], keys[pooled], wanted)]
    assert np.array_equal(merged, whole)


def test_random_draws_are_even():
    """Each of ten points of a leaf is taken first about as often as the others."""
    tree = Tree([Level(np.array([10]), None)])
    first = [int(take(tree, 1, 1, seed)[2].index[0]) for seed in range(2000)]
    counts = np.bincount(first, minlength=10)
    assert ((counts - 200) ** 2 / 200).sum() < 34  # chi-square, 9 degrees of freedom, 99.99 %


def test_a_balanced_sample_is_balanced():
    points = blobs(5000, 8, 40, spread=0.1)
    tree = HierarchicalKMeans([300, 60, 12]).fit(points).tree_
    ids = balanced_sample(tree, 600)
    assert len(ids) == len(set(ids)) == 600
    assert np.array_equal(balanced_sample(tree, 250), ids[:250])
    spread = lambda rows: np.std(np.bincount(tree.paths()[tree.leaves.clusters[rows], 0], minlength=12))  # noqa: E731
    assert spread(ids) < spread(np.random.default_rng(0).choice(5000, 600, replace=False)) / 3


def test_flat_top_spreads_over_the_top_level_alone():
    tree = Tree([Level(np.array([1, 5, 10, 20]), np.array([0, 0, 1, 1])), Level(np.array([6, 30]), None)])
    assert sorted(flat_top_budgets(tree, 20)) == [6, 14]


def test_a_target_larger_than_the_pool_is_refused():
    tree = Tree([Level(np.array([4, 6]), None)])
    with pytest.raises(CurationError, match="21 .* 10 samples taken up to 2 times make 20"):
        budgets(tree, 21, 2)
    assert budgets(tree, 20, 2)[0].tolist() == [8, 12]


def test_huge_repeats_do_not_overflow():
    tree = Tree([Level(np.array([4, 6]), None)])
    assert sorted(budgets(tree, 3, 10**19)[0]) == [1, 2]
    assert budgets(tree, 30, 5 * 10**16)[0].sum() == 30


def test_an_unknown_order_is_named():
    with pytest.raises(CurationError, match="no order 'nearest'; there are random"):
        preferences("nearest", 0, keys_of(["a"]), np.zeros(1, np.float32))


def test_a_tree_without_its_pool_says_so():
    with pytest.raises(CurationError, match="without its pool"):
        balanced_sample(Tree([Level(np.array([3]), None)]), 1)


def test_a_tree_that_does_not_add_up_is_refused():
    with pytest.raises(CurationError, match="cluster 0 of level 2 claims 9"):
        Tree([Level(np.array([4, 6]), np.array([0, 0])), Level(np.array([9]), None)])


def test_a_tree_with_an_unknown_parent_is_refused():
    with pytest.raises(CurationError, match="level 1 names a parent"):
        Tree([Level(np.array([4, 6]), np.array([0, 1])), Level(np.array([10]), None)])


def test_a_tree_without_some_samples_is_one_of_those_that_are_left():
    tree = Tree([Level(np.array([4, 6, 5]), np.array([0, 0, 1])), Level(np.array([10, 5]), None)])
    left = tree.without(np.array([1, 6, 2]))
    assert [level.sizes.tolist() for level in left.levels] == [[3, 0, 3], [3, 3]]
    assert (tree.size, left.size) == (15, 6)
    with pytest.raises(CurationError, match="cluster . of level . holds . samples, and . are to be left out"):
        tree.without(np.array([0, 0, 6]))


def test_order_ends_in_the_key():
    keys = keys_of(["b", "a", "c"])
    assert sorted(order(np.zeros(3), keys)) == [0, 1, 2]
    assert list(order(np.zeros(3), keys)) == list(np.lexsort((keys[:, 1], keys[:, 0])))
