"""Splitting: the points of every coarse cluster are clustered on their own, in all of them at once.

Level 1 of a huge pool is made in two steps (Vo et al., section 4.1): k coarse clusters of all points, each
then divided into s. Seeds are drawn by D^2 sampling in ten batches, a quota for each coarse cluster, and
iterations are Lloyd's; a point only ever looks at the s centroids of its own coarse cluster. No worker
holds all points of one: sums are added up as in any fit.
"""

from __future__ import annotations

import itertools
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from curation import chance
from curation.batches import LEAST_DRAWN
from curation.descent import Descent, Fit, Plan, View
from curation.workers import Handle, slice_edges

if TYPE_CHECKING:
    from curation.centroids import News

BATCHES = 10  # in which each coarse cluster draws its seeds
OVERDRAW = 2  # times as many as are wanted, which are thinned


def divide(view: View, own: list[Handle], n_coarse: int, leaves: int, plan: Plan) -> tuple[Fit, list[Handle]]:
    """Divides coarse clusters, each on its own.

    Args:
        view: The points.
        own: Their labels: the coarse clusters.
        n_coarse: How many there are.
        leaves: Clusters to make of each; a coarse cluster of fewer distinct points becomes as many.
        plan: How to iterate.

    Returns:
        The fit, whose slices have `leaves` rows for every coarse cluster, those that are not needed at
        zero and without points; and the labels of the points: the nearest of their coarse cluster's.
    """
    return _Division(view, plan, None).run(own, n_coarse, leaves)


class _Division(Descent):
    """Seeds, then Lloyd's algorithm, within cells."""

    def run(self, own: list[Handle], n_coarse: int, leaves: int) -> tuple[Fit, list[Handle]]:
        self.leaves = leaves
        self.edges = slice_edges(n_coarse, min(self.workers.n_slices, n_coarse))
        if not self.taken_up():
            self.at.seeds = self._begin(own, n_coarse)
            self.at.found = int(self.at.seeds.sum())
        self.candidates = self.workers.slice(0, "within", self.at.seeds, leaves)
        while self.at.n_iter < self.plan.max_iter:
            self.saved()
            news = self.step(self._iterate)
            gained = self.gained(news)
            if not any(part.moved for part in news) or not (gained or self.plan.tol == 0):
                break
        own = self.workers.attempt(self._labelled, lambda: None)
        return Fit(self.at.slices, self.at.found, self.at.n_iter), own

    def _begin(self, own: list[Handle], n_coarse: int) -> NDArray[np.int64]:
        """Seeds, and means of the points around them; the number of seeds of every cell (n_coarse,)."""
        shares = self.workers.points("begin_division", own=own)
        found = np.zeros(n_coarse, np.int64)
        for batch in itertools.count():
            wanted = np.minimum(self.leaves - found, -(-self.leaves // BATCHES))
            step = partial(self._batch, shares, wanted, found, batch)
            shares, more = self.workers.attempt(step, lambda: None)
            found += more
            self.workers.tick("seeding", int(found.sum()), n_coarse * self.leaves)
            if not more.any() or (found == self.leaves).all():
                break
        self.at.own = self.workers.points("divided", own=shares)
        sizes = [(high - low) * self.leaves for low, high in itertools.pairwise(self.edges)]
        self.at.slices = self.workers.attempt(lambda: self.lifted(sizes, None), lambda: None)
        return found

    def _batch(
        self, shares: list[Handle], wanted: NDArray[np.int64], found: NDArray[np.int64], batch: int
    ) -> tuple[list[Handle], NDArray[np.int64]]:
        """One batch: where the points are after it, and how many seeds it brought to each cell."""
        workers, n_cells = self.workers, len(found)
        seed, level, _ = self.view.place
        salt = int(chance.salt(seed, chance.Purpose.SPLIT, level, 0, batch))
        counts = wanted
        if batch:
            counts = np.where(wanted > 0, np.maximum(OVERDRAW * wanted, LEAST_DRAWN), 0)
        n_slices = len(self.edges) - 1
        told = workers.points(
            "offer_within", self.view.name, salt, counts, self.edges, own=shares, returns=n_slices
        )
        offers = [(part,) for part in told] if n_slices == 1 else told
        seeds, news = [], []
        for i in range(n_slices):
            keys, drawn = workers.slice(i, "elect", counts, *(block[i] for block in offers), returns=2)
            rows = workers.points("rows_of", keys)
            new, more = workers.slice(
                i, "thin_within", wanted, found, self.leaves, salt, drawn, *rows, returns=2
            )
            seeds.append(new)
            news.append(more)
        shares = workers.known("attract_within", self.view.name, n_cells, self.leaves, *seeds, own=shares)
        return shares, np.sum(workers.get(news), axis=0)

    def _iterate(self) -> list[News]:
        parts = self.assign(None, self.at.slices, candidates=self.candidates)
        self.at.slices, news = self.update(list(self.at.slices), parts)
        return news

    def _labelled(self) -> list[Handle]:
        assert self.at.own is not None
        return self.workers.known("label", self.view.name, self.candidates, *self.at.slices, own=self.at.own)
