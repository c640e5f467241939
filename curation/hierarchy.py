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
from curation.fit import directions_of, fit_centroids, labelled, settled
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
    """k-means on a level's inputs, its resampling steps, one assignment of all inputs, and splitting."""
    leaves = recipe.split_of(level)
    wanted = recipe.n_clusters[level - 1] // leaves
    at = checkpoint.step(level, workers) if checkpoint is not None else Step(level, 0)
    notes = list(at.notes)
    place = (recipe.random_state, level)
    directions = workers.attempt(lambda: directions_of(workers, place), lambda: None)

    def cluster(name: str, count: int, step: int) -> Fit:
        workers.tick(f"level {level}, step {step}", 0, 1)
        plan = recipe.plan if step == steps else recipe.passing
        view = View(workers, name, count, (*place, step), directions, checkpoint)
        fit = fit_centroids(view, wanted, plan)
        if fit.n_clusters < wanted:
            what = "inputs" if step == 0 else f"resampled points at step {step}"
            notes.append(
                f"level {level}: {wanted} clusters were asked for but there are only {fit.n_clusters} "
                f"distinct {what}, so each is a cluster of its own"
            )
        workers.tick(FIT_DONE, 1, 1)
        return fit

    def begin(step: int) -> None:
        if checkpoint is not None:
            checkpoint.enter(Step(level, step, fit.slices, fit.n_clusters, fit.n_iter, notes), workers)

    everything = View(workers, EVERYTHING, n_inputs, (*place, 0), directions)
    exactly = recipe.algorithm == "lloyd"
    limit = recipe.points_of(level, n_inputs)
    steps = recipe.resample_steps if limit else 0
    if at.step == 0:
        fit = cluster(EVERYTHING, n_inputs, 0)
    else:
        fit = Fit(at.slices, at.n_clusters, at.n_iter)
        for _ in range(at.step):
            workers.tick(FIT_DONE, 1, 1)
    for step in range(max(1, at.step), steps + 1):
        begin(step)
        own = labelled(everything, fit.slices, fit.n_clusters, exactly=exactly)
        salt = int(chance.salt(recipe.random_state, chance.Purpose.RESAMPLE, level, step))
        name = f"level {level} step {step}"
        fit = cluster(
            name, resample(workers, own, fit.slices, recipe.resample_strategy, salt, limit, name), step
        )
    workers.leave()
    begin(steps + 1)
    lists = recipe.plan.lists(fit.n_clusters)
    own = labelled(everything, fit.slices, fit.n_clusters, exactly=True, lists=lists)
    if lists is not None:
        share, sampled = recall(everything, own, fit.slices)
        notes.append(
            f"level {level}: inputs were assigned approximately (algorithm ivf); of {sampled} sampled ones "
            f"{share:.2%} are in the cluster whose centroid is nearest"
        )
    if leaves > 1:
        coarse = fit.n_clusters
        workers.tick(f"level {level}, splitting", 0, 1)
        divided = View(workers, EVERYTHING, n_inputs, (*place, steps + 1), directions, checkpoint)
        fit, own = divide(divided, own, coarse, leaves, recipe.plan)
        workers.tick(FIT_DONE, 1, 1)
        if fit.n_clusters < coarse * leaves:
            notes.append(
                f"level {level}: some of {coarse} coarse clusters have fewer than {leaves} distinct inputs, "
                f"so they were divided into {fit.n_clusters} clusters instead of {coarse * leaves}"
            )
    slices, counts, inertia, keep = settled(workers, own, fit.slices)
    if keep.sum() < fit.n_clusters:
        notes.append(f"level {level}: {fit.n_clusters - keep.sum()} clusters ended empty and were removed")
    renumbered = np.cumsum(keep) - 1
    labels: list[NDArray[np.int64]] = []
    if level > 1:
        labels = workers.ask("labels", renumbered, own=own)
    fits = 1 + steps + (leaves > 1)
    return Grown(slices, counts, None, inertia, fits, fit.n_iter, notes, own, renumbered), labels
