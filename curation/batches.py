"""A start in a few batches: D^2 sampling (Arthur and Vassilvitskii, SODA 2007), many seeds at a time.

The first few seeds are drawn uniformly. Each further batch doubles them: it draws four times the
points that it wants, with weights D (the squared distance to the nearest seed so far), keeps those
that lower the objective most (`curation.merits`), and lets them attract the points around them. In
all each point is compared with each seed once, which costs as much as one assignment and yields the
first labels; some of the points are compared with all that is drawn as well. In a sketch of the points
(`curation.sketch`), that is a fraction of it. Draws are hashes and D is exact, so the seeds do not
depend on where the points live.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from curation import chance, exact
from curation.assign import Assigner, Centroids, as_array
from curation.kernels.threads import in_runs
from curation.merits import JUDGES
from curation.nearer import attract
from curation.points import Labels, Points

if TYPE_CHECKING:
    from curation.workers import Handle, Workers

FIRST = 8
"""Seeds that are drawn uniformly."""

OVERDRAW = 4
LEAST_DRAWN = 16  # candidates at least: the smallest U / w of very few is no draw in proportion to w

Drawn = tuple[NDArray[np.uint64], NDArray[np.float64]]
"""Keys (m, 2) and squared distances D (m,) of drawn points."""


def weighty(workers: Workers, view: str) -> int:
    """Number of points of a view that have any weight: the others decide nothing."""
    return sum(workers.ask("count_weighty", view))


def start(
    workers: Workers,
    view: str,
    n_clusters: int,
    place: tuple[int, int, int],
    directions: Handle | None,
    judges: int = JUDGES,
) -> tuple[list[Handle], int]:
    """Labels of a view's points by the nearest of `n_clusters` drawn seeds.

    Args:
        workers: Who holds the points.
        view: The points.
        n_clusters: Seeds wanted.
        place: (seed, level, resampling step), the salt of the draws.
        directions: Handle of the directions to look along; None for all dimensions.
        judges: Points a seed, in the mean, that judge the points drawn for a batch.

    Returns:
        The labels, a handle a block, and the number of seeds: fewer than wanted where there are fewer
        distinct points (or, along directions, points that these tell apart).
    """
    count = weighty(workers, view)
    own: list[Handle] | None = None
    found = empty = batch = 0
    while found < n_clusters and empty < 2:
        wanted = min(n_clusters - found, max(FIRST, found))
        share = judges * (found + wanted) / max(1, count)
        step = partial(_batch, workers, view, own, wanted, found, share, (*place, batch), directions)
        own, more = workers.attempt(step, lambda: None)
        found += more
        empty = empty + 1 if not more else 0
        batch += 1
        workers.tick("seeding", found, n_clusters)
    return workers.points("attracted", own=own), found


def _batch(
    workers: Workers,
    view: str,
    own: list[Handle] | None,
    wanted: int,
    found: int,
    share: float,
    place: tuple[int, ...],
    directions: Handle | None,
) -> tuple[list[Handle] | None, int]:
    """One batch: what the blocks know after it, and how many seeds it brought."""
    count = wanted if own is None else max(OVERDRAW * wanted, LEAST_DRAWN)
    purpose = chance.Purpose.FIRST_SEED if own is None else chance.Purpose.SEED_CANDIDATES
    salt = int(chance.salt(place[0], purpose, *place[1:]))
    before = own or workers.nobody()
    offers = workers.points("offer", view, salt, count, own=before)
    keys, drawn, told = workers.slice(0, "draw", count, *offers, returns=3)
    n_drawn = int(workers.get([told])[0])
    if not n_drawn:
        return own, 0
    rows = workers.slice(0, "gather", 0, n_drawn, *workers.points("rows_of", keys, directions))
    merits: list[Handle] = []
    if own is not None:
        judges = int(chance.salt(place[0], chance.Purpose.JUDGES, *place[1:]))
        merits = workers.points("merits", view, directions, judges, share, rows, own=own)
    seeds, told = workers.slice(0, "thin", wanted, salt, drawn, rows, *merits, returns=2)
    own = workers.known("attract", view, directions, found, seeds, own=before)
    return own, int(workers.get([told])[0])


def offers(
    points: Points, distances: NDArray[np.float64] | None, salt: int, count: int
) -> tuple[NDArray[np.float64], NDArray[np.uint64], NDArray[np.float64]]:
    """See `curation.block.PointBlock.offer`; `distances` (n,) to the nearest seeds, None before the first."""
    values = points.draws(salt, few=distances is None)
    if distances is None:
        distances = np.ones(len(points))
    in_runs(len(values), partial(_divide, values, distances))
    index = chance.smallest(values, points.keys, count)
    index = index[np.isfinite(values[index])]
    return values[index], points.keys[index], distances[index]


def _divide(values: NDArray[np.float64], distances: NDArray[np.float64], run: slice) -> None:
    """Values over distances of a run of points, in place."""
    with np.errstate(divide="ignore"):
        np.divide(values[run], distances[run], out=values[run])


def attracted(
    points: Points,
    assigner: Assigner,
    own: tuple[Labels, NDArray[np.float64]] | None,
    offset: int,
    seeds: NDArray[np.float32],
) -> tuple[Labels, NDArray[np.float64]]:
    """Labels (n,) and squared distances (n,) after new seeds (m, d), numbered from `offset`, have come."""
    labels = np.full(len(points), -1, np.int32) if own is None else own[0].first.copy()
    distances = np.full(len(points), np.inf) if own is None else own[1].copy()
    centroids = Centroids(seeds)
    for where, rows in points.chunks(assigner):
        if own is not None and assigner.on is None:
            squares = points.squares[where]
            attract(assigner, as_array(rows), squares, centroids, offset, labels[where], distances[where])
            continue
        found = assigner.nearest(rows, points.norms(where), centroids).labels
        squared = assigner.squared_distances(rows, centroids, found)
        in_runs(len(found), partial(_nearer, found, squared, offset, labels[where], distances[where]))
    return Labels(labels), distances


def _nearer(
    found: NDArray[np.int32],
    squared: NDArray[np.float64],
    offset: int,
    labels: NDArray[np.int32],
    distances: NDArray[np.float64],
    run: slice,
) -> None:
    """Labels and distances of a run of points, changed in place where what was found is nearer."""
    np.copyto(labels[run], found[run] + np.int32(offset), where=squared[run] < distances[run])
    np.minimum(distances[run], squared[run], out=distances[run])


def thinned(
    rows: NDArray[np.float32],
    keys: NDArray[np.uint64],
    distances: NDArray[np.float64],
    wanted: int,
    salt: int,
) -> NDArray[np.int64]:
    """Which of some drawn points to keep: D^2 sampling one at a time, D updated after each.

    Each step is a single draw, so it inverts the cumulative sum of integer weights over the points in
    the order of their keys, where U / w would be biased. wanted m d operations; equal points are kept
    once.

    Args:
        rows: Drawn points (m, d).
        keys: Their keys (m, 2).
        distances: Their exact squared distances (m,) to the seeds so far.
        wanted: Points to keep.
        salt: Salt of the draws.
    """
    order = np.lexsort((keys[:, 1], keys[:, 0]))
    rows, left = rows[order], exact.square_units(distances[order])
    # fewer bits where the sum of all would leave int64
    shift = np.int64(max(0, int(left.max()).bit_length() + len(left).bit_length() - 62))
    left = left >> shift
    wide = rows.astype(np.float64)
    squares = exact.squared_norms(rows)
    luck = chance.splitmix64(np.arange(wanted, dtype=np.uint64) ^ np.uint64(salt))
    kept = []
    for u in luck:
        edges = np.cumsum(left)
        if edges[-1] <= 0:
            break
        # u / 2^64 of the total, in integers
        target = (int(u) * int(edges[-1])) >> 64
        new = int(np.searchsorted(edges, target, side="right"))
        kept.append(new)
        squared = squares + squares[new] - 2 * (wide @ wide[new])
        left = np.minimum(left, exact.square_units(squared) >> shift)
        left[new] = 0
    return order[np.asarray(kept, np.int64)]
