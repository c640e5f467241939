"""Swaps: what they promise to the objective, whom they move, and when they leave things alone."""

import numpy as np
import pytest

from curation import exact
from curation.block import PointBlock
from curation.centroids import nearest_others
from curation.points import EVERYTHING
from curation.swaps import _matched, swap
from curation.workers import LocalWorkers
from tests.curation.kernels.twins import on_grid, two_nearest
from tests.curation.pools import blobs, halfway


def workers_of(rows, parts=1, n_slices=1, weights=None):
    keys = np.stack([np.arange(len(rows), dtype=np.uint64)] * 2, axis=1)
    shares = np.array_split(np.arange(len(rows)), parts)
    blocks = [PointBlock(rows[s], keys[s], None, None if weights is None else weights[s]) for s in shares]
    return LocalWorkers(blocks, n_slices)


def objective(rows, centroids):
    return exact.squared_distances(rows, centroids, None, two_nearest(rows, centroids)[0]).sum()


def swapped(rows, centroids, most, parts=1, slices=1, *, share=1.0, unit_norm=False, weights=None):
    """The centroids after an iteration, and what a round of swaps makes of them."""
    workers = workers_of(rows, parts, slices, weights)
    told = workers.points(
        "assign", EVERYTHING, None, None, None, True, *np.array_split(centroids, slices), own=[None] * parts
    )
    own = [labels for labels, *_ in told]
    news = [
        workers.slice(i, "update", part, unit_norm, *(block[1 + i] for block in told))
        for i, part in enumerate(np.array_split(centroids, slices))
    ]
    moved = [new for new, _ in news]
    done = swap(
        workers,
        EVERYTHING,
        own,
        moved,
        [said for _, said in news],
        (0, 1, 0, 1),
        most,
        None,
        share=share,
        unit_norm=unit_norm,
    )
    return np.concatenate(moved), done, np.concatenate(done.slices)


POOLS = {
    "clusters": lambda seed: on_grid(blobs(3000, 8, 60, seed)),
    "long": lambda seed: on_grid(blobs(3000, 4, 300, seed, spread=0.1)),
    "halfway": lambda seed: on_grid(halfway(3000, 16, 90, seed)),
    "noise": lambda seed: on_grid(np.random.default_rng(seed).standard_normal((3000, 6))),
}


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("seed", range(4))
def test_swaps_and_the_assignment_after_them_lower_the_objective(pool, seed):
    rows = POOLS[pool](seed)
    centroids = rows[np.random.default_rng(seed).choice(3000, 60, replace=False)]
    moved, done, after = swapped(rows, centroids, 30)
    assert done.count == (0 if done.dissolved is None else done.dissolved.sum())
    if done.count:
        assert objective(rows, after) < objective(rows, moved)
    if pool != "noise":
        assert done.count


def test_two_that_stand_in_for_each_other_do_not_both_leave():
    """Two centroids in a far heap: each is cheap to dissolve, both together are not."""
    generator = np.random.default_rng(0)
    heaps = [[-0.9, 0], [0.9, 0], [0, 0.9], [0, -0.9], [0, 0]]
    rows = on_grid(np.concatenate([h + 0.01 * generator.standard_normal((200, 2)) for h in heaps]))
    centroids = np.r_[rows[[0, 1]], rows[[200, 201]], exact.Grid(0).encode(np.array([[0.0, 0.3]]))]
    moved, done, after = swapped(rows, centroids, 5)
    assert done.count == 2
    assert not done.dissolved[[0, 1]].all()
    assert not done.dissolved[[2, 3]].all()
    assert objective(rows, after) < objective(rows, moved)


def test_one_is_dissolved_only_while_its_nearest_stays():
    generator = np.random.default_rng(1)
    for _ in range(200):
        k = 30
        gains = generator.random(k)
        loss = generator.integers(0, 8, k) / 20
        cheap = np.argsort(loss, kind="stable")[:20]
        near = np.array([generator.choice(np.delete(np.arange(k), c)) for c in cheap])
        wide = generator.permutation(k)[:12]
        pairs = _matched(wide, gains[wide], cheap, loss, near)
        divided, gone = wide[pairs[:, 0]], pairs[:, 1]
        heirs = near[[int(np.flatnonzero(cheap == c)[0]) for c in gone]]
        assert len(np.unique(np.r_[divided, gone])) == 2 * len(pairs)
        assert not np.isin(heirs, gone).any()
        assert (gains[divided] > loss[gone]).all()


