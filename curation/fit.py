"""The two ways to fit centroids to a view of the points, written once against `Workers`.

`_Lloyd` is Lloyd's algorithm (IEEE Trans. Inf. Theory, 1982): full scans until nothing moves. `_Fast`
comes within .2 % of its objective with greedy seeds, mostly below it, at a fraction of the cost:

1. it starts from D^2 sampling in batches, in a sketch of the points where clusters have many (`batches`,
   `merits`, `sketch`);
2. its iterations compare a point with the centroids near its last one (`candidates`);
3. every other iteration moves centroids from where they are hardly missed to where one is (`swaps`);
4. now and then a scan of the sketch lets points find better centroids further off (`PointBlock.hint`).

A fit that only chooses points for another makes three iterations with swaps and one without.

With few clusters, candidates stop paying and every iteration scans them all.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from curation import sketch
from curation.batches import weighty
from curation.candidates import Lists
from curation.chance import Purpose, salt
from curation.descent import FEW, Descent, Fit, Plan, View, Watcher
from curation.swaps import swap
from curation.workers import Handle, Workers

if TYPE_CHECKING:
    from curation.centroids import News

SPARSE = 32
"""Points a cluster below which the start looks along all dimensions, and swaps are few."""

INTERMEDIATE_ITERATIONS = 4
"""Iterations of a fit that only chooses points for another: all but the last with swaps."""

_SMALL = 2**24  # greedy k-means++ seeds up to FEW clusters where n d is at most this,
_LITTLE = 2**31  # and up to twice as many where n d k is
_SHARE = 0.25  # of all centroids: candidates that are more do not pay
_HINTS = (2, 4, 8)  # iterations that begin with a scan of the sketch
_CALM = 500  # swaps end when fewer than one in so many clusters was swapped,
_DENSE_CALM = 200  # or in so many where clusters have many points
_BOLD = 0.7  # of its estimated loss a swap must gain: it loses less once the other centroids have moved


def is_small(n: int, d: int, k: int) -> bool:
    """Whether greedy k-means++, which finds better seeds one by one, costs little."""
    return n * d <= _SMALL if k <= FEW else k <= 2 * FEW and n * d * k <= _LITTLE


def directions_of(workers: Workers, place: tuple[int, int]) -> Handle | None:
    """Directions of the sketch of the workers' points for a (seed, level); None where it does not pay."""
    if not sketch.pays(workers.get(workers.points("dimensions")[:1])[0]):
        return None
    word = int(salt(place[0], Purpose.SKETCH, place[1]))
    found = workers.points("rows_of", workers.sample(word, sketch.SAMPLE))
    return workers.slice(0, "directions", *found)


def fit_centroids(view: View, n_clusters: int, plan: Plan, watch: Watcher | None = None) -> Fit:
    """Clusters a view of the points.

    Args:
        view: The points.
        n_clusters: Clusters wanted.
        plan: How.
        watch: Called after every iteration.
    """
    if plan.algorithm == "lloyd":
        return _Lloyd(view, plan, watch).run(n_clusters)
    return _Fast(view, plan, watch).run(n_clusters)


class _Lloyd(Descent):
    """Full scans until nothing moves, or gains are below the tolerance."""

    def run(self, n_clusters: int) -> Fit:
        if self.taken_up():
            pass
        elif self.plan.init == "k-means++":
            self.at.found = self.seeded(n_clusters)
        else:
            self.at.found, sizes = self.drawn(n_clusters, None)
            self.at.slices = self.workers.attempt(partial(self.lifted, sizes, None), lambda: None)
        while self.at.n_iter < self.plan.max_iter:
            self.at.own = None  # every iteration looks at all centroids
            self.saved()
            news = self.step(self._iterate)
            if not any(part.moved for part in news):
                break
            if not self.gained(news) and self.plan.tol > 0:
                break
        return Fit(self.at.slices, self.at.found, self.at.n_iter)

    def _iterate(self) -> list[News]:
        self.at.slices, news = self.update(self.at.slices, self.assign(None, self.at.slices))
        return news


