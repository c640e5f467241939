"""What a centroid worker does to its slice: gather seeds, reduce sums, update, find resampling limits.

Pure functions of their arguments, so that a centroid worker may die and lose nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from curation import chance, division, exact, sketch
from curation.assign import Assigner, Centroids
from curation.batches import Drawn, thinned
from curation.candidates import Candidates
from curation.division import Offer, Seeds
from curation.exact import LIMB, SPREAD_UNIT
from curation.merits import best
from curation.neighbours import nearby
from curation.points import Partial

Found = tuple[NDArray[np.int64], NDArray[np.float32]]
Leaders = tuple[NDArray[np.integer[Any]], NDArray[np.float64], NDArray[np.uint64]]
Limits = tuple[NDArray[np.float64], NDArray[np.uint64], NDArray[np.uint64]]
Offered = tuple[NDArray[np.float64], NDArray[np.uint64], NDArray[np.float64]]
Pivots = tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.uint64], NDArray[np.float32]]


class News(NamedTuple):
    """What an update of a slice tells the conductor.

    Attributes:
        moved: Whether a centroid moved.
        terms: The slice's part of the objective before the move, less the sum of squared norms, in
            units of 2^-48.
        counts: Sums of weights (k,).
        spread: Weighted sums of squared distances to the centroids before the move (k,); None where not
            asked for.
        loss: By how much these would grow if every point went to its second nearest; as `spread`.
    """

    moved: bool
    terms: int
    counts: NDArray[np.int64]
    spread: NDArray[np.float64] | None
    loss: NDArray[np.float64] | None


def gather(low: int, high: int, *found: Found) -> NDArray[np.float32]:
    """Rows low..high-1 of a list of points, put together from what each block found of the list."""
    if len(found) == 1 and len(found[0][0]) == high - low:
        return found[0][1]  # in their order already
    out = np.empty((high - low, found[0][1].shape[1]), np.float32)
    for position, rows in found:
        mine = (position >= low) & (position < high)
        out[position[mine] - low] = rows[mine]
    return out


def update(
    centroids: NDArray[np.float32] | None, unit_norm: bool, *partials: Partial | None
) -> tuple[NDArray[np.float32], News]:
    """Reduces the blocks' exact sums and moves each centroid of a slice to its mean, on the grid.

    A cluster without points keeps its centroid (zero where there was none), as does one whose mean has
    no direction (`unit_norm`).
    """
    sums, counts, spread, loss = _added(partials)
    moved = exact.mean_on_grid(sums, counts, unit_norm=unit_norm)
    before = np.zeros_like(moved) if centroids is None else centroids
    stays = counts == 0
    if unit_norm:
        stays |= ~sums.any(axis=1)
    moved[stays] = before[stays]
    terms = exact.inertia_terms(before, sums, counts)
    return moved, News(not np.array_equal(moved, before), terms, counts, _whole(spread), _whole(loss))


def _whole(limbs: NDArray[np.int64] | None) -> NDArray[np.float64] | None:
    """Sums (k,) from those of their upper and lower bits (k, 2): exact, and then rounded once."""
    return None if limbs is None else limbs.astype(np.float64) @ _LIMBS


_LIMBS = np.array([2.0**LIMB, 1.0]) / SPREAD_UNIT


def _added(partials: Sequence[Partial | None]) -> Partial:
    """The sum of what blocks have; None where another one has it already (`curation.collective`)."""
    here = [part for part in partials if part is not None]
    columns = zip(*here, strict=True)
    return Partial(*(None if column[0] is None else _sum(column) for column in columns))  # type: ignore[arg-type]


def _sum(parts: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """A sum of equal arrays, made in place of the first copy."""
    if len(parts) == 1:
        return parts[0]
    total: NDArray[np.int64] = parts[0] + parts[1]
    for part in parts[2:]:
        total += part
    return total


def directions(*found: Found) -> NDArray[np.float64] | None:
    """Directions of a sketch from a sample of points, in the order of the sample."""
    return sketch.directions(gather(0, sum(len(position) for position, _ in found), *found))


def sketched(centroids: NDArray[np.float32], along: NDArray[np.float64]) -> NDArray[np.float32]:
    """The sketch of a slice."""
    return sketch.project(centroids, along)


def candidates(device: str, *slices: NDArray[np.float32]) -> tuple[Candidates, float]:
    """Which centroids are candidates of which, from all (sketched) slices, and what share of all they are."""
    found = nearby(np.concatenate(slices), assigner=Assigner(device=device))
    return found, len(found.members) / ((len(found.offsets) - 1) * len(found.groups))


def draw(count: int, *offers: Offered) -> tuple[NDArray[np.uint64], Drawn, int]:
    """The `count` smallest of all blocks' offers: their keys, what is known of them, how many they are."""
    values, keys, distances = (np.concatenate(column) for column in zip(*offers, strict=True))
    best = chance.smallest(values, keys, count)
    return keys[best], (keys[best], distances[best]), len(best)


def thin(
    wanted: int, salt: int, drawn: Drawn, rows: NDArray[np.float32], *merits: NDArray[np.int64]
) -> tuple[NDArray[np.float32], int]:
    """Thins drawn points (m, d) to seeds by their merits, or by another draw where nobody judged them.

    See `curation.merits.best` and `curation.batches.thinned`.

    Returns:
        The seeds, and how many they are.
    """
    index = best(rows, *drawn, merits, wanted) if merits else thinned(rows, *drawn, wanted, salt)
    return rows[index], len(index)


