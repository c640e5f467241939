"""What every way to fit centroids shares: the points, the plan, assigning, updating, knowing when to stop."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from curation.batches import start
from curation.candidates import Lists
from curation.checkpoint import Checkpoint, Standing
from curation.errors import CurationError, RegroupError
from curation.merits import FEW_JUDGES, JUDGES
from curation.seeding import seed
from curation.workers import Handle, Workers, slice_edges

if TYPE_CHECKING:
    from curation.centroids import News

Distance = Literal["euclidean", "cosine"]
Algorithm = Literal["auto", "lloyd", "ivf"]
Init = Literal["auto", "k-means++"]

FEW = 512
"""Clusters up to which every iteration scans them all: candidates would be a quarter of them."""


@dataclass(frozen=True)
class Plan:
    """How to fit.

    Attributes:
        max_iter: Most iterations.
        tol: Stop when an iteration lowers the objective by at most this share of it; 0: when nothing moves.
        distance: "cosine" renormalises every centroid (spherical k-means).
        algorithm: "auto" for the fast recipe, "lloyd" for full scans, "ivf" for the fast recipe with full
            scans by FAISS, which are approximate: for very many clusters.
        init: "auto" for D^2 sampling in batches, "k-means++" for the greedy kind.
        intermediate: Whether the fit only chooses points for another, and may begin less finely.

    Raises:
        CurationError: One of these is unfit, or FAISS is wanted and not installed.
    """

    max_iter: int = 50
    tol: float = 1e-4
    distance: Distance = "euclidean"
    algorithm: Algorithm = "auto"
    init: Init = "auto"
    intermediate: bool = False

    def __post_init__(self) -> None:
        for name, choices in (("distance", Distance), ("algorithm", Algorithm), ("init", Init)):
            value = getattr(self, name)
            if value not in get_args(choices):
                raise CurationError(f"there is no {name} {value!r}; there are {', '.join(get_args(choices))}")
        if not isinstance(self.max_iter, int | np.integer) or self.max_iter < 1:
            raise CurationError(f"max_iter is {self.max_iter!r}; give a whole number of at least 1")
        if not (isinstance(self.tol, int | float | np.number) and 0 <= self.tol < np.inf):
            raise CurationError(f"tol is {self.tol!r}; give a share of at least 0, such as 1e-4")
        if self.algorithm == "ivf":
            from curation.kernels import faiss  # noqa: F401  an extra: says so where it is missing

    def lists(self, n_clusters: int) -> Lists | None:
        """How full scans of so many centroids are approximated; None where they are exact."""
        return Lists() if self.algorithm == "ivf" and n_clusters > FEW else None


@dataclass(frozen=True)
class Fit:
    """Centroids of a fit, in slices.

    Attributes:
        slices: Handles of the centroid slices.
        n_clusters: Centroids in all; fewer than asked for where there are fewer distinct points.
        n_iter: Iterations made.
    """

    slices: list[Handle]
    n_clusters: int
    n_iter: int


Watcher = Callable[[int, list[Handle]], Any]
"""Called with the number of iterations made and the centroid slices, after every iteration."""


@dataclass(frozen=True)
class View:
    """Points to fit centroids to.

    Attributes:
        workers: Who holds the points.
        name: The view of their points.
        count: Number of points in it.
        place: (seed, level, resampling step), the salt of every draw.
        directions: Handle of the directions of their sketch; None where a sketch does not pay.
        checkpoint: Where a fit says how far it is, and asks how far it was.
    """

    workers: Workers
    name: str
    count: int
    place: tuple[int, int, int]
    directions: Handle | None
    checkpoint: Checkpoint | None = None

    def square_total(self) -> int:
        """Sum of the squared norms of the view, in units of 2^-48."""
        return sum(int(part) for part in self.workers.ask("square_total", self.name))


class Descent:
    """What Lloyd's algorithm, the fast recipe and division share: assign, update, know when to stop."""

    def __init__(self, view: View, plan: Plan, watch: Watcher | None) -> None:
        self.view, self.plan, self.watch = view, plan, watch
        self.workers = view.workers
        self.squares = view.square_total()
        self.at = Standing()

    def taken_up(self) -> bool:
        """Goes on from where an earlier run of this fit was seen last; whether there is such a place."""
        kept, view = self.view.checkpoint, self.view
        at = kept.standing(view.name, view.place, self.workers) if kept is not None else None
        self.at = at or self.at
        return at is not None

    def saved(self) -> None:
        """Writes down where the fit stands, now and then.

        Raises:
            RegroupError: Other workers should go on from here.
        """
        if self.view.checkpoint is None:
            return
        why = self.workers.outgrown()
        self.view.checkpoint.save(self.at, self.view.place, self.workers, now=bool(why))
        if why:
            raise RegroupError(why)

    def assign(
        self,
        directions: Handle | None,
        slices: list[Handle],
        *,
        candidates: Handle | None = None,
        dissolved: Any = None,
        swaps: bool = False,
    ) -> list[list[Handle]]:
        """`PointBlock.assign` on every block; keeps the labels and returns the partials."""
        own = self.at.own if self.at.own is not None else self.workers.nobody()
        return self._keep(
            self.workers.points(
                "assign",
                self.view.name,
                directions,
                candidates,
                dissolved,
                swaps,
                *slices,
                own=own,
                returns=1 + len(slices),
            )
        )

    def _keep(self, told: list[Any]) -> list[list[Handle]]:
        self.at.own = [labels for labels, *_ in told]
        return [parts for _, *parts in told]

    def update(
        self, slices: list[Handle | None], partials: list[list[Handle]]
    ) -> tuple[list[Handle], list[News]]:
        """Moves every centroid to the mean of its points."""
        unit_norm = self.plan.distance == "cosine"
        moved = [
            self.workers.slice(i, "update", part, unit_norm, *(block[i] for block in partials), returns=2)
            for i, part in enumerate(slices)
        ]
        news = self.workers.get([told for _, told in moved])
        return [new for new, _ in moved], news

    def step(self, action: Callable[[], list[News]]) -> list[News]:
        """One iteration: does it, again where a worker was lost, and tells who watches."""

        def once() -> list[News]:
            before = replace(self.at)
            try:
                return action()
            except BaseException:
                self.at = before  # what it left may be handles of what a lost worker never had
                raise

        news = self.workers.attempt(once, lambda: None)
        self.at.n_iter += 1
        self.workers.tick("iterations", self.at.n_iter, self.plan.max_iter)
        if self.watch is not None:
            self.watch(self.at.n_iter, self.at.slices)
        return news

    def gained(self, news: list[News]) -> bool:
        """Takes note of the objective before the update; whether the last iteration lowered it enough."""
        before, self.at.objective = self.at.objective, self.squares + sum(part.terms for part in news)
        return before is None or before - self.at.objective > self.plan.tol * before

    def seeded(self, n_clusters: int) -> int:
        """Greedy k-means++ as a start; the number of seeds."""
        self.at.slices = seed(self.workers, self.view.name, n_clusters, self.view.place)
        return sum(self.workers.sizes(self.at.slices))

    def drawn(self, n_clusters: int, directions: Handle | None) -> tuple[int, list[int]]:
        """D^2 sampling in batches as a start: labels; the number of seeds, and sizes of the slices."""
        judges = FEW_JUDGES if self.plan.intermediate else JUDGES
        where = self.view.name, n_clusters, self.view.place, directions
        self.at.own, found = start(self.workers, *where, judges)
        edges = slice_edges(found, min(self.workers.n_slices, found))
        return found, [high - low for low, high in itertools.pairwise(edges)]

    def lifted(self, sizes: list[int], directions: Handle | None) -> list[Handle]:
        """Means of the labelled points, of those of their sketch if directions are given."""
        told = self.workers.points(
            "reduce", self.view.name, directions, sizes, own=self.at.own, returns=len(sizes)
        )
        partials = [[parts] for parts in told] if len(sizes) == 1 else told
        return self.update([None] * len(sizes), partials)[0]
