"""What a hierarchy is to be: its levels, and how each is grown."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import Literal, get_args

import numpy as np

from curation.descent import Algorithm, Distance, Init, Plan
from curation.errors import CurationError
from curation.resampling import Strategy


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

    Raises:
        CurationError: One of these is unfit, or a level is to be both split and resampled.
    """

    n_clusters: Sequence[int]
    _: KW_ONLY
    resample_steps: int = 0
    resample_points: Sequence[int] | Literal["auto"] = "auto"
    resample_strategy: Strategy = "closest"
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
        return Plan(
            max_iter=self.max_iter,
            tol=self.tol,
            distance=self.distance,
            algorithm=self.algorithm,
            init=self.init,
        )

    @property
    def intermediate(self) -> Plan:
        """How those are fitted that only choose the points of the next resampling step: less finely."""
        return replace(self.plan, intermediate=True)

    def __post_init__(self) -> None:
        k = list(self.n_clusters)
        if not k or min(k) < 1 or any(low <= high for low, high in itertools.pairwise(k)):
            raise CurationError(
                f"n_clusters is {k}; give at least one number, each level fewer than the one below"
            )
        if not all(isinstance(count, int | np.integer) for count in k):
            raise CurationError(f"n_clusters is {k}; give whole numbers")
        if not isinstance(self.random_state, int | np.integer):
            raise CurationError(f"random_state is {self.random_state!r}; give a whole number")
        if not isinstance(self.resample_steps, int | np.integer) or self.resample_steps < 0:
            raise CurationError(
                f"resample_steps is {self.resample_steps!r}; give a whole number of at least 0, 0 for none"
            )
        _ = self.plan  # refuses what cannot be one
        if self.resample_strategy not in get_args(Strategy):
            there = ", ".join(get_args(Strategy))
            raise CurationError(
                f"there is no resampling strategy {self.resample_strategy!r}; there are {there}"
            )
        if self.resample_points != "auto" and any(points < 0 for points in self.resample_points):
            raise CurationError(
                f"resample points {list(self.resample_points)} has a negative entry; give 0 for none"
            )
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

    def fits_of(self, level: int, n_inputs: int) -> int:
        """k-means fits of a level: its own, one a resampling step, and its division."""
        return 1 + self.resample_steps * (self.points_of(level, n_inputs) > 0) + (self.split_of(level) > 1)

    def fits(self, n_points: int) -> int:
        """k-means fits that growing takes, for a progress bar."""
        inputs = [n_points, *self.n_clusters]
        return sum(self.fits_of(level, n) for level, n in enumerate(inputs[:-1], start=1))
