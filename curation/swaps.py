"""Split and merge: centroids leave where they are hardly missed for where one is missing.

The clusters with the largest spread are divided in two by a few rounds of 2-means, which tells exactly
how much a second centroid would gain there; those that are cheapest to dissolve, their points going
to the second nearest centroid, give theirs up as long as the gain exceeds the loss. An empty cluster
costs nothing to dissolve. Of two centroids that are each other's nearest only one may leave: either is
cheap because the other stays. After Muhr and Granitzer (2009) and others: split-and-merge k-means.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from curation import chance
from curation.points import SPREAD_UNIT

if TYPE_CHECKING:
    from curation.centroids import News
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
        unit_norm: Spherical k-means.
    """
    counts, spread, loss = (np.concatenate([np.asarray(news[i]) for news in told]) for i in (2, 3, 4))
    k = len(counts)
    cheap = np.argsort(loss, kind="stable")[:most]
    wide = np.argsort(-spread, kind="stable")[:most]
    wide = wide[(counts[wide] > 1) & (spread[wide] > loss[cheap[0]])]
    if not len(wide):
        return Swapped(slices, None, 0)
    salt = int(chance.salt(place[0], chance.Purpose.PIVOT, *place[1:]))
    first, second, gains = workers.attempt(
        partial(_divide, workers, view, own, slices, wide, k, salt, unit_norm), lambda: None
    )
    near = workers.get([workers.slice(0, "nearest_others", cheap, candidates, *slices)])[0]
    near = np.where(counts[cheap] > 0, near, np.int32(-1))  # an empty cluster leaves nobody behind
    pairs = _matched(wide, gains * SPREAD_UNIT, cheap, loss, near)
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
    loss: NDArray[np.int64],
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