def test_who_asks_for_less_than_the_loss_swaps_more_and_loses_little_at_first():
    rows = POOLS["noise"](0)
    centroids = rows[np.random.default_rng(0).choice(3000, 60, replace=False)]
    moved, careful, _ = swapped(rows, centroids, 30)
    _, bold, after = swapped(rows, centroids, 30, share=0.5)
    assert bold.count > careful.count
    assert objective(rows, after) < 1.01 * objective(rows, moved)


@pytest.mark.parametrize("parts", [1, 3])
def test_the_largest_weights_swap_as_the_smallest_do(parts):
    """Weights of sum 2^36 times squared distances of up to 4, in steps of 2^-30, are 2^68 steps."""
    apart = 0.9 * np.repeat(np.eye(5), 600, axis=0)
    rows = on_grid(apart + 0.02 * np.random.default_rng(0).standard_normal(apart.shape))
    centroids = rows[np.r_[0, 1, 2, 600, 1200, 1800]]  # three where one would do, and a heap without any
    small = np.random.default_rng(1).integers(0, 40, len(rows))
    large = small << (36 - int(small.sum() - 1).bit_length())
    assert 2**35 < large.sum() <= 2**36
    _, few, after = swapped(rows, centroids, 6, parts, weights=small)
    _, many, same = swapped(rows, centroids, 6, parts, weights=large)
    assert few.count
    assert np.array_equal(few.dissolved, many.dissolved)
    assert np.array_equal(after, same)


def test_empty_clusters_are_filled():
    rows = POOLS["clusters"](0)
    centroids = rows[np.random.default_rng(0).choice(3000, 40, replace=False)]
    centroids[30:] = centroids[:1]  # equal: the first takes all points, and any may be the one that stays
    moved, done, after = swapped(rows, centroids, 20)
    assert done.dissolved[np.r_[0, 30:40]].sum() == 10
    assert np.bincount(two_nearest(rows, after)[0], minlength=40).min() > 0
    assert objective(rows, after) < objective(rows, moved)


def test_a_perfect_clustering_is_left_alone():
    generator = np.random.default_rng(0)
    means = np.eye(12) * 0.9
    rows = on_grid(np.repeat(means, 100, axis=0) + 0.01 * generator.standard_normal((1200, 12)))
    centroids = exact.mean_on_grid(
        *exact.cluster_sums(rows, np.repeat(np.arange(12, dtype=np.int32), 100), 12), unit_norm=False
    )
    moved, done, after = swapped(rows, centroids, 12)
    assert done.count == 0
    assert done.dissolved is None
    assert np.array_equal(after, moved)


def test_clusters_of_one_point_or_of_equal_points_are_not_divided():
    rows = np.repeat(on_grid(np.eye(6)), [1, 1, 50, 50, 50, 50], axis=0)
    _, done, after = swapped(rows, on_grid(np.eye(6)), 6)
    assert done.count == 0
    assert np.array_equal(after, np.eye(6))


@pytest.mark.parametrize("unit_norm", [False, True])
def test_blocks_and_slices_do_not_matter(unit_norm):
    rows = POOLS["halfway"](0)
    rows = on_grid(exact.normalize_rows(rows)) if unit_norm else rows
    centroids = rows[np.random.default_rng(0).choice(3000, 80, replace=False)]
    _, done, after = swapped(rows, centroids, 30, unit_norm=unit_norm)
    assert done.count > 3
    for parts, slices in ((2, 1), (7, 3)):
        _, again, other = swapped(rows, centroids, 30, parts, slices, unit_norm=unit_norm)
        assert np.array_equal(again.dissolved, done.dissolved)
        assert np.array_equal(other, after)
    if unit_norm:
        np.testing.assert_allclose(np.linalg.norm(after, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("device", ["cpu", "cpu:torch"])
def test_the_nearest_other_centroid(device):
    centroids = on_grid(blobs(50, 3, 20))
    centroids[7] = centroids[3]
    chosen = np.array([4, 3, 7, 49])
    wide = centroids.astype(np.float64)
    distances = ((wide[chosen, None] - wide) ** 2).sum(2)
    distances[np.arange(4), chosen] = np.inf
    for slices in (1, 3):
        found = nearest_others(device, chosen, None, *np.array_split(centroids, slices))
        assert np.array_equal(found, distances.argmin(1))
    assert nearest_others(device, np.array([0]), None, centroids[:1]) == [-1]
