"""The batched start: its draws against a twin in Python integers, and what it does with little to draw."""

import numpy as np
import pytest

from curation.batches import start, thinned
from curation.block import PointBlock
from curation.chance import keys_of, splitmix64
from curation.points import EVERYTHING
from curation.workers import LocalWorkers
from tests.curation.kernels.twins import on_grid
from tests.curation.pools import blobs


def squared(rows, others):
    return ((rows[:, None].astype(np.float64) - others.astype(np.float64)) ** 2).sum(2)


def slow_thinned(rows, keys, distances, wanted, salt):
    order = sorted(range(len(rows)), key=lambda i: tuple(keys[i]))
    left = {i: int(distances[i] * 2**48) for i in order}
    kept = []
    for number in range(wanted):
        total = sum(left.values())
        if total == 0:
            break
        u = int(splitmix64(np.array([number], np.uint64) ^ np.uint64(salt))[0])
        target = u * total // 2**64
        new = next(i for n, i in enumerate(order) if sum(left[j] for j in order[: n + 1]) > target)
        kept.append(new)
        for i, near in zip(order, squared(rows[[new]], rows[order])[0], strict=True):
            left[i] = min(left[i], int(near * 2**48))
    return kept


@pytest.mark.parametrize("wanted", [1, 20, 60, 100])
def test_thinning_is_a_draw_of_one_after_another(wanted):
    generator = np.random.default_rng(wanted)
    rows = on_grid(blobs(60, 3, 10))
    keys = keys_of(str(i) for i in generator.permutation(60))
    distances = squared(rows, rows[:1])[:, 0]
    assert list(thinned(rows, keys, distances, wanted, 77)) == slow_thinned(rows, keys, distances, wanted, 77)


def test_thinning_keeps_equal_points_once_and_never_a_point_at_a_seed():
    rows = np.repeat(on_grid(blobs(12, 3, 12)), 40, axis=0)
    keys = keys_of(str(i) for i in range(480))
    distances = squared(rows, rows[:1])[:, 0]
    kept = thinned(rows, keys, distances, 480, 5)
    assert len(kept) == 11
    assert len(np.unique(rows[kept], axis=0)) == 11
    assert (distances[kept] > 0).all()


def test_thinning_nothing_but_zeros_keeps_none():
    rows = on_grid(blobs(5, 3, 5))
    assert len(thinned(rows, keys_of("abcde"), np.zeros(5), 3, 0)) == 0


def test_thinning_does_not_hang_on_the_order_of_the_drawn():
    rows = on_grid(blobs(200, 4, 30))
    keys, distances = keys_of(str(i) for i in range(200)), squared(rows, rows[:1])[:, 0]
    order = np.random.default_rng(0).permutation(200)
    other = thinned(rows[order], keys[order], distances[order], 50, 9)
    assert np.array_equal(order[other], thinned(rows, keys, distances, 50, 9))


class Watched(LocalWorkers):
    """Remembers the seeds."""

    def __init__(self, blocks):
        super().__init__(blocks)
        self.seeds = []

    def slice(self, index, function, *args, returns=1):
        told = super().slice(index, function, *args, returns=returns)
        if function == "thin":
            self.seeds.append(told[0])
        return told


def started(rows, n_clusters, *, weights=None, parts=1, seed=0):
    """Seeds, labels by row, and how many seeds `start` says there are."""
    keys = keys_of(str(i) for i in range(len(rows)))
    shares = np.array_split(np.random.default_rng(parts).permutation(len(rows)), parts)
    shares = [np.arange(len(rows))] if parts == 1 else shares
    blocks = [PointBlock(rows[s], keys[s], None, None if weights is None else weights[s]) for s in shares]
    workers = Watched(blocks)
    own, found = start(workers, EVERYTHING, n_clusters, (seed, 1, 0), None)
    labels = np.concatenate([part.first for part in own])[np.argsort(np.concatenate(shares))]
    return np.concatenate(workers.seeds), labels, found


@pytest.mark.parametrize("parts", [1, 3])
def test_labels_are_the_nearest_seeds_which_are_points(parts):
    rows = on_grid(blobs(1500, 5, 60))
    seeds, labels, found = started(rows, 70, parts=parts)
    assert found == len(seeds) == 70
    assert (squared(seeds, rows).min(1) == 0).all()
    assert np.array_equal(labels, squared(rows, seeds).argmin(1))
    assert np.array_equal(seeds, started(rows, 70)[0])


def test_seeds_are_better_than_uniform_ones():
    rows = on_grid(blobs(3000, 8, 100))
    generator = np.random.default_rng(0)
    ours = np.mean([squared(rows, started(rows, 60, seed=s)[0]).min(1).sum() for s in range(5)])
    uniform = np.mean(
        [squared(rows, rows[generator.choice(3000, 60, replace=False)]).min(1).sum() for _ in range(5)]
    )
    assert ours < 0.95 * uniform


@pytest.mark.parametrize("distinct", [1, 2, 30])
def test_fewer_distinct_points_than_seeds(distinct):
    rows = np.repeat(on_grid(np.random.default_rng(0).standard_normal((distinct, 4))), 20, axis=0)
    seeds, labels, found = started(rows, 35)
    assert found == len(seeds) == distinct
    assert np.array_equal(rows, seeds[labels])


def test_points_a_grid_step_apart_are_two_seeds():
    rows = np.full((40, 3), 0.5, np.float32)
    rows[20:, 1] += np.float32(2.0**-24)
    rows[39] = -0.25  # nearly all of the distance
    assert started(rows, 3)[2] == 3


def test_points_of_no_weight_are_never_seeds():
    rows = on_grid(blobs(200, 3, 200))
    weights = (np.arange(200) % 4 == 0).astype(np.int64)
    seeds, labels, found = started(rows, 200, weights=weights)
    assert found == 50
    assert np.array_equal(np.unique(seeds, axis=0), np.unique(rows[::4], axis=0))
    assert np.array_equal(labels, squared(rows, seeds).argmin(1))


def test_heavy_points_are_likelier_seeds():
    """A tenth of the points have nearly all of the weight, and so nearly all of the first seeds."""
    rows = on_grid(blobs(1000, 3, 200))
    weights = np.where(np.arange(1000) < 100, 1000, 1)
    seeds, _, _ = started(rows, 100, weights=weights)
    heavy = (squared(seeds[:16], rows[:100]).min(1) == 0).sum()
    assert heavy >= 14
    light = (squared(started(rows, 100)[0][:16], rows[:100]).min(1) == 0).sum()
    assert light <= 6
