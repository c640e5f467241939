"""A fit as `KMeans` makes it, over points spread, ordered and held in any way."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from curation.assign import Assigner
from curation.block import PointBlock
from curation.chance import keys_of
from curation.descent import Plan, View
from curation.fit import directions_of, fit_centroids, labelled, without_empty
from curation.points import EVERYTHING
from curation.rows import ResidentRows, Rows, StoredRows
from curation.workers import LocalWorkers


class Result(NamedTuple):
    """Centroids on the grid, labels by the number of the point, inertia in units of 2^-48, iterations."""

    centroids: NDArray[np.float32]
    labels: NDArray[np.int64]
    inertia: int
    n_iter: int

    def __eq__(self, other: object) -> bool:
        return isinstance(other, tuple) and all(map(np.array_equal, self, other))

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = None  # type: ignore[assignment]


class Counted(LocalWorkers):
    """Counts what a fit asks for."""

    def __init__(self, blocks: list[PointBlock], n_slices: int) -> None:
        super().__init__(blocks, n_slices)
        self.asked: dict[str, int] = {}

    def points(self, method: str, *args: Any, **how: Any) -> list[Any]:
        restricted = method == "assign" and args[2] is not None
        name = "restricted" if restricted else method
        self.asked[name] = self.asked.get(name, 0) + 1
        return super().points(method, *args, **how)

    def slice(self, index: int, function: str, *args: Any, returns: int = 1) -> Any:
        self.asked[function] = self.asked.get(function, 0) + 1
        return super().slice(index, function, *args, returns=returns)


def fitted(
    rows: NDArray[np.float32],
    n_clusters: int,
    *,
    blocks: int = 1,
    slices: int = 1,
    shuffled: int | None = None,
    assigner: Assigner | None = None,
    folder: Path | None = None,
    chunk_rows: int = 10**9,
    weights: NDArray[np.int64] | None = None,
    asked: dict[str, int] | None = None,
    exactly: bool = True,
    **plan: Any,
) -> Result:
    """Fits rows on the grid.

    Args:
        rows: The rows (n, d).
        n_clusters: Clusters.
        blocks: Blocks of points.
        slices: Slices of centroids.
        shuffled: Seed of the order of the rows; None: as they are.
        assigner: How to look.
        folder: Where to keep the rows in files; None: in memory.
        chunk_rows: Rows of a file that a pass holds at a time.
        weights: Weights (n,).
        asked: Filled with how often each method was called.
        exactly: Label by full scans; else as between two resampling steps.
        plan: See `Plan`.
    """
    order = np.arange(len(rows))
    if shuffled is not None:
        order = np.random.default_rng(shuffled).permutation(order)
    keys = keys_of(str(i) for i in range(len(rows)))
    held = []
    shares = np.array_split(order, blocks)
    for number, share in enumerate(shares):
        mine: Rows = ResidentRows(rows[share])
        if folder is not None:
            path = folder / f"{number}.rows"
            path.write_bytes(rows[share].tobytes())
            mine = StoredRows(path, "<f4", rows.shape[1], chunk_bytes=4 * rows.shape[1] * chunk_rows)
        heavy = None if weights is None else weights[share]
        held.append(PointBlock(mine, keys[share], assigner, heavy))
    workers = Counted(held, slices)
    view = View(workers, EVERYTHING, len(rows), (0, 1, 0), directions_of(workers, (0, 1)))
    fit = fit_centroids(view, n_clusters, Plan(**plan))
    own = labelled(view, fit.slices, fit.n_clusters, exactly=exactly)
    kept, _, inertia, keep = without_empty(workers, own, fit.slices)
    assert keep.all() or not exactly
    labels = np.empty(len(rows), np.int64)
    labels[order] = np.concatenate([part.first for part in own])
    if asked is not None:
        asked.update(workers.asked)
    return Result(np.concatenate(kept), labels, inertia, fit.n_iter)
