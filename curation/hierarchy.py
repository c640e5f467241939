"""Hierarchical k-means with resampling (Vo et al., arXiv 2405.15613, section 3 and algorithm 1).

Level 1 clusters the points, level t the centroids of level t - 1. Resampling repeats a level's
k-means on the few points of each cluster that lie closest to its centroid, which spreads the next
centroids more evenly; every repetition starts afresh.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curation import chance
from curation.checkpoint import Checkpoint, Step
from curation.descent import Fit, View
from curation.errors import CurationError
from curation.fit import directions_of, fit_centroids, labelled, without_empty
from curation.points import EVERYTHING
from curation.recall import recall
from curation.recipe import Recipe
from curation.resampling import resample
from curation.splitting import divide
from curation.workers import FIT_DONE, Handle, Workers


@dataclass
class Grown:
    """One level as it was grown.

    Attributes:
        slices: Handles of its centroids, on the grid.
        sizes: Pool samples (k,) under each cluster.
        parents: Its clusters' clusters at the level above (k,), once that is grown.
        inertia: Sum of squared distances of its inputs, in units of 2^-48 on the grid.
        fits: k-means fits that it took.
        n_iter: Iterations of the last of them.
        notes: Sentences for the report.
        own: Labels of its inputs, a handle a block, before empty clusters were dropped.
        renumbered: Number of each cluster (k,) after that.
    """

    slices: list[Handle]
    sizes: NDArray[np.int64]
    parents: NDArray[np.int64] | None = None
    inertia: int = 0
    fits: int = 1
    n_iter: int = 0
    notes: list[str] = field(default_factory=list)
    own: list[Handle] = field(default_factory=list)
    renumbered: NDArray[np.int64] | None = None


def grow(
    workers: Workers,
    recipe: Recipe,
    on_leaves: Callable[[Grown], Any],
    checkpoint: Checkpoint | None = None,
) -> list[Grown]:
    """Grows a tree over the points that the workers hold, who are closed in the end.

    Args:
        workers: Who holds the points.
        recipe: What to grow.
        on_leaves: Called with level 1 while the workers still hold its points.
        checkpoint: Where to go on from, and what to keep up to date.

    Returns:
        The levels from the leaves up.

    Raises:
        CurationError: Level 1 asks for more clusters than there are points.
        RegroupError: Other workers should go on from the checkpoint.
    """
    n_inputs = sum(int(count) for count in workers.ask("count"))
    if n_inputs < recipe.n_clusters[0]:
        raise CurationError(
            f"level 1 asks for {recipe.n_clusters[0]} clusters of {n_inputs} points; "
            f"ask for at most {n_inputs}"
        )
    grown: list[Grown] = []
    holders = workers
    try:
        if checkpoint is not None:
            checkpoint.open(workers)
        for level in range(1, len(recipe.n_clusters) + 1):
            known = _known(checkpoint, level, holders)
            new, labels = known or holders.conduct(grow_level, recipe, level, n_inputs, checkpoint)
            if checkpoint is not None and not known:
                _keep(checkpoint, new, labels, holders)
            if grown:
                parents = np.concatenate(labels)
                grown[-1].parents = parents
                new.sizes = np.zeros(len(new.sizes), np.int64)
                np.add.at(new.sizes, parents, grown[-1].sizes)
            else:
                on_leaves(new)
            grown.append(new)
            n_inputs = len(new.sizes)
            if level < len(recipe.n_clusters):
                holders = holders.above(new.slices, level, n_inputs)
    finally:
        holders.close()
    return grown


def _keep(checkpoint: Checkpoint, new: Grown, labels: list[NDArray[np.int64]], workers: Workers) -> None:
    """Has a finished level kept: of the leaves the labels of all points, which are still to be saved."""
    told = {"inertia": new.inertia, "fits": new.fits, "n_iter": new.n_iter, "notes": new.notes}
    arrays = {"sizes": new.sizes, "renumbered": new.renumbered}
    if labels:
        arrays["labels"] = np.concatenate(labels)
    own = [] if labels else new.own
    checkpoint.finish(told, new.slices, own, {n: a for n, a in arrays.items() if a is not None}, workers)


def _known(
    checkpoint: Checkpoint | None, level: int, workers: Workers
) -> tuple[Grown, list[NDArray[np.int64]]] | None:
    """A level that an earlier run has finished, and the labels of its inputs above the leaves."""
    kept = checkpoint.level(level, workers) if checkpoint is not None else None
    if kept is None:
        return None
    labels = kept.pop("labels", None)
    for _ in range(kept["fits"]):
        workers.tick(FIT_DONE, 1, 1)
    return Grown(**kept), [] if labels is None else [labels]


def grow_level(
    workers: Workers, recipe: Recipe, level: int, n_inputs: int, checkpoint: Checkpoint | None = None
) -> tuple[Grown, list[NDArray[np.int64]]]:
    """One level over the inputs that the workers hold, and above the leaves the labels of these."""
    return _Level(workers, recipe, level, n_inputs, checkpoint).grown()


class _Level:
    """k-means on a level's inputs, its resampling steps, one assignment of all inputs, and their division.

    Args:
        workers: Who holds the inputs.
        recipe: What to grow.
        level: Number of the level, 1 for the leaves.
        n_inputs: Points, or clusters of the level below.
        checkpoint: Where to go on from, and what to keep up to date.
    """

    def __init__(
        self, workers: Workers, recipe: Recipe, level: int, n_inputs: int, checkpoint: Checkpoint | None
    ) -> None:
        self.workers, self.recipe, self.level, self.checkpoint = workers, recipe, level, checkpoint
        self.n_inputs = n_inputs
        self.leaves = recipe.split_of(level)
        self.limit = recipe.points_of(level, n_inputs)
        self.steps = recipe.resample_steps if self.limit else 0
        self.at = checkpoint.step(level, workers) if checkpoint is not None else Step(level, 0)
        self.notes = list(self.at.notes)
        place = (recipe.random_state, level)
        self.directions = workers.attempt(lambda: directions_of(workers, place), lambda: None)

    def grown(self) -> tuple[Grown, list[NDArray[np.int64]]]:
        """The level, and above the leaves the labels of its inputs."""
        fit = self._fitted()
        own = self._assigned(fit)
        if self.leaves > 1:
            fit, own = self._divided(fit, own)
        return self._finished(fit, own)

    def _view(self, name: str, count: int, step: int, checkpoint: Checkpoint | None) -> View:
        place = (self.recipe.random_state, self.level, step)
        return View(self.workers, name, count, place, self.directions, checkpoint)

    def _begin(self, step: int, fit: Fit) -> None:
        """A step begins, with what the fit before it came to."""
        if self.checkpoint is not None:
            known = Step(self.level, step, fit.slices, fit.n_clusters, fit.n_iter, list(self.notes))
            self.checkpoint.enter(known, self.workers)

    def _fitted(self) -> Fit:
        """The first fit, or that of the last resampling step."""
        if self.at.step == 0:
            fit = self._cluster(EVERYTHING, self.n_inputs, 0)
        else:
            fit = Fit(self.at.slices, self.at.n_clusters, self.at.n_iter)
            for _ in range(self.at.step):
                self.workers.tick(FIT_DONE, 1, 1)
        for step in range(max(1, self.at.step), self.steps + 1):
            self._begin(step, fit)
            name = f"level {self.level} step {step}"
            fit = self._cluster(name, self._resampled(fit, step, name), step)
        self.workers.leave()
        self._begin(self.steps + 1, fit)
        return fit

    def _cluster(self, name: str, count: int, step: int) -> Fit:
        """The fit of a step to a view of so many inputs."""
        self.workers.tick(f"level {self.level}, step {step}", 0, 1)
        wanted = self.recipe.n_clusters[self.level - 1] // self.leaves
        plan = self.recipe.plan if step == self.steps else self.recipe.intermediate
        fit = fit_centroids(self._view(name, count, step, self.checkpoint), wanted, plan)
        if fit.n_clusters < wanted:
            what = "inputs" if step == 0 else f"resampled points at step {step}"
            self.notes.append(
                f"level {self.level}: {wanted} clusters were asked for but there are only {fit.n_clusters} "
                f"distinct {what}, so each is a cluster of its own"
            )
        self.workers.tick(FIT_DONE, 1, 1)
        return fit

    def _resampled(self, fit: Fit, step: int, name: str) -> int:
        """Enters the view of the inputs that stand for the clusters of a fit; how many there are."""
        everything = self._view(EVERYTHING, self.n_inputs, 0, None)
        exactly = self.recipe.algorithm == "lloyd"
        own = labelled(everything, fit.slices, fit.n_clusters, exactly=exactly)
        salt = int(chance.salt(self.recipe.random_state, chance.Purpose.RESAMPLE, self.level, step))
        return resample(self.workers, own, fit.slices, self.recipe.resample_strategy, salt, self.limit, name)

    def _assigned(self, fit: Fit) -> list[Handle]:
        """Labels of all inputs."""
        everything = self._view(EVERYTHING, self.n_inputs, 0, None)
        lists = self.recipe.plan.lists(fit.n_clusters)
        own = labelled(everything, fit.slices, fit.n_clusters, exactly=True, lists=lists)
        if lists is not None:
            share, sampled = recall(everything, own, fit.slices)
            self.notes.append(
                f"level {self.level}: inputs were assigned approximately (algorithm ivf); of {sampled} "
                f"sampled ones {share:.2%} are in the cluster whose centroid is nearest"
            )
        return own

    def _divided(self, fit: Fit, own: list[Handle]) -> tuple[Fit, list[Handle]]:
        """The coarse clusters of a fit, divided, and the labels after that."""
        self.workers.tick(f"level {self.level}, splitting", 0, 1)
        view = self._view(EVERYTHING, self.n_inputs, self.steps + 1, self.checkpoint)
        coarse, (fit, own) = fit.n_clusters, divide(view, own, fit.n_clusters, self.leaves, self.recipe.plan)
        self.workers.tick(FIT_DONE, 1, 1)
        if fit.n_clusters < coarse * self.leaves:
            self.notes.append(
                f"level {self.level}: some of {coarse} coarse clusters have fewer than {self.leaves} "
                f"distinct inputs, so they were divided into {fit.n_clusters} clusters instead of "
                f"{coarse * self.leaves}"
            )
        return fit, own

    def _finished(self, fit: Fit, own: list[Handle]) -> tuple[Grown, list[NDArray[np.int64]]]:
        """What comes out, without the clusters that ended empty."""
        slices, counts, inertia, keep = without_empty(self.workers, own, fit.slices)
        if keep.sum() < fit.n_clusters:
            gone = fit.n_clusters - keep.sum()
            self.notes.append(f"level {self.level}: {gone} clusters ended empty and were removed")
        renumbered = np.cumsum(keep) - 1
        labels = self.workers.ask("labels", renumbered, own=own) if self.level > 1 else []
        grown = Grown(
            slices,
            counts,
            inertia=inertia,
            fits=1 + self.steps + (self.leaves > 1),
            n_iter=fit.n_iter,
            notes=self.notes,
            own=own,
            renumbered=renumbered,
        )
        return grown, labels
