"""What FAISS is good at: exact neighbour lists of centroids, and approximate assignment to very many.

Import this module only where it is wanted: FAISS is an extra (`evenset[cpu]` or `evenset[gpu]`).
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curation import exact
from curation.assign import Centroids, Nearest
from curation.candidates import Candidates
from curation.errors import CurationError

try:
    import faiss
except ImportError as problem:
    raise CurationError("FAISS is not installed; install evenset[cpu], or evenset[gpu]") from problem

_ULP = 2.0**-24
_SPARE = 16  # neighbours found beyond those wanted, so that ties at the end can be settled among them
_GPU_MOST = 2048  # neighbours that an index on a GPU returns at most
_PROBED = 64  # rows whose float32 distances are checked
_SCORES = 4_000_000  # float64 scores in hand
_SEARCHED = 65_536  # rows a search: bounds what it holds


def neighbours(centroids: NDArray[np.float32], count: int) -> NDArray[np.int32]:
    """The nearest centroids of each, itself among them: exact, ties to the lower index.

    2 k k d float32 operations, on a GPU where FAISS sees one, holding k (count + 16) distances; float64
    for rows whose last neighbour is not clear.

    Args:
        centroids: Centroids (k, d) on the grid.
        count: Neighbours of each, at most k.

    Returns:
        Neighbours (k, count), ascending by index.

    Raises:
        CurationError: `count` is not within 1..k, or FAISS works in reduced precision here.
    """
    size = len(centroids)
    if not 1 <= count <= size:
        raise CurationError(f"{count} neighbours of {size} centroids were asked for; choose 1 to {size}")
    wanted = min(size, count + _SPARE)
    on_gpu = faiss.get_num_gpus() > 0 and wanted <= _GPU_MOST
    index: Any = faiss.IndexFlatL2(centroids.shape[1])
    if on_gpu:
        index = faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, index)
    index.add(centroids)
    errors = _distance_errors(centroids)
    out = np.empty((size, count), np.int32)
    for start in range(0, size, _SEARCHED):
        part = np.arange(start, min(size, start + _SEARCHED))
        found, labels = index.search(centroids[part], wanted)
        if start == 0:
            _probe(centroids, found, labels, errors)
        out[part] = _settled(centroids, part, found, labels, errors[part], count)
    return out


def _distance_errors(centroids: NDArray[np.float32]) -> NDArray[np.float64]:
    """What float32 squared distances from each centroid to any other err by at most (k,).

    |x|^2 + |y|^2 - 2 x.y, each a sum of d products in any order, and two additions.
    """
    steps = (centroids.shape[1] + 3) * _ULP
    norms = np.sqrt(exact.squared_norms(centroids))
    errors: NDArray[np.float64] = steps / (1 - steps) * (norms + norms.max()) ** 2 * (1 + 1e-3)
    return errors


def _probe(
    centroids: NDArray[np.float32],
    found: NDArray[np.float32],
    labels: NDArray[np.int64],
    errors: NDArray[np.float64],
) -> None:
    """Refuses distances that are off by more than float32's bound."""
    rows, places = np.nonzero(labels[:_PROBED] >= 0)
    true = exact.squared_distances(centroids, centroids, rows, labels[rows, places])
    worst = float((np.abs(found[rows, places] - true) / np.maximum(errors[rows], 1e-300)).max())
    if worst > 1:
        raise CurationError(
            f"FAISS's distances err by {worst:.1f} times float32's bound (a mode of reduced precision may be "
            "on); find neighbours without it"
        )


def _settled(
    centroids: NDArray[np.float32],
    rows: NDArray[np.int64],
    found: NDArray[np.float32],
    labels: NDArray[np.int64],
    errors: NDArray[np.float64],
    count: int,
) -> NDArray[np.int64]:
    """The nearest of each row, ascending by index, from approximate distances, nearest first."""
    out = labels[:, :count].copy()
    if labels.shape[1] == count:
        return np.sort(out, axis=1)  # every centroid there is
    distances = found.astype(np.float64)
    open_ = np.flatnonzero(distances[:, count] - distances[:, count - 1] <= 2 * errors)
    pairs = labels[open_]
    true = exact.squared_distances(
        centroids, centroids, np.repeat(rows[open_], pairs.shape[1]), pairs.ravel()
    ).reshape(pairs.shape)
    order = np.lexsort((pairs, true))
    out[open_] = np.take_along_axis(pairs, order[:, :count], 1)
    if labels.shape[1] < len(centroids):
        last = np.take_along_axis(true, order[:, count - 1 : count], 1)[:, 0]
        lost = open_[last >= distances[open_, -1] - errors[open_]]  # one that was not found may be as near
        out[lost] = _brute(centroids, rows[lost], count)
    return np.sort(out, axis=1)


