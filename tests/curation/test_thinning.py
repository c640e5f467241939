"""What stays is what a greedy pass in the order of luck would take, whatever the order of the rows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation import CurationError
from curation.chance import keys_of
from curation.thinning import apart, at_most, lucky_order


def near(points, groups, distance):
    """Which pairs (n, n) may not both stay."""
    squared = ((points[:, None] - points[None]) ** 2).sum(axis=2)
    return (squared < distance**2) & (groups[:, None] == groups[None])


def slow_apart(points, groups, distance, order):
    """One after another, each unless one that was taken is near; who stands in its way first."""
    pairs, taken = near(points, groups, distance), []
    found = np.full(len(points), -1)
    for row in order:
        in_the_way = [other for other in taken if pairs[row, other]]
        if in_the_way:
            found[row] = in_the_way[0]
        else:
            taken.append(row)
    return found


@st.composite
def pools(draw, most=60):
    """Points on a small lattice, so that many coincide and many are exactly the distance apart."""
    n = draw(st.integers(0, most))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    points = random.integers(0, draw(st.sampled_from([1, 3, 12])), (n, draw(st.integers(1, 3)))).astype(float)
    groups = random.integers(0, draw(st.integers(1, 3)), n)
    distance = draw(st.sampled_from([0.5, 1.0, 2.0**0.5, 2.0, 5.0, 100.0]))
    keys = keys_of(str(i) for i in range(n))
    return points, groups, distance, keys, lucky_order(keys, draw(st.integers(0, 3)))


@settings(max_examples=200)
@given(pools())
def test_it_is_the_slow_twin(pool):
    points, groups, distance, _, order = pool
    assert np.array_equal(apart(points, groups, distance, order), slow_apart(points, groups, distance, order))


@pytest.mark.parametrize("distance", [0.002, 0.02, 0.1, 0.5, 3.0])
def test_so_it_is_over_many_runs_and_densities(distance):
    """Two of three are in a dense corner, and every run but the first meets what stays of earlier ones."""
    random = np.random.default_rng(1)
    points = np.concatenate([random.random((3000, 2)) * 0.05, random.random((1500, 2))])
    groups = random.integers(0, 2, len(points))
    order = lucky_order(keys_of(map(str, range(len(points)))), 5)
    found = apart(points, groups, distance, order)
    assert np.array_equal(found, slow_apart(points, groups, distance, order))
    assert 0 < (found < 0).sum() < len(points)


@given(pools())
def test_no_two_that_stay_are_near_and_none_could_be_added(pool):
    points, groups, distance, _, order = pool
    found = apart(points, groups, distance, order)
    stays, pairs = found < 0, near(points, groups, distance)
    np.fill_diagonal(pairs, False)
    assert not pairs[stays][:, stays].any()
    assert pairs[~stays][:, stays].any(axis=1).all()
    turn = np.argsort(order)
    assert all(stays[found[row]] and turn[found[row]] < turn[row] for row in np.flatnonzero(~stays))


@given(pools(), st.randoms(use_true_random=False), st.integers(0, 3))
def test_the_order_of_the_rows_does_not_matter(pool, random, seed):
    points, groups, distance, keys, _ = pool
    shuffled = np.array(random.sample(range(len(points)), len(points)), int)
    found = apart(points, groups, distance, lucky_order(keys, seed))
    again = apart(points[shuffled], groups[shuffled], distance, lucky_order(keys[shuffled], seed))
    back = np.append(shuffled, -1)[again]
    assert np.array_equal(found[shuffled], back)
    cut = at_most(groups, 3, lucky_order(keys, seed))
    assert set(cut) == set(shuffled[at_most(groups[shuffled], 3, lucky_order(keys[shuffled], seed))])


@given(pools(), st.data())
def test_rows_that_are_not_looked_at_stand_in_nobodys_way(pool, data):
    points, groups, distance, _, order = pool
    some = order[: data.draw(st.integers(0, len(order)))]
    points = points.copy()
    points[np.setdiff1d(order, some)] = np.nan
    found = apart(points, groups, distance, some)
    few = np.sort(some)
    alone = apart(points[few], groups[few], distance, np.searchsorted(few, some))
    assert np.array_equal(found[few], np.append(few, -1)[alone])
    assert (np.delete(found, few) == -1).all()


def test_of_many_at_one_place_the_luckiest_stays():
    keys = keys_of(map(str, range(20_000)))
    order = lucky_order(keys, 0)
    found = apart(np.ones((20_000, 3)), np.zeros(20_000, int), 1e-3, order)
    assert (np.delete(found, order[0]) == order[0]).all()
    assert found[order[0]] == -1


def test_another_seed_keeps_others():
    random = np.random.default_rng(0)
    points, keys = random.random((500, 2)), keys_of(map(str, range(500)))
    one, other = (apart(points, np.zeros(500, int), 0.1, lucky_order(keys, seed)) < 0 for seed in (0, 1))
    assert (one != other).any()


@given(st.lists(st.integers(0, 5), max_size=80), st.integers(1, 9), st.integers(0, 3))
def test_of_each_group_the_luckiest_stay(groups, count, seed):
    groups = np.array(groups, int)
    order = lucky_order(keys_of(map(str, range(len(groups)))), seed)
    expected = [row for group in set(groups.tolist()) for row in order[groups[order] == group][count:]]
    assert sorted(at_most(groups, count, order)) == sorted(expected)


def test_what_cannot_be_kept_is_refused():
    order = np.arange(2)
    for distance in (0.0, -1.0, np.nan):
        with pytest.raises(CurationError, match="above 0"):
            apart(np.zeros((2, 2)), np.zeros(2, int), distance, order)
    with pytest.raises(CurationError, match="1 or more"):
        at_most(np.zeros(2, int), 0, order)
