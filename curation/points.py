"""A block of points and everything a fit asks of it; the driver of a fit never sees the points.

Each method returns something whose merge over blocks does not depend on how the points are spread:
exact sums, counts, or short lists ordered by (value, key). A block may be replaced by a fresh one at
any time: what it computes follows from its arguments, the labels of its own points among them, save
two states that are announced, the view (`select`) and greedy seeding (`Seeding`), whose absence raises
`WorkerRestartedError`.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from curation import chance, division, exact, sketch
from curation.assign import Assigner, Centroids
from curation.candidates import Candidates, Lists
from curation.division import Seeds, Share
from curation.errors import WorkerRestartedError
from curation.rows import ResidentRows, Rows, StoredRows, store
from curation.seeding import Seeding

if TYPE_CHECKING:
    from curation.assign import Chunk
    from curation.device import Placed

EVERYTHING = "everything"  # the view that needs no selection

SHORT = 2.0**-14
"""Norm on the grid below which a point has fewer than 2^10 steps of length."""

SPREAD_UNIT = 2.0**30
"""Steps of 1.0 in which the spread of a cluster is added up: int64 holds 2^31 points of it."""

_BLOCK = 2**16  # squared distances added up at a time: no copies of all of them

Directions = NDArray[np.float64]
Writer = Callable[[NDArray[np.int64], NDArray[np.float64]], Any]


@dataclass(frozen=True)
class About:
    """Exact figures of a block; those of a pool are their sums.

    Attributes:
        count: Number of points.
        weight: Sum of their weights.
        squares: Weighted sum of their squared norms, in units of 2^-48.
        sums: Weighted sum of the points (d,), in steps of 2^-24.
        short: Points that are not zero and have a norm below `SHORT`.
    """

    count: int
    weight: int
    squares: int
    sums: NDArray[np.int64]
    short: int


class Labels(NamedTuple):
    """What a block's points of a view are assigned to.

    Attributes:
        first: Nearest centroid (n,), int32; -1 where it is not known.
        second: Second nearest (n,), int32, -1 where there is none; None where not looked for.
    """

    first: NDArray[np.int32]
    second: NDArray[np.int32] | None = None


class Partial(NamedTuple):
    """A block's exact part in a slice of k clusters.

    Attributes:
        sums: Weighted sums of points (k, d), in steps of 2^-24.
        counts: Sums of weights (k,).
        spread: Sums of squared distances to the centroid (k,), in units of 2^-30; None if not asked for.
        loss: By how much these would grow if every point went to its second nearest; as `spread`.
    """

    sums: NDArray[np.int64]
    counts: NDArray[np.int64]
    spread: NDArray[np.int64] | None = None
    loss: NDArray[np.int64] | None = None


@dataclass
class Points:
    """The points of a view: rows on the grid with what every method needs beside them.

    Attributes:
        rows: Rows (n, d).
        keys: Keys (n, 2), uint64.
        squares: Exact squared norms (n,).
        weights: Whole-numbered weights (n,), int64; None where all are one.
    """

    rows: Rows
    keys: NDArray[np.uint64]
    squares: NDArray[np.float64]
    weights: NDArray[np.int64] | None = None
    _sketch: tuple[str, Points] | None = field(default=None, repr=False)
    _placed: Placed | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.rows)

    def chunks(self, assigner: Assigner) -> Iterator[tuple[slice, Chunk]]:
        """Every row once, where the assigner computes; what its device has room for stays there."""
        if assigner.on is None:
            return self.rows.chunks()
        if self._placed is None:
            self._placed = assigner.on.place(self.rows)
        return self._placed.chunks()

    @cached_property
    def mixed(self) -> NDArray[np.uint64]:
        """Both words of each key folded into one (n,)."""
        return chance.mixed(self.keys)

    @cached_property
    def by_key(self) -> NDArray[np.int64]:
        """Indices (n,) in the order of the keys' first words."""
        return np.argsort(self.keys[:, 0], kind="stable")

    def select(self, index: NDArray[np.int64]) -> Points:
        """Some of the points, by ascending index."""
        weights = None if self.weights is None else self.weights[index]
        return Points(self.rows.select(index), self.keys[index], self.squares[index], weights)

    def draws(self, salt: int) -> NDArray[np.float64]:
        """Draws (n,), divided by the weights; infinite where a weight is zero."""
        drawn = chance.draws(self.mixed, np.uint64(salt))
        if self.weights is None:
            return drawn
        with np.errstate(divide="ignore"):
            return drawn / self.weights

    def total(self, squared: NDArray[np.float64]) -> int:
        """Weighted sum of squared distances or norms, in units of 2^-48."""
        found = 0
        for start in range(0, len(squared), _BLOCK):
            units = exact.square_units(squared[start : start + _BLOCK])
            if self.weights is None:
                found += exact.total(units)
                continue
            weights = self.weights[start : start + _BLOCK]
            found += (int(((units >> 24) * weights).sum()) << 24) + exact.total((units & 0xFFFFFF) * weights)
        return found

    def sketched(self, directions: Directions | None, assigner: Assigner, scratch: Path | None) -> Points:
        """The points along some directions; the last answer is kept. Themselves where there are none."""
        if directions is None:
            return self
        token = hashlib.blake2b(np.ascontiguousarray(directions).data, digest_size=16).hexdigest()
        if self._sketch is None or self._sketch[0] != token:
            flat = (assigner.project(rows, directions) for _, rows in self.chunks(assigner))
            if isinstance(self.rows, StoredRows) and scratch is not None:
                name = scratch / f"sketch-{id(self)}.rows"
                rows: Rows = store(flat, name, directions.shape[1], self.rows.chunk_bytes)
            else:
                rows = ResidentRows(np.concatenate([*flat, np.empty((0, directions.shape[1]), np.float32)]))
            squares = np.concatenate([*(exact.squared_norms(part) for _, part in rows.chunks()), np.empty(0)])
            self._sketch = (token, Points(rows, self.keys, squares, self.weights))
        return self._sketch[1]