def _brute(centroids: NDArray[np.float32], rows: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """The nearest of some rows by float64 scores, which are exact on the grid; ties to the lower index."""
    squares = exact.squared_norms(centroids)
    transposed = centroids.T.astype(np.float64)
    out = np.empty((len(rows), count), np.int64)
    step = max(1, _SCORES // len(centroids))
    for start in range(0, len(rows), step):
        scores = squares - 2 * (centroids[rows[start : start + step]].astype(np.float64) @ transposed)
        out[start : start + step] = np.argsort(scores, axis=1, kind="stable")[:, :count]
    return out


@dataclass(frozen=True)
class IvfAssigner:
    """Approximate assignment for very many centroids, in the place of `curation.assign.Assigner`.

    The centroids are filed in about 4 sqrt(k) lists, and a row looks through the nearest few. With 8 of
    them, rows that got their nearest centroid: all of 20,000 (k = 3,000 fitted to a mixture of as many
    Gaussians, d = 256) and .9978 (300 Gaussians, d = 64: objective +0.05 %); .90 where the centroids are
    mere points of such mixtures, as at the start of a fit. The same centroids give the same labels on one
    machine with one number of threads; the promise of one answer everywhere does not hold.

    Attributes:
        probes: Lists that a row looks through.
        lists: Lists; 0 takes 4 sqrt(k).
    """

    probes: int = 8
    lists: int = 0

    def nearest(
        self,
        rows: NDArray[np.float32],
        norms: NDArray[np.float64],
        centroids: Centroids,
        *,
        candidates: Candidates | None = None,
        groups: NDArray[np.int32] | None = None,
        seconds: bool = False,
    ) -> Nearest:
        """A near centroid of every row (n, d), most often the nearest.

        About 2 d (4 sqrt(k) + probes sqrt(k) / 4) operations a row.

        Args:
            rows: Rows (n, d) on the grid.
            norms: Not needed.
            centroids: Centroids (k, d) on the grid; their lists are kept for the next call.
            candidates: Not needed: the lists are the candidates.
            groups: Not needed.
            seconds: Find a second as well, -1 where the lists hold but one.
        """
        del norms, candidates, groups
        index = _filed(centroids.values, self.lists)
        index.nprobe = min(self.probes, index.nlist)
        wanted = min(1 + seconds, len(centroids.values))
        found = np.full((len(rows), 1 + seconds), -1, np.int32)
        for start in range(0, len(rows), _SEARCHED):
            part = slice(start, start + _SEARCHED)
            found[part, :wanted] = index.search(np.ascontiguousarray(rows[part], np.float32), wanted)[1]
        if len(missed := np.flatnonzero(found[:, 0] < 0)):  # the lists it looked through are empty
            index.nprobe = index.nlist
            found[missed, :wanted] = index.search(np.ascontiguousarray(rows[missed], np.float32), wanted)[1]
        return Nearest(found[:, 0].copy(), found[:, 1].copy() if seconds else None)


_kept: list[tuple[weakref.ref[NDArray[np.float32]], int, Any]] = []
"""The centroids that were filed last, and their index: every block of rows comes with the same ones."""


def _filed(centroids: NDArray[np.float32], lists: int) -> Any:
    """An index of the centroids (k, d) in lists, trained with a fixed seed; on a GPU where there is one."""
    if _kept and _kept[0][0]() is centroids and _kept[0][1] == lists:
        return _kept[0][2]
    size, dimensions = centroids.shape
    count = min(lists or round(4 * size**0.5), max(1, size // 2))
    index: Any = faiss.IndexIVFFlat(faiss.IndexFlatL2(dimensions), dimensions, count)
    index.cp.seed = 1
    index.cp.niter = 5
    index.cp.min_points_per_centroid = 1
    index.train(centroids)
    if faiss.get_num_gpus() > 0:
        index = faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, index)
    index.add(centroids)
    _kept[:] = [(weakref.ref(centroids), lists, index)]
    return index
