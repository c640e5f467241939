"""Hierarchical k-means with resampling (Vo et al., arXiv 2405.15613, section 3 and algorithm 1).

Level 1 clusters the points, level t the centroids of level t - 1. Resampling repeats a level's
k-means on the few points of each cluster that lie closest to its centroid, which spreads the next
centroids more evenly; every repetition starts afresh.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from curation import chance, exact
from curation.assign import Assigner
from curation.block import PointBlock
from curation.checkpoint import Checkpoint, Step
from curation.descent import Algorithm, Distance, Fit, Init, View
from curation.errors import CurationError
from curation.fit import directions_of, fit_centroids, labelled, settled
from curation.inputs import check_points, grid_rows, point_keys
from curation.points import EVERYTHING
from curation.recall import recall
from curation.recipe import Recipe
from curation.resampling import Strategy, resample
from curation.splitting import divide
from curation.tree import Leaves, Level, Tree
from curation.workers import FIT_DONE, Handle, LocalWorkers, Workers


@dataclass
class Grown:
    """One level as it was grown.

    Attributes:
        slices: Handles of its centroids, on the grid.
        sizes: Pool samples (k,) under each cluster.
        parents: Its clusters' clusters at the level above (k,), once that is grown.
        inertia: Sum of squared distances of its inputs, in units of 2^-48 on the grid.
        fits: k-means fits that it took.
        notes: Sentences for the report.
        own: Labels of its inputs, a handle a block, before empty clusters were dropped.
        renumbered: Number of each cluster (k,) after that.
    """

    slices: list[Handle]
    sizes: NDArray[np.int64]
    parents: NDArray[np.int64] | None = None
    inertia: int = 0
    fits: int = 1
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
    n_inputs = sum(int(count) for count in workers.get(workers.points("count")))
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
    told = {"inertia": new.inertia, "fits": new.fits, "notes": new.notes}
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
        fit, own = divide(everything, own, coarse, leaves, recipe.plan)
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
        labels = workers.get(workers.points("labels", renumbered, own=own))
    fits = 1 + steps + (leaves > 1)
    return Grown(slices, counts, None, inertia, fits, notes, own, renumbered), labels


class HierarchicalKMeans:
    """Hierarchical k-means with resampling on an array in one process.

    Args:
        n_clusters: Clusters a level, from the leaves up, such as [3000, 1000, 300].
        resample_steps: Resampling steps a level.
        resample_points: See `Recipe`.
        resample_strategy: See `Recipe`.
        max_iter: Most iterations of a k-means.
        tol: Least relative gain of an iteration.
        distance: "euclidean" or "cosine".
        random_state: Seed of every hashed draw.
        algorithm: See `Recipe`.
        init: See `Recipe`.
        split: See `Recipe`.
        assigner: How to look for nearest centroids; changes no result.

    Attributes:
        tree_: The tree, with the pool's leaves, for `balanced_sample`.
        labels_: Cluster of each row at level 1 (n,).
        inertia_: Sum of squared distances of the rows to their leaves' centroids.
    """

    def __init__(
        self,
        n_clusters: Sequence[int],
        *,
        resample_steps: int = 0,
        resample_points: Sequence[int] | Literal["auto"] = "auto",
        resample_strategy: Strategy = "closest",
        max_iter: int = 50,
        tol: float = 1e-4,
        distance: Distance = "euclidean",
        random_state: int = 0,
        algorithm: Algorithm = "auto",
        init: Init = "auto",
        split: Sequence[int] | None = None,
        assigner: Assigner | None = None,
    ) -> None:
        self.recipe = Recipe(
            n_clusters,
            resample_steps,
            resample_points,
            resample_strategy,
            max_iter,
            tol,
            distance,
            random_state,
            algorithm,
            init,
            split,
        )
        self.assigner = assigner or Assigner()

    def fit(self, embeddings: NDArray[Any], ids: Sequence[str] | None = None) -> Self:
        """Grows the tree over rows (n, d) of any float dtype.

        Args:
            embeddings: The rows.
            ids: Their names, all different; the row numbers by default. Chance hangs on the names.

        Raises:
            CurationError: The input is unfit, or there are fewer rows than clusters at level 1.
        """
        rows, grid = grid_rows(np.asarray(embeddings), self.recipe.distance)
        keys = point_keys(len(rows), ids)
        workers = LocalWorkers([PointBlock(rows, keys, self.assigner)])
        check_points(workers, grid.exponent)
        found: list[tuple[NDArray[np.int64], NDArray[np.float64]]] = []

        def keep(leaves: Grown) -> None:
            told = workers.points(
                "save", lambda *both: both, leaves.renumbered, *leaves.slices, own=leaves.own
            )
            found.extend(told)

        grown = grow(workers, self.recipe, keep)
        clusters, distances = found[0]
        names = np.arange(len(rows)) if ids is None else np.asarray(ids)
        self.tree_ = Tree(
            [Level(g.sizes, g.parents, grid.decode(np.concatenate(g.slices))) for g in grown],
            [note for g in grown for note in g.notes],
            Leaves(names, keys, clusters, grid.decode_squared(distances).astype(np.float32)),
        )
        self.labels_ = clusters
        self.inertia_ = grown[0].inertia / exact.SQUARE_UNIT * 4.0**grid.exponent
        return self
