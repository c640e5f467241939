"""What blocks and centroid workers do while coarse clusters are divided, each on its own, all at once.

A coarse cluster is a *cell* here. Leaf j of cell c has the number c s + j, s being the leaves of a cell, so
that numbers do not depend on how many distinct points the other cells have.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from curation import chance
from curation.assign import Assigner, Centroids
from curation.batches import thinned
from curation.candidates import Candidates

if TYPE_CHECKING:
    from curation.points import Points


class Share(NamedTuple):
    """How far a block's points have come.

    Attributes:
        cells: Their cells (n,), int32.
        leaves: Nearest seed so far, within the cell (n,), int32; -1 where there is none.
        distances: Squared distance to it (n,); infinite where there is none.
    """

    cells: NDArray[np.int32]
    leaves: NDArray[np.int32]
    distances: NDArray[np.float64]


class Offer(NamedTuple):
    """Points drawn as seeds, cell by cell.

    Attributes:
        cells: Their cells (m,), ascending.
        values: What they were drawn by (m,), ascending within a cell.
        keys: Their keys (m, 2).
        distances: Their squared distances (m,) to the seeds so far; 1 where there are none.
    """

    cells: NDArray[np.int32]
    values: NDArray[np.float64]
    keys: NDArray[np.uint64]
    distances: NDArray[np.float64]


def begun(cells: NDArray[np.int32]) -> Share:
    """Points before the first seeds."""
    return Share(cells, np.full(len(cells), -1, np.int32), np.full(len(cells), np.inf))


def offers(
    points: Points, share: Share, salt: int, counts: NDArray[np.int64], edges: Sequence[int]
) -> tuple[Offer, ...]:
    """The points with the smallest U / D of every cell, `counts` (cells,) of each; an offer for each slice.

    Args:
        points: The points.
        share: How far they are.
        salt: Salt of the draw.
        counts: Points wanted of each cell.
        edges: Where the cells of the slices start, and the last ones end.
    """
    distances = np.where(np.isinf(share.distances), 1.0, share.distances)
    with np.errstate(divide="ignore"):
        values = points.draws(salt) / distances
    index = np.flatnonzero(np.isfinite(values) & (counts[share.cells] > 0))
    drawn = Offer(share.cells[index], values[index], points.keys[index], distances[index])
    best = _smallest(drawn, counts)
    cuts = np.searchsorted(best.cells, edges)
    return tuple(_picked(best, slice(low, high)) for low, high in itertools.pairwise(cuts))


def elected(counts: NDArray[np.int64], told: Sequence[Offer]) -> Offer:
    """Those of all blocks' offers that have the smallest values, `counts` (cells,) of each cell."""
    cells, values, keys, distances = zip(*told, strict=True)
    together = (
        np.concatenate(cells),
        np.concatenate(values),
        np.concatenate(keys),
        np.concatenate(distances),
    )
    return _smallest(Offer(*together), counts)


def _smallest(drawn: Offer, counts: NDArray[np.int64]) -> Offer:
    order = chance.order(drawn.values, drawn.keys, drawn.cells.astype(np.int64))
    cells = drawn.cells[order].astype(np.int64)
    return _picked(drawn, order[chance.rank_in_group(cells) < counts[cells]])


def _picked(offer: Offer, index: slice | NDArray[np.int64]) -> Offer:
    return Offer(offer.cells[index], offer.values[index], offer.keys[index], offer.distances[index])


def thinned_within(
    rows: NDArray[np.float32],
    drawn: Offer,
    wanted: NDArray[np.int64],
    found: NDArray[np.int64],
    leaves: int,
    salt: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which drawn points become seeds: `curation.batches.thinned` in every cell.

    Args:
        rows: The drawn points (m, d).
        drawn: What is known of them.
        wanted: Seeds wanted of each cell (cells,).
        found: Seeds that each cell has (cells,).
        leaves: Leaves of a cell.
        salt: Salt of the draws, which is mixed with the cell.

    Returns:
        Their indices (s,), and the leaves that they begin (s,), ascending.
    """
    edges = np.flatnonzero(np.diff(drawn.cells, prepend=-1, append=-1))
    kept, begin = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for low, high in itertools.pairwise(edges.tolist()):
        cell = int(drawn.cells[low])
        luck = int(chance.splitmix64(np.array([salt], np.uint64) ^ np.uint64(cell))[0])
        mine = slice(low, high)
        new = thinned(rows[mine], drawn.keys[mine], drawn.distances[mine], int(wanted[cell]), luck)
        kept.append(low + new)
        begin.append(cell * leaves + found[cell] + np.arange(len(new)))
    return np.concatenate(kept), np.concatenate(begin)


def attracted(
    points: Points, assigner: Assigner, share: Share, n_cells: int, leaves: int, seeds: Seeds
) -> Share:
    """Lets new seeds attract the points of their cells that they are nearest to.

    Args:
        points: The points.
        assigner: How to look for the nearest.
        share: How far they are.
        n_cells: Number of cells.
        leaves: Leaves of a cell.
        seeds: The seeds (m, d) and the leaves that they begin (m,), ascending.
    """
    rows_of_seeds, begin = seeds
    if not len(begin):
        return share
    cells = begin // leaves
    counts = np.bincount(cells, minlength=n_cells)
    # points of a cell without a new seed look at the first there is, and do not go there
    members = np.insert(np.arange(len(begin)), np.cumsum(counts)[counts == 0], 0).astype(np.int32)
    offsets = np.concatenate([[0], np.cumsum(np.maximum(counts, 1))]).astype(np.int64)
    candidates = Candidates(cells.astype(np.int32), offsets, members)
    centroids = Centroids(rows_of_seeds)
    now, distances = share.leaves.copy(), share.distances.copy()
    for where, rows in points.chunks(assigner):
        norms = np.sqrt(points.squares[where])
        found = assigner.nearest(
            rows, norms, centroids, candidates=candidates, groups=share.cells[where]
        ).labels
        squared = assigner.squared_distances(rows, centroids, found)
        closer = (cells[found] == share.cells[where]) & (squared < distances[where])
        now[where][closer] = begin[found[closer]]
        distances[where][closer] = squared[closer]
    return Share(share.cells, now, distances)


def within(found: NDArray[np.int64], leaves: int) -> Candidates:
    """Candidates that keep points in their cells, whose leaves are as many as seeds were `found` (cells,)."""
    cells = np.repeat(np.arange(len(found)), leaves)
    offsets = np.concatenate([[0], np.cumsum(found)])
    members = np.repeat(np.arange(len(found)) * leaves - offsets[:-1], found) + np.arange(offsets[-1])
    return Candidates(cells.astype(np.int32), offsets.astype(np.int64), members.astype(np.int32))


Seeds = tuple[NDArray[np.float32], NDArray[np.int64]]
"""Seeds (m, d) and the leaves that they begin (m,)."""
