"""Nearest centroids, exactly: float32 products decide what is clear, float64 the close calls.

The score of centroid c for row x is s = |c|^2 / 2 - x.c, smallest for the nearest centroid. Float32
computes it with an error of at most

    B = gamma_d |x||c| + u |c|^2 / 2 + 2 u (|x||c| + |c|^2 / 2 + t),      u = 2^-24,

(the product, the rounding of |c|^2 / 2, the subtraction, and the addition of a t >= x.c that makes it
positive). Every centroid whose score lies within 2B of a row's best is compared again in exact float64
arithmetic, ties going to the lower index; and within 2B of the second best, where that is asked for. So
labels are those of infinite precision, whatever the matrix product, its tiles or its threads.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from curation import exact, sketch
from curation.candidates import Candidates, Lists
from curation.exact import squared_norms
from curation.kernels import native, settling
from curation.kernels.cpu import AUTO, product_bound, route
from curation.kernels.threads import allowed, each

if TYPE_CHECKING:
    import torch  # 2 s to import: only for those who compute with it

    from curation.device import Device

    Chunk: TypeAlias = NDArray[np.float32] | torch.Tensor
    """Rows (n, d) on the grid where an assigner computes: here, or on its device."""

FAR = 8.0
"""More than any squared distance on the grid: that of a point that has no second nearest centroid."""

_ULP = 2.0**-24
_TILE_SCORES = 1_500_000  # float32 scores a tile: 6 MB, so that a tile is still in cache when it is read
_LEAST_ROWS = 128  # rows a tile at least: below it a product runs at half its speed
_MOST_ROWS = 4096  # so that every thread gets some
_PAIR_ROWS = 4096  # rows that a thread takes where each is compared with two centroids
_NONE = np.empty(0, np.int32)


@dataclass(frozen=True)
class Nearest:
    """Nearest candidates of some rows.

    Attributes:
        labels: The nearest candidate of each row (n,), int32.
        seconds: The second nearest (n,), int32, -1 where there is but one; None where not asked for.
    """

    labels: NDArray[np.int32]
    seconds: NDArray[np.int32] | None


@dataclass(frozen=True)
class Centroids:
    """Centroids (k, d) on the grid with what every tile needs of them; devices keep theirs in `kept`."""

    values: NDArray[np.float32]
    half_squares: NDArray[np.float32] = field(init=False)
    norm: float = field(init=False)
    kept: dict[Any, Any] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        squares = squared_norms(self.values)
        object.__setattr__(self, "half_squares", (squares / 2).astype(np.float32))
        object.__setattr__(self, "norm", float(np.sqrt(squares.max(initial=0.0))))


@dataclass(frozen=True)
class Assigner:
    """How to look for the nearest centroid. Only speed depends on it, never a label.

    Attributes:
        matmul: Route of the float32 product, one of `curation.kernels.cpu.ROUTES`; "auto": the fastest.
        tile: Rows a tile; 0 chooses the number whose scores fit the cache.
        recheck: Settle close calls in float64. Off, labels depend on tiles and threads: for tests alone.
        threads: Threads of products, distances and sums; 0 takes as many as the process may use, as does
            what else is done point by point.
        device: Where it computes, see `curation.device.find`: "cpu", "cuda" or "auto".
    """

    matmul: str = AUTO
    tile: int = 0
    recheck: bool = True
    threads: int = 0
    device: str = "cpu"

    @property
    def on(self) -> Device | None:
        """The device that it computes on; None for the kernels of this machine's CPU.

        Raises:
            CurationError: There is no such device here.
        """
        if self.device == "cpu":
            return None
        from curation.device import find

        return find(self.device)

    def tile_rows(self, n_candidates: int) -> int:
        """Rows of a tile of scores against this many candidates."""
        return self.tile or min(_MOST_ROWS, max(_LEAST_ROWS, _TILE_SCORES // max(1, n_candidates)))

    @property
    def n_threads(self) -> int:
        """Threads that it uses."""
        return self.threads or allowed()

    def nearest(
        self,
        rows: Chunk,
        norms: NDArray[np.float64],
        centroids: Centroids,
        *,
        candidates: Candidates | Lists | None = None,
        groups: NDArray[np.int32] | None = None,
        seconds: bool = False,
    ) -> Nearest:
        """The nearest candidate of every row, ties to the lower index.

        2 d operations a pair of row and candidate. A full scan reads the rows once and the centroids
        once a tile; a restricted one copies each row once, to lie beside those of its group.

        Args:
            rows: Rows (n, d) on the grid.
            norms: Their Euclidean norms (n,).
            centroids: Centroids (k, d) on the grid.
            candidates: Which centroids a group of rows looks at; None: all of them; `Lists`: a near one
                of all, most often the nearest, and no second.
            groups: Group (n,) of each row, -1 to look at all centroids; None: all rows look at all.
            seconds: Find the second nearest as well.
        """
        if isinstance(candidates, Lists):
            from curation.kernels import faiss  # an extra

            return Nearest(faiss.near(as_array(rows), centroids.values, candidates.probes), None)
        if self.on is not None:
            near = as_tensor(rows, self.on)
            return Nearest(*self.on.nearest(near, norms, centroids, candidates, groups, seconds))
        rows = as_array(rows)
        shifts = score_shift(norms, centroids.norm, rows.shape[1])
        margins = self._margins(norms, centroids.norm, rows.shape[1])
        labels = np.empty(len(rows), np.int32)
        others = np.empty(len(rows) if seconds else 0, np.int32)
        call = _Call(self, rows, shifts, margins, centroids, candidates, labels, others)
        if candidates is None or groups is None:
            each(self.n_threads, call.full, spans(len(rows), self.tile_rows(len(centroids.values))))
        else:
            index, edges = native.sort_by_label(groups + np.int32(1), len(candidates.offsets))
            work = call.restricted_work(index, edges)
            each(self.n_threads, call.restricted, work)
        return Nearest(labels, others if seconds else None)

    def squared_distances(
        self,
        rows: Chunk,
        centroids: Centroids,
        labels: NDArray[np.int32],
        index: NDArray[np.int64] | None = None,
    ) -> NDArray[np.float64]:
        """Exact squared distances of rows (n, d), or of those of an index, to their centroids (m,).

        Infinite for a label of -1.
        """
        if self.on is not None:
            return self.on.squared_distances(as_tensor(rows, self.on), centroids, labels, index)
        return exact.squared_distances(as_array(rows), centroids.values, index, labels, self.n_threads)

    def sides(
        self,
        rows: Chunk,
        index: NDArray[np.int64],
        pair: NDArray[np.int32],
        first: Centroids,
        second: Centroids,
    ) -> NDArray[np.int32]:
        """2 p where a row of an index (m,) is at least as close to first[p] as to second[p], else 2 p + 1.

        p is the row's entry of `pair` (m,).
        """
        if self.on is not None:
            return self.on.sides(as_tensor(rows, self.on), index, pair, first, second)
        out, here = np.empty(len(index), np.int32), as_array(rows)

        def fill(spans: Iterator[tuple[int, int]]) -> None:
            for low, high in spans:
                mine = slice(low, high)
                native.sides(here, index[mine], pair[mine], first.values, second.values, out[mine])

        each(self.n_threads, fill, spans(len(index), _PAIR_ROWS))
        return out

    def cluster_sums(
        self, rows: Chunk, labels: NDArray[np.int32], n_clusters: int, weights: NDArray[np.int64] | None
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """`curation.exact.cluster_sums`."""
        if self.on is not None:
            return self.on.cluster_sums(as_tensor(rows, self.on), labels, n_clusters, weights)
        return exact.cluster_sums(as_array(rows), labels, n_clusters, weights, self.n_threads)

    def spread_and_loss(
        self,
        rows: Chunk,
        centroids: Centroids,
        labels: NDArray[np.int32],
        seconds: NDArray[np.int32],
        weights: NDArray[np.int64] | None,
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """`Partial.spread` and `Partial.loss` (k, 2) of rows, from their nearest and second nearest (n,)."""
        if self.on is not None:
            return self.on.spread_and_loss(as_tensor(rows, self.on), centroids, labels, seconds, weights)
        near = self.squared_distances(rows, centroids, labels)
        far = np.minimum(self.squared_distances(rows, centroids, seconds), FAR)
        k = len(centroids.values)
        return exact.limb_sums(near, labels, k, weights), exact.limb_sums(far - near, labels, k, weights)

    def project(self, rows: Chunk, directions: NDArray[np.float64]) -> NDArray[np.float32]:
        """`curation.sketch.project`."""
        if self.on is not None:
            return self.on.project(as_tensor(rows, self.on), directions)
        return sketch.project(as_array(rows), directions, self.n_threads)

    def _margins(self, norms: NDArray[np.float64], norm: float, dimensions: int) -> NDArray[np.float32]:
        if not self.recheck:
            return np.full(len(norms), -1, np.float32)
        margins = (2 * score_bound(norms, norm, dimensions)).astype(np.float32)
        return np.nextafter(margins, np.float32(np.inf))


@dataclass(frozen=True)
class _Call:
    """One call of `Assigner.nearest`: what its tiles share."""

    assigner: Assigner
    rows: NDArray[np.float32]
    shifts: NDArray[np.float32]
    margins: NDArray[np.float32]
    centroids: Centroids
    candidates: Candidates | None
    labels: NDArray[np.int32]
    seconds: NDArray[np.int32]

    def full(self, spans: Iterator[tuple[int, int]]) -> None:
        """Settles runs of rows against all centroids."""
        values, half = self.centroids.values, self.centroids.half_squares
        matmul = route(self.assigner.matmul, values.shape[1])
        every = np.arange(len(values), dtype=np.int32)
        scores = np.empty(0, np.float32)
        for low, high in spans:
            block = self.rows[low:high]
            scores = room(scores, len(block) * len(values))
            products = matmul(block, values.T, scores[: len(block) * len(values)].reshape(len(block), -1))
            settling.settle(
                products,
                half,
                every,
                block,
                values,
                self.shifts[low:high],
                self.margins[low:high],
                self.labels[low:high],
                self.seconds[low:high],
            )

    def restricted_work(
        self, index: NDArray[np.int64], edges: NDArray[np.int64]
    ) -> Iterator[tuple[NDArray[np.int32], NDArray[np.int64]]]:
        """Pairs of candidates and rows: a group, or a part of a large one."""
        assert self.candidates is not None
        offsets, members = self.candidates.offsets, self.candidates.members
        every = np.arange(len(self.centroids.values), dtype=np.int32)
        for group in np.flatnonzero(np.diff(edges)):
            mine = members[offsets[group - 1] : offsets[group]] if group else every
            step = self.assigner.tile_rows(len(mine))
            for start in range(edges[group], edges[group + 1], step):
                yield mine, index[start : min(edges[group + 1], start + step)]

    def restricted(self, work: Iterator[tuple[NDArray[np.int32], NDArray[np.int64]]]) -> None:
        """Settles rows of a group against its candidates."""
        values, half = self.centroids.values, self.centroids.half_squares
        d = values.shape[1]
        matmul = route(self.assigner.matmul, d)
        scores = block = others = np.empty(0, np.float32)
        want = len(self.seconds) > 0
        for mine, index in work:
            scores = room(scores, len(index) * len(mine))
            block = room(block, len(index) * d)
            others = room(others, len(mine) * d)
            near = block[: len(index) * d].reshape(-1, d)
            native.gather(self.rows, index, near)
            looked = others[: len(mine) * d].reshape(-1, d)
            native.gather(values, mine, looked)
            products = matmul(near, looked.T, scores[: len(index) * len(mine)].reshape(len(index), -1))
            labels = np.empty(len(index), np.int32)
            seconds = np.empty(len(index), np.int32) if want else _NONE
            close = self.shifts[index], self.margins[index]
            settling.settle(products, half[mine], mine, near, values, *close, labels, seconds)
            self.labels[index] = labels
            if want:
                self.seconds[index] = seconds


def score_shift(norms: NDArray[np.float64], centroid_norm: float, dimensions: int) -> NDArray[np.float32]:
    """The t of the module's docstring for rows of these norms: at least any product with a centroid."""
    return (norms * centroid_norm * (1.001 + 2 * product_bound(dimensions))).astype(np.float32)


def score_bound(norms: NDArray[np.float64], centroid_norm: float, dimensions: int) -> NDArray[np.float64]:
    """B of the module's docstring for rows of these norms, rounded up."""
    product = norms * centroid_norm
    half = centroid_norm**2 / 2
    shift = score_shift(norms, centroid_norm, dimensions)
    error = product_bound(dimensions) * product + _ULP * half + 2 * _ULP * (product + half + shift)
    return error * (1 + 1e-3)


def spans(n: int, rows: int) -> list[tuple[int, int]]:
    """Runs of so many rows of n, as (first, beyond)."""
    return [(start, min(n, start + rows)) for start in range(0, n, rows)]


def as_array(rows: Chunk) -> NDArray[np.float32]:
    """Rows as an array of this process."""
    return rows if isinstance(rows, np.ndarray) else rows.float().cpu().numpy()


def as_tensor(rows: Chunk, device: Device) -> torch.Tensor:
    """Rows on a device."""
    return device.tensor(rows) if isinstance(rows, np.ndarray) else rows


def room(buffer: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """The buffer, or a larger one."""
    return buffer if len(buffer) >= size else np.empty(size, np.float32)
