"""Split and merge: centroids leave where they are hardly missed for where one is missing.

The clusters with the largest spread are divided in two by a few rounds of 2-means, which tells exactly
how much a second centroid would gain there; those that are cheapest to dissolve, their points going
to the second nearest centroid, give theirs up as long as the gain exceeds the loss. An empty cluster
costs nothing to dissolve. Of two centroids that are each other's nearest only one may leave: either is
cheap because the other stays. What is lost is told as if nothing moved afterwards, so a fit that goes on
for long may ask for less gain than that. After Muhr and Granitzer (2009) and others: split-and-merge k-means.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from curation import chance
from curation.assign import Assigner, Centroids
from curation.points import Partial, Points

if TYPE_CHECKING:
    from curation.centroids import News, Pivots
    from curation.workers import Handle, Workers

_ROUNDS = 2  # of 2-means


@dataclass(frozen=True)
class Swapped:
    """What a round of swaps did.

    Attributes:
        slices: The centroids.
        dissolved: Clusters (k,) whose centroid went elsewhere; None if there is none.
        count: How many.
    """

    slices: list[Handle]
    dissolved: NDArray[np.bool_] | None
    count: int


def swap(
    workers: Workers,
    view: str,
    own: list[Handle],
    slices: list[Handle],
    told: list[News],
    place: tuple[int, ...],
    most: int,
    candidates: Handle | None,
    *,
    share: float,
    unit_norm: bool,
) -> Swapped:
    """Divides up to `most` clusters at the cost of as many others.

    Args:
        workers: Who holds the points.
        view: The points.
        own: Their labels.
        slices: The centroids, at the means of their points.
        told: What the update of each slice told.
        place: Salt of the pivots' draws: seed, level, step, iteration.
        most: Clusters to look at on either side.
        candidates: Among which centroids the nearest to another is looked for; None: among all.
        share: Of the loss, that a gain has to exceed.
        unit_norm: Spherical k-means.
    """
    counts, spread, loss = (np.concatenate([np.asarray(news[i]) for news in told]) for i in (2, 3, 4))
    k = len(counts)
    cheap = np.argsort(loss, kind="stable")[:most]
    price = loss * share
    wide = np.argsort(-spread, kind="stable")[:most]
    wide = wide[(counts[wide] > 1) & (spread[wide] > price[cheap[0]])]
    if not len(wide):
        return Swapped(slices, None, 0)
    salt = int(chance.salt(place[0], chance.Purpose.PIVOT, *place[1:]))
    first, second, gains = workers.attempt(
        partial(_divide, workers, view, own, slices, wide, k, salt, unit_norm), lambda: None
    )
    near = workers.get([workers.slice(0, "nearest_others", workers.device, cheap, candidates, *slices)])[0]
    near = np.where(counts[cheap] > 0, near, np.int32(-1))  # an empty cluster leaves nobody behind
    pairs = _matched(wide, gains, cheap, price, near)
    if not len(pairs):
        return Swapped(slices, None, 0)
    dissolved = np.zeros(k, bool)
    rows = pairs[:, 0]
    places = np.stack([wide[rows], pairs[:, 1]], axis=1)
    dissolved[pairs[:, 1]] = True
    edges = np.cumsum([0, *(len(news.counts) for news in told)])
    slices = [
        workers.slice(i, "replace", int(edges[i]), part, rows, places, first, second)
        for i, part in enumerate(slices)
    ]
    return Swapped(slices, dissolved, len(pairs))


def _divide(
    workers: Workers,
    view: str,
    own: list[Handle],
    slices: list[Handle],
    chosen: NDArray[np.int64],
    n_clusters: int,
    salt: int,
    unit_norm: bool,
) -> tuple[Handle, Handle, NDArray[np.float64]]:
    """Halves of the chosen clusters (handles), and the gains (q,)."""
    found = workers.points("pivots", view, salt, chosen, *slices, own=own)
    first, second = workers.slice(0, "pivot", chosen, len(slices), *slices, *found, returns=2)
    for _ in range(_ROUNDS):
        parts = workers.points("halves", view, n_clusters, chosen, first, second, own=own)
        first, second, gains = workers.slice(0, "halve", unit_norm, *parts, returns=3)
    return first, second, workers.get([gains])[0]


def _matched(
    wide: NDArray[np.int64],
    gains: NDArray[np.float64],
    cheap: NDArray[np.int64],
    loss: NDArray[np.float64],
    near: NDArray[np.int32],
) -> NDArray[np.int64]:
    """Pairs (p, 2) of a place in `wide` and a cluster to dissolve for it: largest gain, smallest loss.

    Clusters on both lists do whichever comes first. One is dissolved only while the centroid nearest to
    it (`near`, of each of `cheap`) stays, which then stays to the end.
    """
    pairs: list[tuple[int, int]] = []
    gone: set[int] = set()
    stays: set[int] = set()  # divided, or nearest to one that is gone
    waiting = iter(zip(cheap.tolist(), near.tolist(), strict=True))
    for row in np.argsort(-gains, kind="stable").tolist():
        cluster = int(wide[row])
        if cluster in gone:
            continue
        given, heir = next(
            ((c, n) for c, n in waiting if c not in stays and c != cluster and n not in gone),
            (None, -1),
        )
        if given is None or loss[given] >= gains[row]:
            break
        stays |= {cluster, heir}
        gone.add(given)
        pairs.append((row, given))
    return np.asarray(pairs, np.int64).reshape(-1, 2)


def pivots(
    points: Points,
    assigner: Assigner,
    labels: NDArray[np.int32],
    salt: int,
    chosen: NDArray[np.int64],
    slices: Sequence[NDArray[np.float32]],
) -> Pivots:
    """A far point of each chosen cluster: the smallest U / D, D the distance to the centroid.

    As a single draw that favours far points more than D^2 would. It is no sample: only where 2-means begins.

    Returns:
        Positions in `chosen` (m,), values (m,), keys (m, 2) and rows (m, d) of those that have one.
    """
    centroids = Centroids(np.concatenate(slices))
    index, position = _inside(labels, chosen, len(centroids.values))
    distances = np.empty(len(index))
    for where, rows in points.chunks(assigner):
        part = _between(index, where)
        mine = index[part]
        distances[part] = assigner.squared_distances(rows, centroids, labels[mine], mine - where.start)
    with np.errstate(divide="ignore"):
        values = points.draws(salt)[index] / distances
    least = chance.least(values, points.keys[index], position, len(chosen))
    first = index[least]
    return position[least].astype(np.int64), values[least], points.keys[first], points.rows.take(first)


def halves(
    points: Points,
    assigner: Assigner,
    labels: NDArray[np.int32],
    n_clusters: int,
    chosen: NDArray[np.int64],
    first: NDArray[np.float32],
    second: NDArray[np.float32],
) -> Partial:
    """Divides each chosen cluster between two centres: sums and counts (2 q,) of their points."""
    index, position = _inside(labels, chosen, n_clusters)
    sums = np.zeros((2 * len(chosen), points.rows.shape[1]), np.int64)
    counts = np.zeros(2 * len(chosen), np.int64)
    centres = Centroids(first), Centroids(second)
    for where, rows in points.chunks(assigner):
        mine = _between(index, where)
        local = index[mine] - where.start
        side = assigner.sides(rows, local, position[mine], *centres)
        sides = np.full(len(rows), -1, np.int32)  # rows of other clusters do not count
        sides[local] = side
        weights = None if points.weights is None else points.weights[where]
        more = assigner.cluster_sums(rows, sides, 2 * len(chosen), weights)
        sums += more[0]
        counts += more[1]
    return Partial(sums, counts)


def _inside(
    labels: NDArray[np.int32], chosen: NDArray[np.int64], n_clusters: int
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Points of the chosen clusters, ascending, and the position in `chosen` of the cluster of each."""
    place = np.full(n_clusters, -1, np.int32)
    place[chosen] = np.arange(len(chosen), dtype=np.int32)
    position = place[labels]
    index = np.flatnonzero(position >= 0)
    return index, position[index]


def _between(index: NDArray[np.int64], where: slice) -> slice:
    """Which of ascending indices lie in a chunk."""
    return slice(int(np.searchsorted(index, where.start)), int(np.searchsorted(index, where.stop)))
