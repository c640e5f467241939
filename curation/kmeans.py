"""k-means on an array in one process, in scikit-learn's shape; `fit` has the algorithms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import validate_data

from curation import exact
from curation.assign import Assigner
from curation.descent import Algorithm, Distance, Init, Plan, View
from curation.errors import CurationError
from curation.estimator import FLOATS, CentroidEstimator
from curation.fit import directions_of, fit_centroids, labelled, without_empty
from curation.inputs import held, point_weights
from curation.points import EVERYTHING
from curation.recall import recall
from curation.workers import Handle

Callback = Callable[[int, NDArray[np.float32]], Any]


class KMeans(CentroidEstimator):
    """k-means on an array in one process.

    Args:
        n_clusters: Number of clusters.
        init: "auto" for D^2 sampling in batches, "k-means++" for greedy k-means++.
        algorithm: "auto" for the fast recipe of `curation.fit`, "lloyd" for full scans, "ivf" for
            approximate ones by FAISS where there are very many clusters.
        max_iter: Most iterations.
        tol: Stop when an iteration lowers the objective by at most this share; 0 stops when nothing moves.
        distance: "euclidean", or "cosine" for spherical k-means.
        random_state: Seed of every hashed draw; None is 0.
        assigner: How to look for nearest centroids; changes no result.
        callback: Called with the iterations made and the centroids (k, d), float32, after every iteration.

    Attributes:
        cluster_centers_: Centroids (k, d), float32; clusters that ended empty are left out.
        labels_: Cluster of each row (n,), int64.
        inertia_: (Weighted) sum of squared distances to the nearest centroid.
        n_iter_: Iterations made.
        recall_: Share of (sampled) rows that are in the cluster whose centroid is nearest: 1, or less
            after "ivf".
        n_features_in_: Columns d of the rows fitted.
    """

    def __init__(
        self,
        n_clusters: int = 8,
        *,
        init: Init = "auto",
        algorithm: Algorithm = "auto",
        max_iter: int = 50,
        tol: float = 1e-4,
        distance: Distance = "euclidean",
        random_state: int | None = 0,
        assigner: Assigner | None = None,
        callback: Callback | None = None,
    ) -> None:
        self.n_clusters = n_clusters
        self.init: Init = init
        self.algorithm: Algorithm = algorithm
        self.max_iter = max_iter
        self.tol = tol
        self.distance: Distance = distance
        self.random_state = random_state
        self.assigner = assigner
        self.callback = callback

    def fit(
        self, X: Any, y: None = None, sample_weight: Any = None, *, ids: Sequence[str] | None = None
    ) -> Self:
        """Clusters rows (n, d) of any float dtype.

        Args:
            X: The rows.
            y: Ignored.
            sample_weight: Weights (n,): a row of weight 2 counts as two.
            ids: Names of the rows for chance, all different; the row numbers by default.

        Raises:
            CurationError: The input or a parameter is unfit.
            ValueError: X has not two dimensions, or is empty.
        """
        points = validate_data(self, X, dtype=FLOATS, ensure_all_finite=False)
        plan = Plan(
            max_iter=self.max_iter,
            tol=self.tol,
            distance=self.distance,
            algorithm=self.algorithm,
            init=self.init,
        )
        count = len(points)
        if not (isinstance(self.n_clusters, int | np.integer) and 1 <= self.n_clusters <= count):
            raise CurationError(f"n_clusters is {self.n_clusters!r} for {count} points; choose 1 to {count}")
        if not isinstance(self.random_state, int | np.integer | None):
            raise CurationError(f"random_state is {self.random_state!r}; give a whole number, or None for 0")
        weights = point_weights(sample_weight, count)
        workers, grid = held(points, self.distance, ids, self._assigner, weights)
        seed = int(self.random_state or 0)
        view = View(workers, EVERYTHING, count, (seed, 1, 0), directions_of(workers, (seed, 1)))
        fit = fit_centroids(view, self.n_clusters, plan, partial(self._watch, grid))
        lists = plan.lists(fit.n_clusters)
        own = labelled(view, fit.slices, fit.n_clusters, exactly=True, lists=lists)
        slices, counts, inertia, kept = without_empty(workers, own, fit.slices)
        if not kept.all():  # points of no weight may have been in a cluster that is gone
            own = labelled(view, slices, len(counts), exactly=True, lists=lists)
        self.recall_ = recall(view, own, slices)[0] if lists else 1.0
        self._take(grid, np.concatenate(slices))
        self.labels_: NDArray[np.int64] = workers.points("labels", np.arange(len(counts)), own=own)[0]
        self.inertia_ = inertia / exact.SQUARE_UNIT * 4.0**grid.exponent
        if sample_weight is not None:
            scaled = count if weights is None else weights.sum()
            self.inertia_ *= float(np.asarray(sample_weight, np.float64).sum() / scaled)
        self.n_iter_ = fit.n_iter
        return self

    def fit_predict(
        self, X: Any, y: None = None, sample_weight: Any = None, *, ids: Sequence[str] | None = None
    ) -> NDArray[np.int64]:
        """Fits, and returns the clusters of the rows (n,); arguments and errors are those of `fit`."""
        return self.fit(X, sample_weight=sample_weight, ids=ids).labels_

    def _watch(self, grid: exact.Grid, n_iter: int, slices: list[Handle]) -> None:
        if self.callback is not None:
            self.callback(n_iter, grid.decode(np.concatenate(slices)))
