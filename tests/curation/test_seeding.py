"""Greedy k-means++ is what a slow twin finds: candidates by hashed draws, the best by exact potentials."""

import numpy as np
import pytest

from curation import chance, exact
from curation.block import PointBlock
from curation.chance import keys_of
from curation.points import EVERYTHING
from curation.seeding import candidates_per_step, seed
from curation.workers import LocalWorkers
from tests.curation.kernels.twins import squared
from tests.curation.pools import blobs


def slow_seeds(points, keys, n_clusters, place, weights):
    """Rows of the seeds, in Python integers where it counts."""
    each = np.ones(len(points), np.int64) if weights is None else weights

    def drawn(number, left, count):
        purpose = chance.Purpose.SEED_CANDIDATES if number else chance.Purpose.FIRST_SEED
        salt = np.uint64(chance.salt(place[0], purpose, *place[1:], number))
        with np.errstate(divide="ignore"):
            u = chance.draws(chance.mixed(keys), salt)
            u = u if number or weights is None else chance.race(u)
            values = u / each / left
        return np.lexsort((keys[:, 1], keys[:, 0], values))[:count]

    units = squared(points, points) * 2.0**48
    seeds = [int(drawn(0, 1.0, 1)[0])]
    left = units[:, seeds[0]]
    for number in range(1, n_clusters):
        candidates = drawn(number, left / 2.0**48, candidates_per_step(n_clusters))
        lower = [np.maximum(left - units[:, i], 0) for i in candidates]
        gains = [sum(int(w) * int(g) for w, g in zip(each, column, strict=True)) for column in lower]
        seeds.append(int(candidates[gains.index(max(gains))]))
        left = np.minimum(left, units[:, seeds[-1]])
    return seeds


@pytest.mark.parametrize("blocks", [1, 3])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("random_state", "scores"), [(0, 1), (0, 100), (5, 1 << 22)])
def test_seeds_are_those_of_a_slow_twin(random_state, scores, weighted, blocks, monkeypatch):
    monkeypatch.setattr("curation.seeding._SCORES", scores)
    points = exact.Grid(2).encode(blobs(300, 3, 12))
    keys = keys_of(str(i) for i in range(300))
    weights = np.random.default_rng(1).integers(0, 5, 300) if weighted else None
    parts = [
        PointBlock(points[part], keys[part], weights=None if weights is None else weights[part])
        for part in np.array_split(np.arange(300), blocks)
    ]
    place = (random_state, 1, 0)
    found = np.concatenate(seed(LocalWorkers(parts), EVERYTHING, 12, place))
    assert np.array_equal(found, points[slow_seeds(points, keys, 12, place, weights)])


def test_candidates_are_drawn_in_proportion_to_their_distance():
    """Over many seeds, a far group of a tenth of the points gets its share of second seeds."""
    points = np.zeros((200, 2), np.float32)
    points[:, 1] = np.linspace(-0.001, 0.001, 200)
    points[180:, 0] = 1.0  # nearly all squared distance
    rows = exact.Grid(1).encode(points)
    keys = keys_of(str(i) for i in range(200))
    far = 0
    for s in range(50):
        seeds = np.concatenate(seed(LocalWorkers([PointBlock(rows, keys)]), EVERYTHING, 2, (s, 1, 0)))
        far += bool(seeds[0, 0] > 0.25) != bool(seeds[1, 0] > 0.25)
    assert far == 50