class _Fast(Descent):
    """The recipe of the module's docstring."""

    def run(self, n_clusters: int) -> Fit:
        self.directions = None if n_clusters <= FEW else self.view.directions
        self.candidates: Handle | None = None
        self.count = weighty(self.workers, self.view.name)
        if not self.taken_up():
            found = self._begin(n_clusters)
            self.at = replace(self.at, found=found, swapped=n_clusters, few=n_clusters <= FEW)
        if self.plan.intermediate:
            return self._intermediate()
        while self.at.n_iter < self.plan.max_iter:
            self.saved()
            at, number = self.at, self.at.n_iter + 1
            swaps = at.swapping and number % 2 == 1 and number <= self._swapped_to() and at.found > 1
            far = not swaps and (at.sure or number in _HINTS)
            trial = at.moved > 0  # the objective may rise where swaps meet, to fall again
            news = self.step(partial(self._iterate, number, far, swaps))
            gained = self.gained(news)
            if swaps:
                calm = _DENSE_CALM if self._is_dense(at.found) else _CALM
                self.at.swapping = self.at.swapped * calm >= self.at.found
                continue
            scanned = far or self.at.few
            if scanned and not trial and not (gained and any(part.moved for part in news)):
                break
            self.at.sure = not gained  # before it ends, points look further off once more
        return Fit(self.at.slices, self.at.found, self.at.n_iter)

    def _intermediate(self) -> Fit:
        """Swaps, then one iteration without: the points closest to a centroid do not hang on the rest."""
        most = min(INTERMEDIATE_ITERATIONS, self.plan.max_iter)
        while self.at.n_iter < most:
            self.saved()
            number = self.at.n_iter + 1
            swaps = number < most and self.at.found > 1
            self.gained(self.step(partial(self._iterate, number, False, swaps)))
        return Fit(self.at.slices, self.at.found, self.at.n_iter)

    def _begin(self, n_clusters: int) -> int:
        # what sets points of one cluster apart is not in the sketch: with few of them it is missed
        rough = self.plan.intermediate or self._is_dense(n_clusters)
        directions = self.directions if rough else None
        dimensions = int(self.workers.ask("dimensions")[0])
        if self.plan.init == "k-means++" or is_small(self.count, dimensions, n_clusters):
            found = self.seeded(n_clusters)
            self.at.own = labelled(self.view, self.at.slices, found, exactly=True)
            return found
        found, sizes = self.drawn(n_clusters, directions)
        if found < n_clusters and directions is not None:
            # distinct points may coincide in the sketch
            directions = None
            found, sizes = self.drawn(n_clusters, None)

        drawn = self.at.own

        def lift() -> list[Handle]:
            self.at.own = drawn
            if directions is not None and not self.plan.intermediate:
                flat = self.lifted(sizes, directions)
                self.assign(directions, flat)
            return self.lifted(sizes, None)

        self.at.slices = self.workers.attempt(lift, lambda: None)
        return found

    def _iterate(self, number: int, far: bool, swaps: bool) -> list[News]:
        self.at.slices, news = self.update(self.at.slices, self._assigned(far, swaps))
        self.at.dissolved, self.at.moved = None, 0
        if swaps:
            swapped = swap(
                self.workers,
                self.view.name,
                self.at.own or [],
                self.at.slices,
                news,
                (*self.view.place, number),
                self._swappable(),
                self.candidates,
                share=_BOLD if self._is_dense(self.at.found) and not self.plan.intermediate else 1.0,
                unit_norm=self.plan.distance == "cosine",
            )
            self.at.slices, self.at.dissolved = swapped.slices, swapped.dissolved
            self.at.moved = self.at.swapped = swapped.count
        return news

    def _swappable(self) -> int:
        """Clusters that swaps look at, the widest and the cheapest: a wide one may gain little, so a quarter.

        With few points in each, the last swaps lower the objective by ever smaller clusters, and a set drawn
        from them is less even; there they end sooner, with few to look at.
        """
        most = self.at.found // 4
        if not self._is_dense(self.at.found):
            most = min(most, 4 * self.at.swapped)
        return max(16, most)

    def _swapped_to(self) -> int:
        """The last iteration that may swap: the rest of them, half or the last few, let all come to rest."""
        return min(self.plan.max_iter // 2, self.plan.max_iter - 4)

    def _is_dense(self, n_clusters: int) -> bool:
        """Whether so many clusters have many points each."""
        return self.count >= SPARSE * n_clusters

    def _assigned(self, far: bool, swaps: bool) -> list[list[Handle]]:
        """Assigns the points by what pays: all centroids, those nearby, or (`far`) by way of the sketch."""
        near = None if self.at.few else self._nearby()
        self.candidates = near[1] if near else None
        if self.at.few:
            return self.assign(None, self.at.slices, swaps=swaps)
        if far and self.directions is None:
            return self.assign(None, self.at.slices, candidates=self.plan.lists(self.at.found))
        flat, candidates = near or ([], None)
        if not far:
            return self.assign(
                None, self.at.slices, candidates=candidates, dissolved=self.at.dissolved, swaps=swaps
            )
        told = self.workers.points(
            "hint",
            self.view.name,
            self.directions,
            candidates,
            len(flat),
            *flat,
            *self.at.slices,
            own=self.at.own,
            returns=1 + len(flat),
        )
        return self._keep(told)

    def _nearby(self) -> tuple[list[Handle], Handle] | None:
        """Sketched centroids and the candidates; None, from then on, where candidates do not pay."""
        flat = self.at.slices
        if self.directions is not None:
            flat = [
                self.workers.slice(i, "sketched", part, self.directions)
                for i, part in enumerate(self.at.slices)
            ]
        candidates, told = self.workers.slice(0, "candidates", self.workers.device, *flat, returns=2)
        self.at.few = self.workers.get([told])[0] > _SHARE
        return None if self.at.few else (flat, candidates)


def labelled(
    view: View, slices: list[Handle], n_clusters: int, *, exactly: bool, lists: Lists | None = None
) -> list[Handle]:
    """Labels of a view's points: of the nearest centroids, or quickly, of near ones.

    Args:
        view: The points.
        slices: The centroids.
        n_clusters: How many.
        exactly: Scan all centroids; else go by the sketch, where there is one.
        lists: How that scan is approximated; None: not at all.
    """
    workers, along = view.workers, view.directions

    def ask() -> list[Handle]:
        nobody = workers.nobody()
        if exactly or along is None or n_clusters <= FEW:
            return workers.known("label", view.name, lists, *slices, own=nobody)
        flat = [workers.slice(i, "sketched", part, along) for i, part in enumerate(slices)]
        near, _ = workers.slice(0, "candidates", workers.device, *flat, returns=2)
        return workers.known("approach", view.name, along, near, len(flat), *flat, *slices, own=nobody)

    return workers.attempt(ask, lambda: None)


def without_empty(
    workers: Workers, own: list[Handle], slices: list[Handle]
) -> tuple[list[Handle], NDArray[np.int64], int, NDArray[np.bool_]]:
    """Drops the clusters that no point (of any weight) is labelled with.

    Returns:
        The slices that remain, the points (k,) of each cluster, the (weighted) inertia in units of
        2^-48, and which of the clusters were kept.
    """

    def tallied() -> list[Any]:
        total: list[Any] = [0, 0, 0]
        for handle in workers.points("tally", *slices, own=own):  # k numbers of one block at a time
            total = [a + b for a, b in zip(total, workers.get([handle])[0], strict=True)]
        return total

    counts, weights, inertia = workers.attempt(tallied, lambda: None)
    keep: NDArray[np.bool_] = weights > 0
    if not keep.all():
        sizes = workers.sizes(slices)
        edges = np.cumsum(sizes)[:-1]
        kept = [
            (i, part, mask)
            for i, (part, mask) in enumerate(zip(slices, np.split(keep, edges), strict=True))
            if mask.any()
        ]
        slices = [workers.slice(i, "compress", part, mask) for i, part, mask in kept]
    return slices, counts[keep], inertia, keep
