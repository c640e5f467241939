"""Hierarchical k-means with resampling (Vo et al., arXiv 2405.15613, section 3 and algorithm 1).

Level 1 clusters the points, level t the centroids of level t - 1. Resampling repeats a level's
k-means on the few points of each cluster that lie closest to its centroid, which spreads the next
centroids more evenly; every repetition starts afresh.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from curation import chance, exact
from curation.assign import Assigner
from curation.checkpoint import Checkpoint, Step
from curation.errors import CurationError
from curation.fit import (
    Algorithm,
    Distance,
    Fit,
    Init,
    Plan,
    View,
    directions_of,
    fit_centroids,
    labelled,
    settled,
)
from curation.inputs import check_points, grid_rows, point_keys
from curation.points import EVERYTHING, PointBlock
from curation.recall import recall
from curation.splitting import divide
from curation.tree import Leaves, Level, Tree
from curation.workers import FIT_DONE, Handle, LocalWorkers, Workers

_PASSING = 1e-3  # least relative gain of an iteration while resampling goes on


@dataclass(frozen=True)
class Recipe:
    """What to grow.

    Attributes:
        n_clusters: Clusters a level, from the leaves up, decreasing.
        resample_steps: Resampling steps a level.
        resample_points: Points taken of each cluster, an entry a level, 0 or 1 for no resampling;
            "auto": none at level 1 and where a level is split, half the mean cluster size (rounded half
            up) elsewhere.
        resample_strategy: Which points: "closest" to the centroid, or "random".
        max_iter: Most iterations of a k-means.
        tol: Least relative gain of an iteration; 0 goes on until nothing moves.
        distance: "euclidean", or "cosine" for spherical k-means at every level.
        random_state: Seed of every hashed draw.
        algorithm: "auto" for the fast recipe of `curation.fit`, "lloyd" for full scans, "ivf" for
            approximate ones by FAISS where there are very many clusters.
        init: "auto" for D^2 sampling in batches, "k-means++" for greedy k-means++.
        split: Clusters that each of a level's coarse clusters is divided into (`curation.splitting`), an
            entry a level, 1 for no splitting; a level of n clusters then has n / split coarse ones.
    """

    n_clusters: Sequence[int]
    resample_steps: int = 0
    resample_points: Sequence[int] | Literal["auto"] = "auto"
    resample_strategy: Literal["closest", "random"] = "closest"
    max_iter: int = 50
    tol: float = 1e-4
    distance: Distance = "euclidean"
    random_state: int = 0
    algorithm: Algorithm = "auto"
    init: Init = "auto"
    split: Sequence[int] | None = None

    @property
    def plan(self) -> Plan:
        """How each k-means is fitted."""
        return Plan(self.max_iter, self.tol, self.distance, self.algorithm, self.init)

    @property
    def passing(self) -> Plan:
        """How those are fitted that only choose the points of the next resampling step: less finely."""
        tol = self.tol if self.algorithm == "lloyd" else max(self.tol, _PASSING)
        return replace(self.plan, tol=tol)

    def __post_init__(self) -> None:
        k = list(self.n_clusters)
        if not k or min(k) < 1 or any(low <= high for low, high in itertools.pairwise(k)):
            raise CurationError(
                f"n_clusters is {k}; give at least one number, each level fewer than the one below"
            )
        if any(int(count) != count for count in k):
            raise CurationError(f"n_clusters is {k}; give whole numbers")
        _ = self.plan  # refuses what cannot be one
        if self.resample_strategy not in ("closest", "random"):
            raise CurationError(
                f"there is no resampling strategy {self.resample_strategy!r}; there are closest, random"
            )
        if self.resample_points != "auto" and any(points < 0 for points in self.resample_points):
            raise CurationError(f"resample points {list(self.resample_points)} has a negative entry")
        if self.resample_points != "auto" and len(self.resample_points) != len(k):
            raise CurationError(
                f"resample points {list(self.resample_points)} has {len(self.resample_points)} entries "
                f"for {len(k)} levels; give one a level, 0 for none"
            )
        self._check_split()

    def _check_split(self) -> None:
        if self.split is None:
            return
        split, k = list(self.split), list(self.n_clusters)
        if len(split) != len(k):
            raise CurationError(
                f"split {split} has {len(split)} entries for {len(k)} levels; give one a level, 1 for none"
            )
        for level, (leaves, count) in enumerate(zip(split, k, strict=True), start=1):
            if leaves < 1 or count % leaves:
                raise CurationError(
                    f"level {level} has {count} clusters, which are not coarse clusters of {leaves} each; "
                    "let its entry of split divide its number of clusters"
                )
            resampled = self.resample_points[level - 1] if self.resample_points != "auto" else 0
            if leaves > 1 and self.resample_steps and resampled > 1:
                raise CurationError(
                    f"level {level} is to be split and resampled, of which a level can have one; set its "
                    "entry of split to 1, or that of the resample points to 0"
                )

    def split_of(self, level: int) -> int:
        """Clusters that each coarse cluster of a level is divided into; 1 where the level is not split."""
        return 1 if self.split is None else self.split[level - 1]

    def points_of(self, level: int, n_inputs: int) -> int:
        """Points that a resampling step takes of each cluster of a level; 0 for no resampling."""
        if self.resample_steps == 0 or self.split_of(level) > 1:
            return 0
        if self.resample_points != "auto":
            points = self.resample_points[level - 1]
        elif level == 1:
            points = 0
        else:
            points = int(n_inputs / self.n_clusters[level - 1] / 2 + 0.5)
        return points if points > 1 else 0

    def fits(self, n_points: int) -> int:
        """k-means fits that growing takes, for a progress bar."""
        inputs = [n_points, *self.n_clusters]
        return sum(
            1 + self.resample_steps * (self.points_of(level, n) > 0) + (self.split_of(level) > 1)
            for level, n in zip(range(1, len(self.n_clusters) + 1), inputs, strict=False)
        )


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
            name, _resample(workers, own, fit.slices, recipe.resample_strategy, salt, limit, name), step
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


def _resample(
    workers: Workers, own: list[Handle], slices: list[Handle], strategy: str, salt: int, limit: int, view: str
) -> int:
    """Enters the view of the points that stand for their clusters; returns how many there are."""
    leaders = workers.points("leaders", strategy, salt, limit, *slices, own=own, returns=len(slices))
    if len(slices) == 1:
        leaders = [(part,) for part in leaders]
    limits = [
        workers.slice(i, "limits", part, limit, *(block[i] for block in leaders))
        for i, part in enumerate(slices)
    ]
    return workers.enter(own, view, strategy, salt, len(slices), *slices, *limits)


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
        resample_strategy: Literal["closest", "random"] = "closest",
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
