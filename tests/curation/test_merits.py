"""The merits of drawn points: exact to the last bit, and the best taken one after another."""

import numpy as np
import pytest

from curation import exact
from curation.assign import Assigner, Centroids
from curation.chance import keys_of
from curation.merits import best, merits
from curation.nearer import attract
from curation.points import Points
from curation.rows import ResidentRows
from tests.curation.kernels.twins import hard_pool, on_grid, slow_gains, squared, whole
from tests.curation.pools import blobs


def judged(rows, distances, candidates, weights=None, judging=None, **how):
    points = Points(
        ResidentRows(rows), keys_of(map(str, range(len(rows)))), exact.squared_norms(rows), weights
    )
    return merits(points, Assigner(**how), distances, judging, candidates)


HOWS = [{}, {"tile": 1}, {"tile": 33, "threads": 2}, {"matmul": "torch"}, {"device": "cpu:torch"}]


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize(("n", "m", "d"), [(900, 200, 48), (60, 1, 3), (1, 7, 1), (100, 70, 500)])
def test_gains_are_exact(how, n, m, d):
    """Rows halfway between candidates, and some that have one of these already: a gain of nothing."""
    rows, candidates = hard_pool(n, m, d)
    distances = squared(rows, candidates[: m // 4 + 1]).min(1)
    assert whole(judged(rows, distances, candidates, **how)) == slow_gains(
        rows, distances, candidates, np.ones(n)
    )


@pytest.mark.parametrize("how", HOWS)
def test_some_rows_judge_with_their_weights(how):
    rows, candidates = hard_pool(300, 40, 20)
    weights = np.random.default_rng(0).integers(0, 2**27, 300)
    distances = squared(rows, candidates[:3]).min(1)
    judging = np.arange(300) % 7 == 3
    found = judged(rows, distances, candidates, weights, judging, **how)
    some = rows[judging], distances[judging], candidates, weights[judging]
    assert whole(found) == slow_gains(*some)


def test_the_largest_sums_hold():
    """As many as there may be of the longest rows, on the other side of the sphere."""
    rows, candidates = np.float32([[1, 0]]), np.float32([[-1, 0]])
    far = np.float32([[-1, 2.0**-24]])
    found = judged(rows, squared(rows, far).min(1), np.concatenate([rows, candidates]), np.array([2**36]))
    assert whole(found) == [2**36 * int((4 + 2.0**-48) * 2**48), 2**36]


def test_blocks_add_up():
    rows, drawn = hard_pool(500, 30, 16)
    keys, distances = keys_of(str(i) for i in range(500)), squared(rows, drawn[:2]).min(1)
    judging = np.arange(500) % 3 > 0

    def part(where):
        points = Points(ResidentRows(rows[where]), keys[where], exact.squared_norms(rows[where]))
        return merits(points, Assigner(), distances[where], judging[where], drawn)

    together = merits(
        Points(ResidentRows(rows), keys, exact.squared_norms(rows)), Assigner(), distances, judging, drawn
    )
    assert np.array_equal(together, part(slice(0, 170)) + part(slice(170, 500)))


def drawn_of(rows, seeds=1):
    """Keys, distances to some seeds, and gains of all rows but these."""
    distances = squared(rows, rows[:seeds]).min(1)
    some = np.flatnonzero(distances > 0)
    gains = judged(rows, distances, rows[some])
    return rows[some], keys_of(str(i) for i in some), distances[some], gains


def slow_best(rows, keys, distances, gains, wanted):
    order = sorted(range(len(rows)), key=lambda i: tuple(keys[i]))
    left, taken = dict(zip(order, distances[order], strict=True)), []
    worth = {i: max(float(gains[0][i] * 2.0**24 + gains[1][i]), 1.0) / distances[i] for i in order}
    while len(taken) < wanted:
        new = max(order, key=lambda i: worth[i] * left[i])
        if left[new] == 0:
            break
        taken.append(new)
        for i, near in zip(order, squared(rows[[new]], rows[order])[0], strict=True):
            left[i] = min(left[i], near)
    return taken


@pytest.mark.parametrize("wanted", [1, 20, 99])
def test_the_best_are_taken_one_after_another(wanted):
    rows, keys, distances, gains = drawn_of(on_grid(blobs(100, 3, 10)))
    assert list(best(rows, keys, distances, [gains], wanted)) == slow_best(
        rows, keys, distances, gains, wanted
    )


def test_the_first_taken_is_the_best_seed_there_is():
    rows, keys, distances, gains = drawn_of(on_grid(blobs(300, 5, 20)))
    (first,) = best(rows, keys, distances, [gains], 1)
    every = on_grid(blobs(300, 5, 20))
    objective = np.minimum(squared(every, every[:1]), squared(every, rows)).sum(0)
    assert first == objective.argmin()


@pytest.mark.parametrize("copies", [40, 900])  # among one group of drawn points, and among many
def test_equal_points_are_taken_once(copies):
    rows, keys, distances, gains = drawn_of(np.repeat(on_grid(blobs(12, 3, 12)), copies, axis=0), copies)
    taken = best(rows, keys, distances, [gains], 400)
    assert len(np.unique(rows[taken], axis=0)) == len(taken) == 11


def test_points_that_nobody_gains_by_are_taken_where_there_are_no_others():
    rows = on_grid(blobs(50, 3, 50))
    distances = squared(rows, rows[:1])[:, 0]
    keys, gains = keys_of(str(i) for i in range(1, 50)), np.zeros((2, 49), np.int64)
    taken = best(rows[1:], keys, distances[1:], [gains], 60)
    assert sorted(taken) == list(range(49))


@pytest.mark.parametrize("count", [200, 5000])
def test_the_best_do_not_hang_on_the_order_of_the_drawn(count):
    rows, keys, distances, gains = drawn_of(on_grid(blobs(count, 4, 30)))
    order = np.random.default_rng(0).permutation(len(rows))
    other = best(rows[order], keys[order], distances[order], [gains[:, order]], count // 4)
    assert np.array_equal(order[other], best(rows, keys, distances, [gains], count // 4))


@pytest.mark.parametrize("how", [{}, {"tile": 1}, {"tile": 33, "threads": 2}, {"matmul": "torch"}])
@pytest.mark.parametrize(("n", "m", "d"), [(900, 200, 48), (60, 1, 3), (1, 7, 1), (100, 70, 500)])
def test_new_seeds_attract_the_rows_that_they_are_nearer_to(how, n, m, d):
    """Of equally near seeds the first, and what a row has where none is nearer."""
    rows, seeds = hard_pool(n, m + 5, d)
    before, new = squared(rows, seeds[:5]), squared(rows, seeds[5:])
    labels, distances = before.argmin(1).astype(np.int32), before.min(1)
    expected = np.where(new.min(1) < distances, 5 + new.argmin(1), labels)
    attract(Assigner(**how), rows, exact.squared_norms(rows), Centroids(seeds[5:]), 5, labels, distances)
    assert np.array_equal(labels, expected)
    assert np.array_equal(distances, np.minimum(before.min(1), new.min(1)))
