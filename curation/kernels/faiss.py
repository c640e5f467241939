"""What FAISS is good at: approximate assignment to very many centroids.

Import this module only where it is wanted: FAISS is an extra (`evenset[cpu]` or `evenset[gpu]`).
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curation.assign import Centroids, Nearest
from curation.candidates import Candidates
from curation.errors import CurationError

try:
    import faiss
except ImportError as problem:
    raise CurationError("FAISS is not installed; install evenset[cpu], or evenset[gpu]") from problem

_SEARCHED = 65_536  # rows a search: bounds what it holds


@dataclass(frozen=True)
class IvfAssigner:
    """Approximate assignment for very many centroids, in the place of `curation.assign.Assigner`.

    The centroids are filed in about 4 sqrt(k) lists, and a row looks through the nearest few. Most get
    their nearest centroid; which share did, `curation.recall` tells of every fit. The same centroids give
    the same labels on one machine with one number of threads; the promise of one answer everywhere does not
    hold.

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
