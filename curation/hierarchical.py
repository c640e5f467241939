"""The whole method on an array in one process, in scikit-learn's shape; `hierarchy` has the algorithm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import validate_data

from curation import exact
from curation.assign import Assigner
from curation.descent import Algorithm, Distance, Init
from curation.estimator import FLOATS, CentroidEstimator
from curation.hierarchy import Grown, grow
from curation.inputs import held
from curation.recipe import Recipe
from curation.resampling import Strategy
from curation.tree import Leaves, Level, Tree


class HierarchicalKMeans(CentroidEstimator):
    """Hierarchical k-means with resampling on an array in one process.

    What a fit can be asked, such as `predict`, is about its leaves, the clusters of level 1. After `split`
    these are the nearest of all, while `labels_` keep to a row's coarse cluster.

    Args:
        n_clusters: Clusters a level, from the leaves up and decreasing, such as [3000, 1000, 300]; a number
            is one level.
        resample_steps: Resampling steps a level; none by default, where a run of the pipeline makes ten.
        resample_points: Points that a step takes of each cluster, an entry a level, 0 or 1 for no resampling;
            "auto": none at level 1 and where a level is split, half the mean cluster size elsewhere.
        resample_strategy: Which points: "closest" to the centroid, or "random".
        max_iter: Most iterations of a k-means.
        tol: Least relative gain of an iteration; 0 goes on until nothing moves.
        distance: "euclidean", or "cosine" for spherical k-means at every level.
        random_state: Seed of every hashed draw; None is 0.
        algorithm: "auto" for the fast recipe, "lloyd" for full scans, "ivf" for approximate ones by FAISS
            where there are very many clusters.
        init: "auto" for D^2 sampling in batches, "k-means++" for greedy k-means++.
        split: Clusters that each of a level's coarse clusters is divided into, an entry a level, 1 for no
            splitting; a level of n clusters then has n / split coarse ones.
        assigner: How to look for nearest centroids; changes no result.

    Attributes:
        tree_: The tree, with the pool's leaves, for `balanced_sample`.
        cluster_centers_: Centroids of the leaves (k, d), float32.
        labels_: Leaf of each row (n,), int64.
        inertia_: Sum of squared distances of the rows to their leaves' centroids.
        n_iter_: Iterations of the last fit of level 1.
        n_features_in_: Columns d of the rows fitted.
    """

    def __init__(
        self,
        n_clusters: int | Sequence[int],
        *,
        resample_steps: int = 0,
        resample_points: Sequence[int] | Literal["auto"] = "auto",
        resample_strategy: Strategy = "closest",
        max_iter: int = 50,
        tol: float = 1e-4,
        distance: Distance = "euclidean",
        random_state: int | None = 0,
        algorithm: Algorithm = "auto",
        init: Init = "auto",
        split: Sequence[int] | None = None,
        assigner: Assigner | None = None,
    ) -> None:
        self.n_clusters = n_clusters
        self.resample_steps = resample_steps
        self.resample_points = resample_points
        self.resample_strategy = resample_strategy
        self.max_iter = max_iter
        self.tol = tol
        self.distance: Distance = distance
        self.random_state = random_state
        self.algorithm = algorithm
        self.init = init
        self.split = split
        self.assigner = assigner

    @property
    def recipe(self) -> Recipe:
        """What is grown.

        Raises:
            CurationError: A parameter is unfit.
        """
        levels = self.n_clusters
        return Recipe(
            [levels] if isinstance(levels, int | float | np.number) else levels,
            resample_steps=self.resample_steps,
            resample_points=self.resample_points,
            resample_strategy=self.resample_strategy,
            max_iter=self.max_iter,
            tol=self.tol,
            distance=self.distance,
            random_state=0 if self.random_state is None else self.random_state,
            algorithm=self.algorithm,
            init=self.init,
            split=self.split,
        )

    def fit(self, X: Any, y: None = None, *, ids: Sequence[str] | None = None) -> Self:
        """Grows the tree over rows (n, d) of any float dtype.

        Args:
            X: The rows.
            y: Ignored.
            ids: Their names, all different; the row numbers by default. Chance hangs on the names.

        Raises:
            CurationError: The input or a parameter is unfit, or level 1 asks for more clusters than rows.
            ValueError: X has not two dimensions, or is empty.
        """
        recipe = self.recipe
        points = validate_data(self, X, dtype=FLOATS, ensure_all_finite=False)
        workers, grid = held(points, recipe.distance, ids, self._assigner)
        keys = workers.blocks[0].everything.keys
        found: list[tuple[NDArray[np.int64], NDArray[np.float64]]] = []

        def keep(leaves: Grown) -> None:
            told = workers.points(
                "save", lambda *both: both, leaves.renumbered, *leaves.slices, own=leaves.own
            )
            found.extend(told)

        grown = grow(workers, recipe, keep)
        clusters, distances = found[0]
        names = np.arange(len(keys)) if ids is None else np.asarray(ids)
        self._take(grid, np.concatenate(grown[0].slices))
        self.tree_ = Tree(
            [Level(g.sizes, g.parents, grid.decode(np.concatenate(g.slices))) for g in grown],
            [note for g in grown for note in g.notes],
            Leaves(names, keys, clusters, grid.decode_squared(distances).astype(np.float32)),
        )
        self.labels_ = clusters
        self.inertia_ = grown[0].inertia / exact.SQUARE_UNIT * 4.0**grid.exponent
        self.n_iter_ = grown[0].n_iter
        return self
