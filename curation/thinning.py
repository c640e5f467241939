"""Which samples stay where some are too near to each other, or too many of a group? The luckiest, by hash.

Samples are taken in the order of their draws, each unless what was taken before stands in its way. So what
stays is a function of the set of samples alone, and nothing that was left out could be added to it.

`apart` finds what that greedy pass would take without making it one by one (Blelloch, Fineman and Shun,
"Greedy sequential maximal independent set and matching are parallel on average", SPAA 2012): samples come in
runs, each as long as all before it together. Those that earlier ones stand in the way of are out; the others
of a run have few neighbours among themselves, however dense the pool, and are settled in rounds.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from curation import chance
from curation.errors import CurationError

_FIRST_RUN = 1024
_SLACK = 1 + 1e-9
"""The tree finds pairs a little farther apart than asked for, and NumPy decides: SciPy's arithmetic may be
another on another machine, elementwise products and sums of float64 are not."""


def lucky_order(keys: NDArray[np.uint64], seed: int) -> NDArray[np.int64]:
    """Rows of a pool, the luckiest first; keys of shape (n, 2)."""
    return chance.order(chance.draws(chance.mixed(keys), chance.salt(seed, chance.Purpose.THIN)), keys)


def apart(
    points: NDArray[np.float64], groups: NDArray[np.int64], distance: float, order: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Thin points so that no two of a group that stay lie nearer to each other than a distance.

    Args:
        points: (n, d), finite in the rows of `order`.
        groups: Group of each (n,), not negative; points of different groups may lie as near as they like.
        distance: Euclidean, above 0; two that are exactly so far apart may both stay.
        order: Rows that are looked at (m,), the luckiest first.

    Returns:
        For each row (n,) the luckiest row that stays and is nearer to it, -1 where it stays itself or is not
        looked at.

    Raises:
        CurationError: The distance is not above 0.
    """
    if not distance > 0:
        raise CurationError(f"samples cannot be {distance} apart: give a distance above 0")
    # groups that lie this far from each other in one more dimension never meet
    place = np.column_stack([points[order], groups[order] * (2.0 * distance)])
    blocker = np.full(len(order), -1, np.int64)  # all in places of the order from here on: lower is luckier
    stays = np.empty(0, np.int64)
    start, stop = 0, _FIRST_RUN
    while start < len(order):
        run = np.arange(start, min(stop, len(order)))
        blocker[run] = _first_near(place, run, stays, distance)
        free = run[blocker[run] < 0]
        blocker[free] = _settled(place, free, distance)
        stays = np.concatenate([stays, free[blocker[free] < 0]])
        start, stop = stop, 2 * stop
    found = np.full(len(points), -1, np.int64)
    found[order] = np.where(blocker < 0, -1, order[blocker])
    return found


def at_most(groups: NDArray[np.int64], count: int, order: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rows that are too many: of each group those behind its `count` luckiest.

    Args:
        groups: Group of each sample (n,).
        count: Samples of a group at most.
        order: Rows that are looked at (m,), the luckiest first.

    Raises:
        CurationError: The count is below 1.
    """
    if count < 1:
        raise CurationError(f"a group cannot have {count} samples at most: give 1 or more")
    by_group = order[np.argsort(groups[order], kind="stable")]
    return by_group[chance.rank_in_group(groups[by_group]) >= count]


def _first_near(
    place: NDArray[np.float64], run: NDArray[np.int64], stays: NDArray[np.int64], distance: float
) -> NDArray[np.int64]:
    """For each of a run the first of those that stay which is nearer than the distance, or -1."""
    if not len(stays):
        return np.full(len(run), -1, np.int64)
    # what stays is sparse, so these are few pairs: at most five a row on a plane
    tree, other = KDTree(place[run]), KDTree(place[stays])
    found = tree.sparse_distance_matrix(other, distance * _SLACK, output_type="ndarray")
    return _first(len(run), *_nearer(place, run, stays, found["i"], found["j"], distance), stays)


def _settled(place: NDArray[np.float64], free: NDArray[np.int64], distance: float) -> NDArray[np.int64]:
    """For each of some samples the first of those among them that stay and are nearer, -1 for these."""
    pairs = KDTree(place[free]).query_pairs(distance * _SLACK, output_type="ndarray")  # i < j: i is luckier
    later, first = _nearer(place, free, free, pairs[:, 1], pairs[:, 0], distance)
    stays = np.ones(len(free), bool)
    left = np.arange(len(first))
    while len(left):  # a few rounds: of those that wait for nobody, all later ones nearby are out
        waits = np.zeros(len(free), bool)
        waits[later[left]] = True
        stays[later[left[~waits[first[left]]]]] = False
        left = left[waits[first[left]] & stays[first[left]] & stays[later[left]]]
    decided = stays[first]
    return _first(len(free), later[decided], first[decided], free)


def _nearer(
    place: NDArray[np.float64],
    of: NDArray[np.int64],
    to: NDArray[np.int64],
    i: NDArray[np.integer],
    j: NDArray[np.integer],
    distance: float,
) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
    """Those pairs (of[i], to[j]) that are nearer than the distance."""
    squared = np.zeros(len(i))
    for column in place.T:
        step = column[of[i]] - column[to[j]]
        squared += step * step
    near = squared < distance * distance
    return i[near], j[near]


def _first(
    n: int, i: NDArray[np.integer], j: NDArray[np.integer], names: NDArray[np.int64]
) -> NDArray[np.int64]:
    """For each of 0..n-1 the name of the smallest j that it is paired with, or -1."""
    smallest = np.full(n, len(names), np.int64)
    np.minimum.at(smallest, i, j)
    return np.append(names, -1)[smallest]
