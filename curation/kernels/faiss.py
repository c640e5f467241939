"""What FAISS is good at: approximate assignment to very many centroids.

Import this module only where it is wanted: FAISS is an extra (`evenset[cpu]` or `evenset[gpu]`).
"""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curation.errors import CurationError

try:
    import faiss
except ImportError as problem:
    raise CurationError("FAISS is not installed; install evenset[cpu], or evenset[gpu]") from problem

_SEARCHED = 65_536  # rows a search: bounds what it holds


def near(rows: NDArray[np.float32], centroids: NDArray[np.float32], probes: int) -> NDArray[np.int32]:
    """A near centroid of every row (n,), most often the nearest: approximate assignment to very many.

    The centroids are filed in about 4 sqrt(k) lists, and a row looks through the nearest few: some
    2 d (4 sqrt(k) + probes sqrt(k) / 4) operations a row. Most get their nearest centroid; which share did,
    `curation.recall` tells of every fit. The same centroids give the same labels on one machine with one
    number of threads; the promise of one answer everywhere does not hold.

    Args:
        rows: Rows (n, d) on the grid.
        centroids: Centroids (k, d) on the grid; their lists are kept for the next call.
        probes: Lists that a row looks through.
    """
    index = _filed(centroids)
    index.nprobe = min(probes, index.nlist)
    found = np.empty(len(rows), np.int32)
    for start in range(0, len(rows), _SEARCHED):
        part = slice(start, start + _SEARCHED)
        found[part] = index.search(np.ascontiguousarray(rows[part], np.float32), 1)[1][:, 0]
    if len(missed := np.flatnonzero(found < 0)):  # the lists it looked through are empty
        index.nprobe = index.nlist
        found[missed] = index.search(np.ascontiguousarray(rows[missed], np.float32), 1)[1][:, 0]
    return found


_kept: list[tuple[weakref.ref[NDArray[np.float32]], Any]] = []
"""The centroids that were filed last, and their index: every block of rows comes with the same ones."""


def _filed(centroids: NDArray[np.float32]) -> Any:
    """An index of the centroids (k, d) in lists, trained with a fixed seed; on a GPU where there is one."""
    if _kept and _kept[0][0]() is centroids:
        return _kept[0][1]
    size, dimensions = centroids.shape
    count = min(round(4 * size**0.5), max(1, size // 2))
    index: Any = faiss.IndexIVFFlat(faiss.IndexFlatL2(dimensions), dimensions, count)
    index.cp.seed = 1
    index.cp.niter = 5
    index.cp.min_points_per_centroid = 1
    index.train(centroids)
    if faiss.get_num_gpus() > 0:
        index = faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, index)
    index.add(centroids)
    _kept[:] = [(weakref.ref(centroids), index)]
    return index