def elect(counts: NDArray[np.int64], *offers: Offer) -> tuple[NDArray[np.uint64], Offer]:
    """`curation.division.elected` of all blocks' offers: the keys, and what is known of the points."""
    drawn = division.elected(counts, offers)
    return drawn.keys, drawn


def thin_within(
    wanted: NDArray[np.int64],
    found: NDArray[np.int64],
    leaves: int,
    salt: int,
    drawn: Offer,
    *told: Found,
) -> tuple[Seeds, NDArray[np.int64]]:
    """`curation.division.thinned_within`: the seeds, and how many each cell gets (cells,)."""
    rows = gather(0, len(drawn.keys), *told)
    index, begin = division.thinned_within(rows, drawn, wanted, found, leaves, salt)
    return (rows[index], begin), np.bincount(begin // leaves, minlength=len(found))


def within(found: NDArray[np.int64], leaves: int) -> Candidates:
    """`curation.division.within`."""
    return division.within(found, leaves)


def pivot(
    chosen: NDArray[np.int64], n_slices: int, *args: Any
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The two centres from which each chosen cluster is divided: its centroid and its pivot.

    Args:
        chosen: Clusters (q,).
        n_slices: Number of slices.
        args: The slices, then what `PointBlock.pivots` found in every block.

    Returns:
        First and second centres (q, d), equal where a cluster has no pivot.
    """
    first = np.concatenate(args[:n_slices])[chosen]
    position, values, keys, rows = (np.concatenate(column) for column in zip(*args[n_slices:], strict=True))
    order = chance.order(values, keys, position)
    order = order[chance.rank_in_group(position[order]) == 0]
    second = first.copy()
    second[position[order]] = rows[order]
    return first, second


def halve(
    unit_norm: bool, *partials: Partial | None
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float64]]:
    """Means of the two halves of every divided cluster, and by how much dividing it lowers the objective.

    Returns:
        First and second means (q, d), and gains (q,) = n1 n2 / (n1 + n2) |m1 - m2|^2, 0 for an empty half.
    """
    sums, counts, _, _ = _added(partials)
    means = exact.mean_on_grid(sums, counts, unit_norm=unit_norm)
    first, second = means[0::2], means[1::2]
    n1, n2 = counts[0::2].astype(np.float64), counts[1::2].astype(np.float64)
    apart = exact.squared_distances(first, second, None, np.arange(len(second)))
    gains = n1 * n2 / np.maximum(n1 + n2, 1) * apart
    return first, second, gains


def nearest_others(
    device: str, chosen: NDArray[np.int64], candidates: Candidates | None, *slices: NDArray[np.float32]
) -> NDArray[np.int32]:
    """The centroid that is nearest to each chosen one (q,), among its candidates; -1 where it is alone."""
    every = Centroids(np.concatenate(slices))
    rows = every.values[chosen]
    groups = None if candidates is None else candidates.groups[chosen]
    norms = np.sqrt(exact.squared_norms(rows))
    assigner = Assigner(device=device)
    found = assigner.nearest(rows, norms, every, candidates=candidates, groups=groups, seconds=True)
    seconds = found.labels if found.seconds is None else found.seconds
    return np.where(found.labels == chosen, seconds, found.labels)


def replace(
    low: int,
    centroids: NDArray[np.float32],
    rows: NDArray[np.int64],
    places: NDArray[np.int64],
    first: NDArray[np.float32],
    second: NDArray[np.float32],
) -> NDArray[np.float32]:
    """A slice, whose first cluster is `low`, with the halves of divided clusters put in.

    Args:
        low: Number of the slice's first cluster.
        centroids: The slice (k, d).
        rows: Which divided cluster (p,).
        places: The clusters (p, 2) that its first and its second half replace.
        first: First halves (q, d).
        second: Second halves (q, d).
    """
    out = centroids.copy()
    for halves, place in ((first, places[:, 0]), (second, places[:, 1])):
        mine = (place >= low) & (place < low + len(out))
        out[place[mine] - low] = halves[rows[mine]]
    return out


def limits(centroids: NDArray[np.float32], limit: int, *leaders: Leaders) -> Limits:
    """Merges the blocks' first points of every cluster: the last one that a resampling step takes.

    Args:
        centroids: The slice (k, d).
        limit: Points wanted of each cluster.
        leaders: What `PointBlock.leaders` returned for this slice.

    Returns:
        Value, first and second word of the key of each cluster's last point, each (k,); all points
        of a smaller cluster lie within.
    """
    clusters, values, keys = (np.concatenate(column) for column in zip(*leaders, strict=True))
    by_cluster = chance.order(values, keys, clusters)
    by_cluster = by_cluster[chance.rank_in_group(clusters[by_cluster]) < limit]
    last = np.flatnonzero(np.diff(np.r_[clusters[by_cluster], -1]))
    chosen = by_cluster[last]
    value = np.full(len(centroids), -1.0)
    words = np.zeros((len(centroids), 2), np.uint64)
    value[clusters[chosen]] = values[chosen]
    words[clusters[chosen]] = keys[chosen]
    return value, words[:, 0], words[:, 1]


def compress(centroids: NDArray[np.float32], keep: NDArray[np.bool_]) -> NDArray[np.float32]:
    """The centroids of a slice that are kept."""
    return centroids[keep]


def size(centroids: NDArray[np.float32]) -> int:
    """Number of centroids in a slice."""
    return len(centroids)