class PointBlock:
    """Points (n, d) on the grid with their keys.

    Args:
        rows: Points (n, d), float32 multiples of 2^-24 with norms up to 65/64; not copied.
        keys: Keys (n, 2), uint64, all different.
        assigner: How to look for nearest centroids.
        weights: Whole-numbered weights (n,), int64, of sum at most 2^36; None: all one.
    """

    def __init__(
        self,
        rows: Rows | NDArray[np.float32],
        keys: NDArray[np.uint64],
        assigner: Assigner | None = None,
        weights: NDArray[np.int64] | None = None,
    ) -> None:
        self.assigner = assigner or Assigner()
        stored = rows if isinstance(rows, Rows) else ResidentRows(rows)
        squares = np.empty(len(keys))
        for where, part in stored.chunks():
            squares[where] = exact.squared_norms(part)
        self.everything = Points(stored, keys, squares, weights)
        self._scratch = (
            tempfile.TemporaryDirectory(prefix="sketch-", dir=stored.path.parent)
            if isinstance(stored, StoredRows)
            else None
        )
        self._view: tuple[str, Points] = (EVERYTHING, self.everything)
        self._seeding: Seeding | None = None

    def _points(self, view: str, directions: Directions | None = None) -> Points:
        """The points of a view, or their sketch."""
        name, points = (EVERYTHING, self.everything) if view == EVERYTHING else self._view
        if name != view:
            raise WorkerRestartedError(f"this block has not selected the view {view!r}")
        scratch = Path(self._scratch.name) if self._scratch else None
        return points.sketched(directions, self.assigner, scratch)

    # --- what the block holds ---------------------------------------------------------------

    def count(self) -> int:
        """Number of points."""
        return len(self.everything)

    def dimensions(self) -> int:
        """Columns of the points."""
        return self.everything.rows.shape[1]

    def describe(self) -> About:
        """What `check_points` wants to know; reads the rows once."""
        points = self.everything
        sums = np.zeros(points.rows.shape[1], np.int64)
        for where, rows in points.rows.chunks():
            weights = None if points.weights is None else points.weights[where]
            sums += exact.cluster_sums(rows, np.zeros(len(rows), np.int32), 1, weights)[0][0]
        short = (points.squares > 0) & (points.squares < SHORT**2)
        weight = len(points) if points.weights is None else int(points.weights.sum())
        return About(len(points), weight, points.total(points.squares), sums, int(short.sum()))

    def rows_of(
        self, keys: NDArray[np.uint64], directions: Directions | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Positions in `keys` (m, 2) of the points that this block holds, and their (sketched) rows."""
        position, row = self._located(keys)
        rows = self.everything.rows.take(row)
        return position, rows if directions is None else sketch.project(rows, directions)

    def _located(self, keys: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Positions in `keys` (m, 2) of the points that this block holds, and their rows."""
        points = self.everything
        sorted_words = points.keys[points.by_key, 0]
        low = np.searchsorted(sorted_words, keys[:, 0], side="left")
        span = np.searchsorted(sorted_words, keys[:, 0], side="right") - low
        position = np.repeat(np.arange(len(keys)), span)
        row = points.by_key[np.repeat(low, span) + chance.rank_in_group(position)]
        same = points.keys[row, 1] == keys[position, 1]
        return position[same], row[same]

    def sample(self, salt: int, count: int) -> tuple[NDArray[np.float64], NDArray[np.uint64]]:
        """Values and keys of a uniform draw of `count` points."""
        draws = self.everything.draws(salt)
        index = chance.smallest(draws, self.everything.keys, count)
        index = index[np.isfinite(draws[index])]
        return draws[index], self.everything.keys[index]

    def square_total(self, view: str) -> int:
        """Weighted sum of the squared norms of a view, in units of 2^-48."""
        points = self._points(view)
        return points.total(points.squares)

    # --- views ------------------------------------------------------------------------------

    def select(self, own: Labels, view: str, strategy: str, salt: int, n_slices: int, *slices: Any) -> int:
        """Enters the view of a resampling step: of each cluster, the points up to a limit.

        Args:
            own: Labels of the block's points.
            view: Name of the view.
            strategy: "closest" or "random", see `leaders`.
            salt: Salt of the random strategy.
            n_slices: Number of centroid slices.
            slices: The centroid slices, then for each a (value, first word, second word) limit a cluster.

        Returns:
            Number of this block's points in the view.
        """
        if self._view[0] != view:
            centroids, limits = slices[:n_slices], slices[n_slices:]
            values = self._preference(own, strategy, salt, centroids)
            value, first, second = (np.concatenate(col)[own.first] for col in zip(*limits, strict=True))
            first_word, second_word = self.everything.keys[:, 0], self.everything.keys[:, 1]
            inside = (values < value) | (
                (values == value) & ((first_word < first) | ((first_word == first) & (second_word <= second)))
            )
            self._view = (view, self.everything.select(np.flatnonzero(inside)))
        return len(self._view[1])

    def leaders(self, own: Labels, strategy: str, salt: int, limit: int, *slices: NDArray[np.float32]) -> Any:
        """The first `limit` points of every cluster: closest to its centroid, or smallest draws.

        Returns:
            For each slice (cluster within the slice, value, keys (m, 2)), sorted; bare if there is one.
        """
        values = self._preference(own, strategy, salt, slices)
        keys = self.everything.keys
        by_cluster = chance.order(values, keys, own.first)
        by_cluster = by_cluster[chance.rank_in_group(own.first[by_cluster]) < limit]
        clusters = own.first[by_cluster]
        parts = []
        start = 0
        for part in slices:
            mine = by_cluster[(clusters >= start) & (clusters < start + len(part))]
            parts.append((own.first[mine] - start, values[mine], keys[mine]))
            start += len(part)
        return parts[0] if len(parts) == 1 else tuple(parts)

    def _preference(
        self, own: Labels, strategy: str, salt: int, slices: Sequence[NDArray[np.float32]]
    ) -> NDArray[np.float64]:
        if strategy == "random":
            return chance.draws(self.everything.mixed, np.uint64(salt))
        return self._distances(self.everything, own.first, Centroids(np.concatenate(slices)))

    def _distances(
        self, points: Points, labels: NDArray[np.int32], centroids: Centroids
    ) -> NDArray[np.float64]:
        out = np.empty(len(points))
        for where, rows in points.chunks(self.assigner):
            out[where] = self.assigner.squared_distances(rows, centroids, labels[where])
        return out

    # --- greedy seeding ---------------------------------------------------------------------

    def start_seeding(self, view: str, *slices: NDArray[np.float32]) -> int:
        """Begins (or takes up, from the seeds found so far) a seeding over a view; returns its points."""
        points = self._points(view)
        everything = [rows for _, rows in points.rows.chunks()]
        rows = everything[0] if len(everything) == 1 else np.concatenate([*everything, points.rows.take(_NO)])
        distances = None
        if slices:
            centroids = Centroids(np.concatenate(slices))
            labels = self.assigner.nearest(rows, np.sqrt(points.squares), centroids).labels
            distances = exact.squared_distances(rows, centroids.values, None, labels)
        self._seeding = Seeding(
            rows, points.keys, points.squares, distances, self.assigner.matmul, points.weights
        )
        return len(rows)

    def propose(self, step: int, salt: int, count: int, chosen: int | None) -> Any:
        """`Seeding.propose`; the block must have begun a seeding."""
        return self._seeder().propose(step, salt, count, chosen)

    def gains(self, step: int, picks: list[tuple[int, int]], *proposed: NDArray[np.float32]) -> list[int]:
        """`Seeding.gains`; the block must have begun a seeding."""
        return self._seeder().gains(step, picks, *proposed)

    def end_seeding(self) -> None:
        """Frees what seeding held."""
        self._seeding = None

    def _seeder(self) -> Seeding:
        if self._seeding is None:
            raise WorkerRestartedError("this block has no seeding under way")
        return self._seeding

    # --- batched seeding --------------------------------------------------------------------

    def offer(
        self, own: tuple[Labels, NDArray[np.float64]] | None, view: str, salt: int, count: int
    ) -> tuple[NDArray[np.float64], NDArray[np.uint64], NDArray[np.float64]]:
        """The `count` smallest U / D of a view, D the squared distance to the nearest seed so far.

        Args:
            own: What `attract` returned last; None before the first seeds, for a uniform draw.
            view: The points to draw from.
            salt: Salt of the draw.
            count: Points wanted.

        Returns:
            Values (m,), keys (m, 2) and D (m,); points of no weight are not offered.
        """
        points = self._points(view)
        values = points.draws(salt)
        distances = np.ones(len(points)) if own is None else own[1]
        with np.errstate(divide="ignore"):
            values = values / distances
        index = chance.smallest(values, points.keys, count)
        index = index[np.isfinite(values[index])]
        return values[index], points.keys[index], distances[index]

    def attract(
        self,
        own: tuple[Labels, NDArray[np.float64]] | None,
        view: str,
        directions: Directions | None,
        offset: int,
        seeds: NDArray[np.float32],
    ) -> tuple[Labels, NDArray[np.float64]]:
        """Lets new seeds (m, s), numbered from `offset`, attract the points that they are nearest to."""
        points = self._points(view, directions)
        labels = np.full(len(points), -1, np.int32) if own is None else own[0].first.copy()
        distances = np.full(len(points), np.inf) if own is None else own[1].copy()
        centroids = Centroids(seeds)
        for where, rows in points.chunks(self.assigner):
            found = self.assigner.nearest(rows, np.sqrt(points.squares[where]), centroids).labels
            squared = self.assigner.squared_distances(rows, centroids, found)
            closer = squared < distances[where]
            labels[where][closer] = found[closer] + np.int32(offset)
            distances[where][closer] = squared[closer]
        return Labels(labels), distances

    def attracted(self, own: tuple[Labels, NDArray[np.float64]]) -> Labels:
        """The labels that seeding ends with."""
        return own[0]

    # --- splitting --------------------------------------------------------------------------

    def begin_division(self, own: Labels) -> Share:
        """The block's points, labelled with their coarse clusters, before these are divided."""
        return division.begun(own.first)

    def offer_within(
        self, own: Share, view: str, salt: int, counts: NDArray[np.int64], edges: Sequence[int]
    ) -> Any:
        """`curation.division.offers`: an offer for each slice, bare if there is one."""
        parts = division.offers(self._points(view), own, salt, counts, edges)
        return parts[0] if len(parts) == 1 else parts

    def attract_within(self, own: Share, view: str, n_cells: int, leaves: int, *seeds: Seeds) -> Share:
        """`curation.division.attracted` by the seeds of all slices."""
        together: Seeds = (np.concatenate([s for s, _ in seeds]), np.concatenate([b for _, b in seeds]))
        return division.attracted(self._points(view), self.assigner, own, n_cells, leaves, together)

    def divided(self, own: Share) -> Labels:
        """The leaves that seeding ends with."""
        return Labels(own.leaves)

    # --- assignment -------------------------------------------------------------------------

    def reduce(self, own: Labels, view: str, directions: Directions | None, sizes: Sequence[int]) -> Any:
        """Exact sums and counts of labelled points: a `Partial` for each slice of `sizes`, bare if one."""
        points = self._points(view, directions)
        return _sliced(self._partial(points, own, sum(sizes), None), sizes)

    def assign(
        self,
        own: Labels | None,
        view: str,
        directions: Directions | None,
        candidates: Candidates | Lists | None,
        dissolved: NDArray[np.bool_] | None,
        swaps: bool,
        *slices: NDArray[np.float32],
    ) -> Any:
        """Assigns a view to its nearest centroids, and adds the points up.

        Args:
            own: The last labels; None, or no candidates, for a scan of all centroids.
            view: The points.
            directions: Assign the sketch along these, of points and centroids alike.
            candidates: Which centroids the points of a group look at; `Lists`: a near one of all, or the
                last one where that is nearer.
            dissolved: Clusters (k,) that were moved elsewhere: their points start from their second.
            swaps: Find the second nearest as well, and what `Partial` says of spread and loss.
            slices: The centroids.

        Returns:
            The new labels, then a `Partial` for each slice.
        """
        points = self._points(view, directions)
        centroids = Centroids(np.concatenate(slices))
        start = None
        if own is not None and isinstance(candidates, Candidates):
            start = _moved(own, dissolved)
        labels = self._nearest(points, centroids, candidates, start, swaps)
        if own is not None and isinstance(candidates, Lists):
            labels = self._nearer(points, own, labels, centroids)
        sizes = [len(part) for part in slices]
        partial = self._partial(points, labels, sum(sizes), centroids if swaps else None)
        parts = _sliced(partial, sizes)
        return (labels, parts) if len(sizes) == 1 else (labels, *parts)

    def hint(
        self,
        own: Labels | None,
        view: str,
        directions: Directions,
        candidates: Candidates,
        n_slices: int,
        *slices: NDArray[np.float32],
    ) -> Any:
        """Assigns a view by way of its sketch: each point to the best near the sketch's best, or as it is.

        Args:
            own: The last labels, which are kept where no better centroid is found; None if there are none.
            view: The points.
            directions: The directions of the sketch.
            candidates: Which centroids the points of a group look at.
            n_slices: Number of slices.
            slices: The sketched centroids, then the centroids.

        Returns:
            As `assign`.
        """
        flat = Centroids(np.concatenate(slices[:n_slices]))
        centroids = Centroids(np.concatenate(slices[n_slices:]))
        start = self._nearest(self._points(view, directions), flat, None, None, False)
        points = self._points(view)
        labels = self._nearest(points, centroids, candidates, start.first, False)
        if own is not None:
            labels = self._nearer(points, own, labels, centroids)
        sizes = [len(part) for part in slices[n_slices:]]
        parts = _sliced(self._partial(points, labels, sum(sizes), None), sizes)
        return (labels, parts) if n_slices == 1 else (labels, *parts)

    def _nearer(self, points: Points, own: Labels, labels: Labels, centroids: Centroids) -> Labels:
        """Of two labels the nearer one, ties to the lower."""
        found = self._distances(points, labels.first, centroids)
        known = self._distances(points, own.first, centroids)
        keep = (known < found) | ((known == found) & (own.first < labels.first))
        return Labels(np.where(keep, own.first, labels.first))

    def _nearest(
        self,
        points: Points,
        centroids: Centroids,
        candidates: Candidates | Lists | None,
        start: NDArray[np.int32] | None,
        seconds: bool,
    ) -> Labels:
        labels = np.empty(len(points), np.int32)
        others = np.empty(len(points), np.int32) if seconds else None
        groups = None
        chunks = points.rows.chunks() if isinstance(candidates, Lists) else points.chunks(self.assigner)
        for where, rows in chunks:
            if isinstance(candidates, Candidates) and start is not None:
                groups = np.where(start[where] < 0, np.int32(-1), candidates.groups[start[where]])
            found = self.assigner.nearest(
                rows,
                np.sqrt(points.squares[where]),
                centroids,
                candidates=candidates,
                groups=groups,
                seconds=seconds,
            )
            labels[where] = found.labels
            if others is not None and found.seconds is not None:
                others[where] = found.seconds
        return Labels(labels, others)

    def _partial(self, points: Points, own: Labels, n_clusters: int, centroids: Centroids | None) -> Partial:
        """Sums and counts of all clusters; spread and loss as well where the centroids are given."""
        sums = np.zeros((n_clusters, points.rows.shape[1]), np.int64)
        counts = np.zeros(n_clusters, np.int64)
        spread, loss = np.zeros((2, n_clusters), np.int64)
        for where, rows in points.chunks(self.assigner):
            weights = None if points.weights is None else points.weights[where]
            labels = own.first[where]
            more = self.assigner.cluster_sums(rows, labels, n_clusters, weights)
            sums += more[0]
            counts += more[1]
            if centroids is not None and own.second is not None:
                squared = self.assigner.squared_distances(rows, centroids, labels)
                second = self.assigner.squared_distances(rows, centroids, own.second[where])
                weight = np.int64(1) if weights is None else weights
                for total, value in ((spread, squared), (loss, np.minimum(second, 8.0) - squared)):
                    np.add.at(total, labels, (value * SPREAD_UNIT).astype(np.int64) * weight)
        if centroids is None:
            return Partial(sums, counts)
        return Partial(sums, counts, spread, loss)

    # --- swaps ------------------------------------------------------------------------------

    def pivots(
        self, own: Labels, view: str, salt: int, chosen: NDArray[np.int64], *slices: NDArray[np.float32]
    ) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.uint64], NDArray[np.float32]]:
        """A far point of each chosen cluster: the smallest U / D, D the distance to the centroid.

        Returns:
            Positions in `chosen` (m,), values (m,), keys (m, 2) and rows (m, d) of those that have one.
        """
        points = self._points(view)
        centroids = Centroids(np.concatenate(slices))
        index, position = _inside(own.first, chosen, len(centroids.values))
        distances = np.empty(len(index))
        for where, rows in points.chunks(self.assigner):
            part = slice(np.searchsorted(index, where.start), np.searchsorted(index, where.stop))
            mine = index[part]
            distances[part] = self.assigner.squared_distances(
                rows, centroids, own.first[mine], mine - where.start
            )
        with np.errstate(divide="ignore"):
            values = points.draws(salt)[index] / distances
        finite = np.isfinite(values)
        index, position, values = index[finite], position[finite], values[finite]
        order = chance.order(values, points.keys[index], position)
        order = order[chance.rank_in_group(position[order]) == 0]
        first = index[order]
        return position[order], values[order], points.keys[first], points.rows.take(first)

    def halves(
        self,
        own: Labels,
        view: str,
        n_clusters: int,
        chosen: NDArray[np.int64],
        first: NDArray[np.float32],
        second: NDArray[np.float32],
    ) -> Partial:
        """Divides each chosen cluster between two centres: sums and counts (2 q,) of their points."""
        points = self._points(view)
        index, position = _inside(own.first, chosen, n_clusters)
        sums = np.zeros((2 * len(chosen), points.rows.shape[1]), np.int64)
        counts = np.zeros(2 * len(chosen), np.int64)
        centres = Centroids(first), Centroids(second)
        for where, rows in points.chunks(self.assigner):
            mine = slice(np.searchsorted(index, where.start), np.searchsorted(index, where.stop))
            local = index[mine] - where.start
            side = self.assigner.sides(rows, local, position[mine].astype(np.int32), *centres)
            # rows of other clusters go to a bin of their own, which is dropped
            labels = np.full(len(rows), 2 * len(chosen), np.int32)
            labels[local] = side
            weights = None if points.weights is None else points.weights[where]
            more = self.assigner.cluster_sums(rows, labels, 2 * len(chosen) + 1, weights)
            sums += more[0][:-1]
            counts += more[1][:-1]
        return Partial(sums, counts)

    # --- what comes out ---------------------------------------------------------------------

    def tally(
        self, own: Labels, *slices: NDArray[np.float32]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
        """Points (k,) of this block in each cluster, their weights (k,), and the inertia (units of 2^-48)."""
        centroids = Centroids(np.concatenate(slices))
        points = self.everything
        counts = np.bincount(own.first, minlength=len(centroids.values))
        weights = counts
        if points.weights is not None:
            weights = np.zeros(len(centroids.values), np.int64)
            np.add.at(weights, own.first, points.weights)
        return counts, weights, points.total(self._distances(points, own.first, centroids))

    def hits(self, own: Labels, keys: NDArray[np.uint64], *slices: NDArray[np.float32]) -> int:
        """How many of the points with these keys (m, 2) no centroid is nearer to than the one they have."""
        _, index = self._located(keys)
        centroids, rows = Centroids(np.concatenate(slices)), self.everything.rows.take(index)
        norms = np.sqrt(self.everything.squares[index])
        best = self.assigner.nearest(rows, norms, centroids).labels
        nearest = self.assigner.squared_distances(rows, centroids, best)
        return int((self.assigner.squared_distances(rows, centroids, own.first[index]) == nearest).sum())

    def labels(self, own: Labels, renumbered: NDArray[np.int64]) -> NDArray[np.int64]:
        """Cluster of every point, numbered by `renumbered` (k,)."""
        return renumbered[own.first]

    def save(
        self, own: Labels, writer: Writer, renumbered: NDArray[np.int64], *slices: NDArray[np.float32]
    ) -> Any:
        """Hands every point's cluster and exact squared distance to a writer; returns what it returns.

        Args:
            own: Labels before renumbering.
            writer: Takes clusters (n,) and distances (n,).
            renumbered: New number of each cluster.
            slices: The centroids by their new numbers.
        """
        clusters = renumbered[own.first]
        centroids = Centroids(np.concatenate(slices))
        distances = self._distances(self.everything, clusters.astype(np.int32), centroids)
        return writer(clusters, distances)


_NO = np.empty(0, np.int64)


def _moved(own: Labels, dissolved: NDArray[np.bool_] | None) -> NDArray[np.int32]:
    """Where points begin to look: at their centroid, or their second where that was dissolved, or nowhere."""
    if dissolved is None or own.second is None:
        return own.first
    start = np.where(dissolved[own.first], own.second, own.first)
    gone = (start < 0) | dissolved[start]
    return np.where(gone, np.int32(-1), start)


def _inside(
    labels: NDArray[np.int32], chosen: NDArray[np.int64], n_clusters: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Points of the chosen clusters, ascending, and the position in `chosen` of the cluster of each."""
    place = np.full(n_clusters, -1, np.int64)
    place[chosen] = np.arange(len(chosen))
    position = place[labels]
    index = np.flatnonzero(position >= 0)
    return index, position[index]


def _sliced(partial: Partial, sizes: Sequence[int]) -> Any:
    edges = np.cumsum(sizes)[:-1]
    columns = [np.split(c, edges) if c is not None else [None] * len(sizes) for c in partial]
    parts = tuple(Partial(*part) for part in zip(*columns, strict=True))
    return parts[0] if len(parts) == 1 else parts
