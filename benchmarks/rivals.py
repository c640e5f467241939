"""Ours and the others behind one signature, each told to do the same work on all of the data.

Everyone trains on float32 rows with a seed and a number of threads. Where a library would sample the
data, stop early or sit on a GPU by default, it is told not to, unless its name says "defaults".
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curation import KMeans

ROUNDS = 25
_EVERY_POINT = 1_000_000_000

Rows = NDArray[np.float32]


class Stopwatch:
    """Wall-clock seconds since it was made, without its pauses."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._stopped: float | None = None

    @property
    def seconds(self) -> float:
        """Seconds until now, or until the pause that is on."""
        return (time.perf_counter() if self._stopped is None else self._stopped) - self._start

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Time that does not count."""
        self._stopped = time.perf_counter()
        yield
        self._start += time.perf_counter() - self._stopped
        self._stopped = None


@dataclass(frozen=True)
class Trained:
    """What training left.

    Attributes:
        centroids: The final ones (k, d).
        n_iter: Iterations made, or asked for where the method does not tell.
        curve: Seconds and centroids after each iteration, where the method tells them.
    """

    centroids: NDArray[Any]
    n_iter: int
    curve: list[tuple[float, Rows]] = field(default_factory=list)


@dataclass(frozen=True)
class Method:
    """A way to find centroids.

    Attributes:
        name: Its name on the command line and in tables.
        package: The module it comes with.
        train: Takes rows, clusters, seed, threads and a watch that it may pause.
        slow: Left out of the large cases unless asked for.
    """

    name: str
    package: str
    train: Callable[[Rows, int, int, int, Stopwatch], Trained]
    slow: bool = False


def ours(rows: Rows, k: int, seed: int, _: int, watch: Stopwatch) -> Trained:
    """This project's k-means as it comes."""
    curve: list[tuple[float, Rows]] = []

    def keep(_: int, centroids: Rows) -> None:
        with watch.paused():
            curve.append((watch.seconds, np.array(centroids, np.float32)))

    fitted = KMeans(k, random_state=seed, callback=keep).fit(rows)
    return Trained(fitted.cluster_centers_, fitted.n_iter_, curve)


def greedy(rows: Rows, k: int, seed: int, _: int, __: Stopwatch) -> Trained:
    """Greedy k-means++ and 50 exact iterations: what quality is measured against."""
    fitted = KMeans(k, algorithm="lloyd", init="k-means++", max_iter=50, tol=0.0, random_state=seed).fit(rows)
    return Trained(fitted.cluster_centers_, fitted.n_iter_)


def faiss_kmeans(rows: Rows, k: int, seed: int, threads: int, _: Stopwatch) -> Trained:
    """The class faiss.Kmeans on the CPU: random rows to start with, as is its default."""
    import faiss

    return _faiss(faiss.Kmeans, rows, k, seed, threads)


def faiss_super(rows: Rows, k: int, seed: int, threads: int, _: Stopwatch) -> Trained:
    """The class faiss.SuperKmeans: the same with pruned distances."""
    import faiss

    return _faiss(faiss.SuperKmeans, rows, k, seed, threads)


def _faiss(kind: Any, rows: Rows, k: int, seed: int, threads: int) -> Trained:
    import faiss

    faiss.omp_set_num_threads(threads)
    every = {"max_points_per_centroid": _EVERY_POINT, "min_points_per_centroid": 1}
    model = kind(rows.shape[1], k, niter=ROUNDS, seed=seed, **every)
    model.train(rows)
    return Trained(model.centroids, len(model.obj))


def superkmeans_flat(rows: Rows, k: int, seed: int, threads: int, _: Stopwatch) -> Trained:
    """The package superkmeans, in one level."""
    return _superkmeans(rows, k, seed, threads, hierarchical=False, iters=ROUNDS, **_THOROUGH)


def superkmeans_hierarchical(rows: Rows, k: int, seed: int, threads: int, _: Stopwatch) -> Trained:
    """The package superkmeans by way of coarse clusters: 10 coarse, 10 fine and 5 refining rounds."""
    rounds = {"iters_mesoclustering": 10, "iters_fineclustering": 10, "iters_refinement": 5}
    return _superkmeans(rows, k, seed, threads, hierarchical=True, **rounds, **_THOROUGH)


def superkmeans_defaults(rows: Rows, k: int, seed: int, threads: int, _: Stopwatch) -> Trained:
    """The same as it comes: 3 coarse and 5 fine rounds, early stops."""
    rounds = {"iters_mesoclustering": 3, "iters_fineclustering": 5, "iters_refinement": 0}
    return _superkmeans(rows, k, seed, threads, hierarchical=True, **rounds)


_THOROUGH = {
    "sampling_fraction": 1.0,
    "max_points_per_cluster": _EVERY_POINT,
    "early_termination": False,
}


def _superkmeans(rows: Rows, k: int, seed: int, threads: int, **options: Any) -> Trained:
    import superkmeans

    model = superkmeans.SuperKMeans(k, rows.shape[1], n_threads=threads, seed=seed, **options)
    centroids = model.train(rows)
    return Trained(centroids, sum(rounds for name, rounds in options.items() if name.startswith("iters")))


def sklearn_lloyd(rows: Rows, k: int, seed: int, _: int, __: Stopwatch) -> Trained:
    """scikit-learn's KMeans, one greedy k-means++ start."""
    from sklearn.cluster import KMeans as Theirs

    fitted = Theirs(k, init="k-means++", n_init=1, max_iter=ROUNDS, tol=0.0, random_state=seed).fit(rows)
    return Trained(fitted.cluster_centers_, fitted.n_iter_)


def sklearn_minibatch(rows: Rows, k: int, seed: int, _: int, __: Stopwatch) -> Trained:
    """scikit-learn's MiniBatchKMeans with its defaults and one start."""
    from sklearn.cluster import MiniBatchKMeans

    fitted = MiniBatchKMeans(k, n_init=1, random_state=seed).fit(rows)
    return Trained(fitted.cluster_centers_, fitted.n_iter_)


def fastkmeans(rows: Rows, k: int, seed: int, _: int, __: Stopwatch) -> Trained:
    """The package fastkmeans, on the CPU."""
    from fastkmeans import FastKMeans

    model = FastKMeans(rows.shape[1], k, niter=ROUNDS, gpu=False, seed=seed)
    model.train(rows)
    return Trained(model.centroids, ROUNDS)


OURS, GREEDY, STRETCH = "ours", "greedy", "superkmeans-defaults"
METHODS = {
    method.name: method
    for method in (
        Method(OURS, "curation", ours),
        Method("faiss", "faiss", faiss_kmeans),
        Method("faiss-super", "faiss", faiss_super),
        Method("superkmeans-flat", "superkmeans", superkmeans_flat),
        Method("superkmeans-10/10/5", "superkmeans", superkmeans_hierarchical),
        Method(STRETCH, "superkmeans", superkmeans_defaults),
        Method("fastkmeans", "fastkmeans", fastkmeans),
        Method("minibatch", "sklearn.cluster", sklearn_minibatch),
        Method("sklearn", "sklearn.cluster", sklearn_lloyd, slow=True),
        Method(GREEDY, "curation", greedy),
    )
}
