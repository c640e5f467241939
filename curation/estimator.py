"""What an estimator can be asked once it is fitted: scikit-learn's verbs, on exact distances."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, ClusterMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from curation import exact
from curation.assign import Assigner, Centroids
from curation.descent import Distance
from curation.errors import CurationError
from curation.inputs import checked_weights, unit_rows

FLOATS = [np.float64, np.float32, np.float16]
_FAR = 60  # powers of two beyond the grid at which squares still fit float32
_EXACT = 4.0  # norm on the grid up to which squared distances are exact in float64
_SCORES = 1 << 22  # float64 scores in hand, or coordinates: 32 MB


def _labels_from_afar(
    rows: NDArray[np.float32], norms: NDArray[np.float64], centroids: NDArray[np.float32]
) -> NDArray[np.int32]:
    """Nearest centroids (n,) of rows beyond `_EXACT` and of these norms (n,), ties to the lower number.

    By |c|^2 / 2 - x.c, in float64 where that is clear, and in Python's integers where it is not.
    """
    wide = centroids.astype(np.float64)
    half = (wide * wide).sum(axis=1) / 2
    # more than the error of a product of d terms and a sum, twice
    reach = (wide.shape[1] + 8) * 2.0**-51 * np.sqrt(half.max(initial=0.0))
    labels = np.empty(len(rows), np.int32)
    step = max(1, _SCORES // max(wide.shape))
    for start in range(0, len(rows), step):
        part = rows[start : start + step].astype(np.float64)
        scores = half - part @ wide.T
        limits = scores.min(axis=1) + reach * (norms[start : start + step] + 1)
        close = scores <= limits[:, None]
        labels[start : start + step] = close.argmax(axis=1)
        for i in np.flatnonzero(close.sum(axis=1) > 1):
            labels[start + i] = _exactly_nearest(part[i], wide, np.flatnonzero(close[i]))
    return labels


def _exactly_nearest(
    row: NDArray[np.float64], centroids: NDArray[np.float64], some: NDArray[np.int64]
) -> int:
    """The first of the nearest among some centroids, in integers of grid steps."""
    x = [int(value * exact.UNIT) for value in row]
    scores = [
        sum(c * (c - 2 * v) for c, v in zip(centroid, x, strict=True))
        for centroid in (centroids[some] * exact.UNIT).astype(np.int64).tolist()
    ]
    return int(some[scores.index(min(scores))])


class CentroidEstimator(ClassNamePrefixFeaturesOutMixin, TransformerMixin, ClusterMixin, BaseEstimator):  # type: ignore[misc]
    """Places rows among the centroids of a fit.

    Attributes:
        distance: A parameter: "euclidean" or "cosine".
        assigner: A parameter: how to look for nearest centroids.
        cluster_centers_: Centroids (k, d), float32.
    """

    distance: Distance
    assigner: Assigner | None

    def predict(self, X: Any) -> NDArray[np.int64]:
        """Nearest cluster (n,) of each row (n, d), ties to the lower number.

        Raises:
            CurationError: The rows are not finite, or too far out.
            ValueError: The rows have another width than those fitted, or nothing is fitted (NotFittedError).
        """
        return self._labels(self._on_grid(X)).astype(np.int64)

    def transform(self, X: Any) -> NDArray[np.float64]:
        """Distance of each row (n, d) to each centroid, (n, k): 8 n k bytes.

        Raises:
            CurationError: As `predict`.
            ValueError: As `predict`.
        """
        rows = self._on_grid(X)
        out = np.empty((len(rows), len(self._centroids)))
        for cluster in range(len(self._centroids)):
            mine = np.full(len(rows), cluster, np.int32)
            out[:, cluster] = exact.squared_distances(rows, self._centroids, None, mine)
        return np.sqrt(self._grid.decode_squared(out))

    def score(self, X: Any, y: None = None, sample_weight: Any = None) -> float:
        """Minus the sum of squared distances of rows (n, d), weighted (n,), to their nearest centroids.

        Raises:
            CurationError: As `predict`, or the weights are unfit.
            ValueError: As `predict`.
        """
        rows = self._on_grid(X)
        weights = np.ones(len(rows)) if sample_weight is None else checked_weights(sample_weight, len(rows))
        squared = exact.squared_distances(rows, self._centroids, None, self._labels(rows))
        return -float(self._grid.decode_squared(squared) @ weights)

    def _take(self, grid: exact.Grid, centroids: NDArray[np.float32]) -> None:
        """Takes the centroids (k, d) of a fit that is done, on their grid."""
        self._grid, self._centroids = grid, centroids
        self.cluster_centers_ = grid.decode(centroids)
        self._n_features_out = len(centroids)

    @property
    def _assigner(self) -> Assigner:
        return self.assigner or Assigner()

    def _labels(self, rows: NDArray[np.float32]) -> NDArray[np.int32]:
        norms = np.sqrt(exact.squared_norms(rows))
        labels = self._assigner.nearest(rows, norms, Centroids(self._centroids)).labels
        far = np.flatnonzero(norms > _EXACT)
        if len(far):
            labels[far] = _labels_from_afar(rows[far], norms[far], self._centroids)
        return labels

    def _on_grid(self, X: Any) -> NDArray[np.float32]:
        check_is_fitted(self, "cluster_centers_")
        points = validate_data(self, X, dtype=FLOATS, ensure_all_finite=False, reset=False)
        exponent = exact.grid_exponent(points)  # names a row that is not finite
        if self.distance == "euclidean" and exponent - self._grid.exponent > _FAR:
            raise CurationError(
                f"a row has a norm of about 2^{exponent}, more than 2^{_FAR} times that of the longest row "
                f"fitted, about 2^{self._grid.exponent}: too far to place; drop it, or scale it down"
            )
        if self.distance == "cosine":
            points = unit_rows(points)
        return self._grid.encode(points)
