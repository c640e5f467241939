"""k-means: a greedy k-means++ start and Lloyd's iterations, exact and the same on any workers.

`fit_centroids` is the algorithm, written once against `Workers`; `KMeans` is scikit-learn's shape of
it for arrays in one process. After Lloyd (IEEE Trans. Inf. Theory, 1982).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray

from curation import exact
from curation.assign import Assigner, Centroids
from curation.chance import keys_of
from curation.errors import CurationError
from curation.points import EVERYTHING, SHORT, PointBlock
from curation.seeding import seed
from curation.workers import Handle, LocalWorkers, Workers

Distance = Literal["euclidean", "cosine"]


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


def fit_centroids(
    workers: Workers,
    view: str,
    n_clusters: int,
    *,
    place: tuple[int, int, int],
    max_iter: int,
    tol: float,
    distance: Distance,
) -> Fit:
    """Clusters a view of the points: greedy k-means++, then iterations until nothing moves.

    Args:
        workers: Who holds the points.
        view: The points to cluster.
        n_clusters: Clusters wanted.
        place: (seed, level, resampling step).
        max_iter: Most iterations.
        tol: Stop when an iteration lowers the objective by at most this share of it.
        distance: "cosine" renormalises every centroid (spherical k-means).
    """
    slices = seed(workers, view, n_clusters, place)
    found = sum(workers.get([workers.slice(i, "size", part) for i, part in enumerate(slices)]))

    def square_total() -> int:
        return sum(int(part) for part in workers.get(workers.points("square_total", view)))

    squares = workers.attempt(square_total, lambda: None)
    previous: int | None = None
    n_iter = 0
    for n_iter in range(1, max_iter + 1):
        step = partial(iterate, workers, view, slices, distance)
        slices, moved, terms = workers.attempt(step, lambda: None)
        objective = squares + terms
        workers.tick("iterations", n_iter, max_iter)
        if not moved:
            break
        if previous is not None and previous - objective <= tol * previous and tol > 0:
            break
        previous = objective
    return Fit(slices, found, n_iter)


def iterate(
    workers: Workers, view: str, slices: list[Handle], distance: Distance
) -> tuple[list[Handle], bool, int]:
    """One iteration of Lloyd's: the new slices, whether anything moved, and the objective's terms."""
    partials = workers.points("assign_sums", view, *slices, returns=len(slices))
    if len(slices) == 1:
        partials = [(part,) for part in partials]
    updates = [
        workers.slice(i, "update", part, distance == "cosine", *(block[i] for block in partials), returns=2)
        for i, part in enumerate(slices)
    ]
    told = workers.get([news for _, news in updates])
    return [new for new, _ in updates], any(moved for moved, _ in told), sum(terms for _, terms in told)


def check_points(workers: Workers, exponent: int) -> int:
    """Checks that the points can be told apart on their grid; returns how many there are.

    Raises:
        CurationError: They lie too far from the origin for their spread, or a few outliers are so far out
            that the grid leaves no steps for the others.
    """
    told = workers.get(workers.points("describe"))
    count = sum(int(about.count) for about in told)
    squares = sum(about.squares for about in told)
    sums = np.sum([about.sums.astype(object) for about in told], axis=0)
    if sum(about.short for about in told) * 2 > count:
        raise CurationError(
            f"the longest embedding has a norm of about {2.0**exponent:.2g}, and more than half of them are "
            f"shorter than {2.0**exponent * SHORT:.2g}: too short to tell apart beside it; remove the "
            "outliers, or cluster with distance='cosine'"
        )
    # n^2 times the variance, an exact integer
    spread = count * squares - int(np.dot(sums, sums))
    if 0 < spread < count**2 * (SHORT * exact.UNIT) ** 2:
        rms = float(spread) ** 0.5 / count / exact.UNIT * 2.0**exponent
        raise CurationError(
            f"the points spread by {rms:.2g} around their mean but lie up to {2.0**exponent:.2g} from "
            "the origin, too far to tell them apart exactly: subtract their mean first, or cluster with "
            "distance='cosine'"
        )
    return count


def grid_rows(rows: NDArray[Any], distance: Distance) -> tuple[NDArray[np.float32], exact.Grid]:
    """Rows (n, d) on their grid; unit-normalised first where the distance is cosine.

    Raises:
        CurationError: The rows are not two-dimensional, are not finite, or (cosine) one is all zero.
    """
    check_distance(distance)
    if rows.ndim != 2 or 0 in rows.shape:
        raise CurationError(f"points must be a non-empty array of shape (n, d), not {rows.shape}")
    exponent = exact.pool_exponent([exact.grid_exponent(rows)])
    if distance == "cosine":
        if not (nonzero := np.any(rows, axis=1)).all():
            row = int(np.flatnonzero(~nonzero)[0])
            raise CurationError(f"row {row} is all zero and has no direction; drop it to cluster by cosine")
        rows, exponent = exact.normalize_rows(rows), 0
    grid = exact.Grid(exponent)
    return grid.encode(rows), grid


def check_distance(distance: str) -> None:
    """Refuses a distance that there is not."""
    if distance not in get_args(Distance):
        raise CurationError(f"there is no distance {distance!r}; there are {', '.join(get_args(Distance))}")


class KMeans:
    """k-means on an array in one process, with scikit-learn's names.

    Args:
        n_clusters: Number of clusters.
        max_iter: Most iterations.
        tol: Stop when an iteration lowers the objective by at most this share; 0 stops when nothing moves.
        distance: "euclidean", or "cosine" for spherical k-means.
        random_state: Seed of every hashed draw.
        assigner: How to look for nearest centroids; changes no result.

    Attributes:
        cluster_centers_: Centroids (k, d), float32; clusters that ended empty are left out.
        labels_: Cluster of each row (n,), int64.
        inertia_: Sum of squared distances to the nearest centroid.
        n_iter_: Iterations made.
    """

    def __init__(
        self,
        n_clusters: int = 8,
        *,
        max_iter: int = 50,
        tol: float = 0.0,
        distance: Distance = "euclidean",
        random_state: int = 0,
        assigner: Assigner | None = None,
    ) -> None:
        self.n_clusters = n_clusters
        self.max_iter = max_iter
        self.tol = tol
        self.distance: Distance = distance
        self.random_state = random_state
        self.assigner = assigner or Assigner()

    def fit(self, points: NDArray[Any], ids: Sequence[str] | None = None) -> Self:
        """Clusters rows (n, d) of any float dtype; `ids` (default: row numbers) name them for chance.

        Raises:
            CurationError: The input or a parameter is unfit.
        """
        rows, self._grid = grid_rows(np.asarray(points), self.distance)
        if not 1 <= self.n_clusters <= len(rows):
            raise CurationError(
                f"n_clusters is {self.n_clusters} for {len(rows)} points; choose 1 to {len(rows)}"
            )
        workers = LocalWorkers([PointBlock(rows, point_keys(len(rows), ids), self.assigner)])
        check_points(workers, self._grid.exponent)
        fit = fit_centroids(
            workers,
            EVERYTHING,
            self.n_clusters,
            place=(self.random_state, 1, 0),
            max_iter=self.max_iter,
            tol=self.tol,
            distance=self.distance,
        )
        slices, counts, inertia, _ = settle(workers, fit.slices)
        self._centroids: NDArray[np.float32] = np.concatenate(slices)
        self.cluster_centers_ = self._grid.decode(self._centroids)
        self.labels_: NDArray[np.int64] = workers.points("labels", np.arange(len(counts)), *slices)[0]
        self.inertia_ = inertia / exact.SQUARE_UNIT * 4.0**self._grid.exponent
        self.n_iter_ = fit.n_iter
        return self

    def predict(self, points: NDArray[Any]) -> NDArray[np.int64]:
        """Nearest cluster of each row (n, d), ties to the lower number.

        Raises:
            CurationError: The rows have another width than those fitted, or are not finite.
        """
        rows = np.asarray(points)
        if rows.ndim != 2 or rows.shape[1] != self._centroids.shape[1]:
            raise CurationError(
                f"points must be an array of shape (n, {self._centroids.shape[1]}), not {rows.shape}"
            )
        exact.grid_exponent(rows)  # names a row that is not finite
        if self.distance == "cosine":
            rows = exact.normalize_rows(rows)
        on_grid = self._grid.encode(rows)
        norms = np.sqrt(exact.squared_norms(on_grid))
        return self.assigner.nearest(on_grid, norms, Centroids(self._centroids))


def settle(
    workers: Workers, slices: list[Handle]
) -> tuple[list[Handle], NDArray[np.int64], int, NDArray[np.bool_]]:
    """Assigns every point and drops the clusters that got none.

    Returns:
        The slices that remain, the points (k,) of each cluster, the inertia in units of 2^-48, and
        which of the clusters were kept.
    """
    told = workers.get(workers.points("counts", *slices))
    counts: NDArray[np.int64] = np.sum([count for count, _ in told], axis=0)
    inertia = sum(part for _, part in told)
    keep = counts > 0
    if not keep.all():
        sizes = workers.get([workers.slice(i, "size", part) for i, part in enumerate(slices)])
        edges = np.cumsum(sizes)[:-1]
        kept = [
            (i, part, mask)
            for i, (part, mask) in enumerate(zip(slices, np.split(keep, edges), strict=True))
            if mask.any()
        ]
        slices = [workers.slice(i, "compress", part, mask) for i, part, mask in kept]
    return slices, counts[keep], inertia, keep


def point_keys(count: int, ids: Sequence[str] | None) -> NDArray[np.uint64]:
    """Keys (n, 2) of ids, or of the row numbers as text.

    Raises:
        CurationError: There are not as many ids as points, or two are equal.
    """
    names = [str(i) for i in range(count)] if ids is None else [str(i) for i in ids]
    if len(names) != count:
        raise CurationError(f"there are {len(names)} ids for {count} points; give one id a point")
    if len(set(names)) != count:
        twice = Counter(names).most_common(1)[0][0]
        raise CurationError(f"the id {twice!r} names two points; ids must differ")
    return keys_of(names)
