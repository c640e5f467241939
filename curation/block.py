"""A block of points and everything a fit asks of it; the driver of a fit never sees the points.

Each method returns something whose merge over blocks does not depend on how the points are spread:
exact sums, counts, or short lists ordered by (value, key). A block may be replaced by a fresh one at
any time: what it computes follows from its arguments, the labels of its own points among them, save
two states that are announced, the view (`curation.views`) and greedy seeding (`Seeding`), whose absence
raises `WorkerRestartedError`. What a stage of a fit does to points stands in that stage's module.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curation import batches, chance, division, exact
from curation.assign import Centroids
from curation.assignment import Sums, approached, assigned, moved
from curation.candidates import Candidates, Lists
from curation.division import Seeds, Share
from curation.errors import WorkerRestartedError
from curation.merits import merits
from curation.points import Directions, Labels, Partial
from curation.seeding import Seeding
from curation.swaps import halves, pivots
from curation.views import Views

Writer = Callable[[NDArray[np.int64], NDArray[np.float64]], Any]


class PointBlock(Views):
    """What a fit asks of the points that it holds."""

    _seeding: Seeding | None = None

    # --- greedy seeding ---------------------------------------------------------------------

    def start_seeding(self, view: str, *slices: NDArray[np.float32]) -> int:
        """Begins (or takes up, from the seeds found so far) a seeding over a view; returns its points."""
        points = self._points(view)
        rows = points.rows.whole()
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

    def count_weighty(self, view: str) -> int:
        """Number of points of a view that have any weight."""
        points = self._points(view)
        return len(points) if points.weights is None else int((points.weights > 0).sum())

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
        return batches.offers(self._points(view), None if own is None else own[1], salt, count)

    def attract(
        self,
        own: tuple[Labels, NDArray[np.float64]] | None,
        view: str,
        directions: Directions | None,
        offset: int,
        seeds: NDArray[np.float32],
    ) -> tuple[tuple[Labels, NDArray[np.float64]], int]:
        """Lets new seeds (m, s), numbered from `offset`, attract the points that they are nearest to.

        Returns:
            (labels, squared distances), and how many points there are.
        """
        points = self._points(view, directions)
        return batches.attracted(points, self.assigner, own, offset, seeds), len(points)

    def merits(
        self,
        own: tuple[Labels, NDArray[np.float64]],
        view: str,
        directions: Directions | None,
        salt: int,
        share: float,
        drawn: NDArray[np.float32],
    ) -> NDArray[np.int64]:
        """`curation.merits.merits` of drawn points (m, s), judged by a random share of a view."""
        points = self._points(view, directions)
        judging = None if share >= 1 else chance.draws(points.mixed, np.uint64(salt)) < share * 2.0**53
        return merits(points, self.assigner, own[1], judging, drawn)

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

    def attract_within(
        self, own: Share, view: str, n_cells: int, leaves: int, *seeds: Seeds
    ) -> tuple[Share, int]:
        """`curation.division.attracted` by the seeds of all slices, and how many points there are."""
        together: Seeds = (np.concatenate([s for s, _ in seeds]), np.concatenate([b for _, b in seeds]))
        points = self._points(view)
        return division.attracted(points, self.assigner, own, n_cells, leaves, together), len(points)

    def divided(self, own: Share) -> Labels:
        """The leaves that seeding ends with."""
        return Labels(own.leaves)

    # --- assignment -------------------------------------------------------------------------

    def reduce(self, own: Labels, view: str, directions: Directions | None, sizes: Sequence[int]) -> Any:
        """Exact sums and counts of labelled points: a `Partial` for each slice of `sizes`, bare if one."""
        points = self._points(view, directions)
        sums = Sums(self.assigner, points, sum(sizes))
        for where, rows in points.chunks(self.assigner):
            sums.add(where, rows, own.first[where])
        parts = sums.partials(sizes)
        return parts[0] if len(parts) == 1 else tuple(parts)

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
        start = last = None
        if own is not None and isinstance(candidates, Candidates):
            start = moved(own, dissolved)
        elif own is not None and isinstance(candidates, Lists):
            last = own.first
        centroids = Centroids(np.concatenate(slices))
        sums = Sums(self.assigner, points, len(centroids.values), centroids if swaps else None)
        labels = assigned(points, self.assigner, centroids, candidates, start, last, sums)
        return labels, *sums.partials([len(part) for part in slices])

    def label(
        self,
        own: Labels | None,
        view: str,
        candidates: Candidates | Lists | None,
        *slices: NDArray[np.float32],
    ) -> tuple[Labels, int]:
        """Assigns a view as `assign` does, and adds nothing up: the labels, and how many there are."""
        points = self._points(view)
        start = own.first if own is not None else None
        labels = assigned(points, self.assigner, Centroids(np.concatenate(slices)), candidates, start, None)
        return labels, len(points)

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
        sketched = self._points(view, directions)
        start = np.empty(len(sketched), np.int32)
        for where, rows in sketched.chunks(self.assigner):
            start[where] = self.assigner.nearest(rows, sketched.norms(where), flat).labels
        points, last = self._points(view), None if own is None else own.first
        centroids = Centroids(np.concatenate(slices[n_slices:]))
        sums = Sums(self.assigner, points, len(centroids.values))
        labels = assigned(points, self.assigner, centroids, candidates, start, last, sums)
        return labels, *sums.partials([len(part) for part in slices[n_slices:]])

    def approach(
        self,
        own: None,
        view: str,
        directions: Directions,
        candidates: Candidates,
        n_slices: int,
        *slices: NDArray[np.float32],
    ) -> tuple[Labels, int]:
        """Labels a view as `hint` does, by way of `assignment.approached` rather than of the whole sketch.

        The arguments are those of `hint`, but nobody has labels yet; the result is that of `label`.
        """
        flat = Centroids(np.concatenate(slices[:n_slices]))
        start = approached(self._points(view, directions), self.assigner, flat, candidates)
        points, centroids = self._points(view), Centroids(np.concatenate(slices[n_slices:]))
        return assigned(points, self.assigner, centroids, candidates, start, None), len(points)

    # --- swaps ------------------------------------------------------------------------------

    def pivots(
        self, own: Labels, view: str, salt: int, chosen: NDArray[np.int64], *slices: NDArray[np.float32]
    ) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.uint64], NDArray[np.float32]]:
        """A far point of each chosen cluster: the smallest U / D, D the distance to the centroid.

        Returns:
            Positions in `chosen` (m,), values (m,), keys (m, 2) and rows (m, d) of those that have one.
        """
        return pivots(self._points(view), self.assigner, own.first, salt, chosen, slices)

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
        return halves(points, self.assigner, own.first, n_clusters, chosen, first, second)

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
        return counts, weights, points.total(points.distances(self.assigner, own.first, centroids))

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
        distances = self.everything.distances(self.assigner, clusters.astype(np.int32), centroids)
        return writer(clusters, distances)
