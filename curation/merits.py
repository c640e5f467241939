"""Which of many drawn points make good seeds: those that would lower the objective most.

D^2 sampling draws more points than are wanted (`curation.batches`). Some of the pool's points judge
them: the merit of a drawn point is by how much it would lower the judges' sum of D, the squared
distance to the nearest seed. Then the best is taken, again and again, the merit of each drawn point
shrinking as seeds come closer to it. One seed at a time with all points as judges this is greedy
k-means++ (Arthur and Vassilvitskii, SODA 2007, section 7); where clusters have few points it makes
k-means better, and its leaves more even, than D^2 sampling alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from curation.assign import Assigner, Centroids, as_array, as_tensor
from curation.kernels import native
from curation.kernels.threads import allowed, each
from curation.nearer import gains
from curation.points import Points

JUDGES = 16
"""Points a seed, in the mean, that judge the points drawn for a batch."""

FEW_JUDGES = 4
"""The same for a fit that only chooses points for another: swaps mend what they miss."""

_TOGETHER = 2048  # drawn points among which the best are looked for: their rows fit a core's cache


def merits(
    points: Points,
    assigner: Assigner,
    distances: NDArray[np.float64],
    judging: NDArray[np.bool_] | None,
    drawn: NDArray[np.float32],
) -> NDArray[np.int64]:
    """By how much each drawn point (m, d) would lower the sum of D over a block's judges.

    2 d operations a pair of judge and drawn point in float32; pairs that may
    gain, about as many as there are judges for every doubling of the seeds, once more in float64.

    Args:
        points: The points.
        assigner: How to compute.
        distances: D of the points (n,), exact.
        judging: Which points judge (n,); None: all.
        drawn: The drawn points, on the grid.

    Returns:
        (2, m): sums of the upper and of the lower bits of the gains, in units of 2^-24 and of 2^-48.
    """
    out = np.zeros((2, len(drawn)), np.int64)
    centroids = Centroids(drawn)
    for where, rows in points.chunks(assigner):
        index = slice(None) if judging is None else np.flatnonzero(judging[where])
        squares, now = points.squares[where][index], distances[where][index]
        weights = None if points.weights is None else points.weights[where][index]
        if assigner.on is not None:
            out += assigner.on.gains(as_tensor(rows, assigner.on)[index], squares, now, weights, centroids)
            continue
        out += gains(assigner, as_array(rows)[index], squares, centroids, now, weights)
    return out


def best(
    rows: NDArray[np.float32],
    keys: NDArray[np.uint64],
    distances: NDArray[np.float64],
    gains: Sequence[NDArray[np.int64]],
    wanted: int,
) -> NDArray[np.int64]:
    """Indices of the drawn points that become seeds, each different from all others.

    Each step takes the point of the largest merit times left / D, left being its squared distance to the
    seeds, those of the batch included. At most 2048 wanted d operations: a point that is taken is compared
    with the drawn points of its own group, of up to 2048.

    Args:
        rows: Drawn points (m, d) on the grid.
        keys: Their keys (m, 2).
        distances: Their exact squared distances D (m,) to the seeds so far, all positive.
        gains: What `merits` found in every block.
        wanted: Points to take; fewer come back where there are fewer distinct points.
    """
    order = np.lexsort((keys[:, 1], keys[:, 0]))
    high, low = np.sum(gains, axis=0)[:, order]
    # a point that nobody gains by is still worth something where there is no other
    merit = np.maximum(high * 2.0**24 + low, 1.0)
    near, left = np.ascontiguousarray(rows[order]), distances[order]
    groups = -(-len(order) // _TOGETHER)
    edges = [len(order) * i // groups for i in range(groups + 1)]
    shares = [wanted * i // groups for i in range(groups + 1)]
    taken = np.full(wanted, -1, np.int64)

    def take(numbers: Iterator[int]) -> None:
        for i in numbers:
            part, room = slice(edges[i], edges[i + 1]), slice(shares[i], shares[i + 1])
            native.take_best(near[part], merit[part] / left[part], left[part].copy(), taken[room])
            taken[room][taken[room] >= 0] += edges[i]

    each(allowed(), take, range(groups))
    taken = taken[taken >= 0]
    if groups > 1:  # equal points may have come from two groups
        _, first = np.unique(near[taken], axis=0, return_index=True)
        taken = taken[np.sort(first)]
    return order[taken]
