"""Slow twins of the kernels, and pools that are hard on them."""

import numpy as np

from curation import exact
from curation.candidates import Candidates
from tests.curation import pools


def two_nearest(rows, centroids, candidates=None, groups=None):
    """Nearest and second nearest candidate of each row, by brute force; -1 where there is no second."""
    scores = (centroids.astype(np.float64) ** 2).sum(1) / 2 - rows.astype(np.float64) @ centroids.T.astype(
        np.float64
    )
    for row, group in enumerate(groups if candidates is not None else ()):
        if group >= 0:
            mine = candidates.members[candidates.offsets[group] : candidates.offsets[group + 1]]
            scores[row, np.setdiff1d(np.arange(len(centroids)), mine)] = np.inf
    every = np.arange(len(rows))
    first = scores.argmin(1)
    scores[every, first] = np.inf
    second = scores.argmin(1)
    return first, np.where(np.isinf(scores[every, second]), -1, second)


def squared(rows, others):
    """Squared distances (n, m)."""
    return ((rows[:, None].astype(np.float64) - others.astype(np.float64)) ** 2).sum(2)


def slow_gains(rows, distances, candidates, weights):
    """In Python integers, of any size."""
    gain = np.maximum(distances[:, None] - squared(rows, candidates), 0) * 2.0**48
    return [sum(int(w) * int(g) for w, g in zip(weights, column, strict=True) if g) for column in gain.T]


def whole(gains):
    """Both words of each gain (2, m) as one number."""
    return [int(high) * 2**24 + int(low) for high, low in gains.T]


def on_grid(rows):
    """Any rows, as multiples of 2^-24 that are short enough."""
    return exact.Grid(exact.grid_exponent(rows)).encode(rows)


def hard_pool(n, k, d, dtype=np.float32):
    """Rows halfway between centroids, some centroids twice, some a grid step apart; all on the grid."""
    both = on_grid(pools.halfway(n + k, d, max(6, k // 2), seed=n + k + d))
    rows, centroids = both[:n].astype(dtype), both[n:].copy()
    centroids[1 : k // 3 : 3] = centroids[: k // 3 - 1 : 3]
    centroids[2 : k // 3 : 3] = centroids[: max(0, k // 3 - 2) : 3] + np.float32(2.0**-24)
    return rows, centroids


def random_candidates(k, n_groups, seed=0):
    """Groups of centroids and candidates of very different numbers, one group with a single one."""
    random = np.random.default_rng(seed)
    sizes = random.integers(1, k + 1, n_groups)
    sizes[0] = 1
    members = [np.sort(random.choice(k, size, replace=False)) for size in sizes]
    return Candidates(
        random.integers(0, n_groups, k).astype(np.int32),
        np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        np.concatenate(members).astype(np.int32),
    )
