"""Nearest centroids, squared distances and sums on a device: exact, and the same as on a CPU.

Float16 products decide what is clear (`curation.kernels.halves` bounds their scores by B): every candidate
within 2B of a row's best score, or of its second best where that is asked for, is compared again in
float64, which is exact on the grid in any order, ties to the lower index. Most close calls are between
the best two; rows that have a third within reach are scored once more, to list all that are.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache, partial
from typing import TYPE_CHECKING, Literal, get_args

import torch

from curation.errors import CurationError
from curation.kernels.halves import (
    NOTHING,
    Halves,
    Kernel,
    Spans,
    as_they_are,
    halve_centroids,
    halve_rows,
    padded_members,
    rows_in_hand,
    spans,
)

if TYPE_CHECKING:
    from curation.candidates import Candidates

Backend = Literal["triton", "torch"]

_UNIT = 2.0**24  # grid steps in 1.0
_ROWS = 1 << 24  # rows scored at a time: bounds what lies beside them
_COPIED = 1 << 22  # the same where they must first be copied to float16
_SCORES = 1 << 26  # scores in hand without Triton: 256 MB
_EXACT_ROWS = 1 << 28  # rows of norm 65/64 whose sum stays below 2^53 grid steps
_SUM_ROWS = 256  # rows of a cluster that one program adds up
_NOBODY = torch.iinfo(torch.int64).max


def nearest(
    rows: torch.Tensor,
    norms: torch.Tensor,
    centroids: torch.Tensor,
    *,
    candidates: Candidates | None = None,
    groups: torch.Tensor | None = None,
    seconds: bool = False,
    backend: Backend = "triton",
    halves: Halves | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The nearest candidate of every row, and the second nearest, exactly, ties to the lower index.

    2 d operations a pair of row and candidate, in float16 on the tensor cores. Beside the rows it holds
    64 bytes a row of 16 million at a time, or of 4 million and their float16 copy where they are float32 or
    padded, and a float16 copy of the centroids.

    Args:
        rows: Rows (n, d) on the grid, float16 or float32.
        norms: Their Euclidean norms (n,), float64, on the same device.
        centroids: Centroids (k, d) on the grid, float32, on the same device.
        candidates: Which centroids a group of rows looks at; None: all of them.
        groups: Group (n,) of each row, int32, -1 to look at all centroids; None: all rows look at all.
        seconds: Find the second nearest as well.
        backend: "triton", or "torch" without the fused kernel.
        halves: The centroids in float16, where they are at hand.

    Returns:
        The nearest (n,) and, where asked for, the second nearest (n,), -1 where there is but one
        candidate; int32.

    Raises:
        CurationError: There is no such backend, or its products err beyond their bound on this device.
    """
    halves = halves or halve_centroids(centroids)
    kernel = probed(backend, halves.values.shape[1], rows.device)
    members = offsets = None
    if candidates is not None and groups is not None:
        members = torch.as_tensor(candidates.members, device=rows.device)
        offsets = torch.as_tensor(candidates.offsets, device=rows.device)
        members, offsets = padded_members(members, offsets, kernel.centroids, halves.size)
    labels = torch.empty(len(rows), dtype=torch.int32, device=rows.device)
    others = torch.empty_like(labels)
    step = _ROWS if as_they_are(rows) else min(_ROWS, _COPIED)
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        mine = None if groups is None or members is None else groups[part]
        turn = _Turn(backend, kernel, halves, rows[part], norms[part], centroids, mine, members, offsets)
        labels[part], others[part] = turn.nearest(seconds)
    return labels, others if seconds else None


def squared_distances(
    rows: torch.Tensor,
    centroids: torch.Tensor,
    labels: torch.Tensor,
    index: torch.Tensor | None = None,
    *,
    backend: Backend = "triton",
) -> torch.Tensor:
    """Exact squared distances of rows (n, d), or of those of an index, to their centroids; (m,), float64.

    Reads every row once, and a centroid for each. A label of -1 stands for any centroid.
    """
    out = torch.empty(len(labels), dtype=torch.float64, device=rows.device)
    if backend == "triton":
        from curation.kernels import triton_exact

        triton_exact.pair_distances(rows, centroids, index, labels, out)
        return out
    block = rows_in_hand(rows.shape[1])
    for start in range(0, len(out), block):
        part = slice(start, start + block)
        left = rows[part] if index is None else rows[index[part]]
        out[part] = (left.double() - centroids[labels[part].long()]).square_().sum(dim=1)
    return out


def cluster_sums(
    rows: torch.Tensor, labels: torch.Tensor, n_clusters: int, *, backend: Backend = "triton"
) -> tuple[torch.Tensor, torch.Tensor]:
    """Exact sums (k, d) of the rows of each cluster in steps of 2^-24, and their counts (k,), int64.

    Additions are of float64 numbers of fewer than 2^53 steps (2^28 rows of norm 65/64 reach 2^52.1), so the
    order in which the device makes them does not matter. Triton sorts the labels and reads every row once.
    """
    counts = torch.bincount(labels, minlength=n_clusters)
    sums = torch.zeros((n_clusters, rows.shape[1]), dtype=torch.int64, device=rows.device)
    for start in range(0, len(rows), _EXACT_ROWS):
        part = slice(start, start + _EXACT_ROWS)
        found = torch.zeros(sums.shape, dtype=torch.float64, device=rows.device)
        if backend == "triton":
            from curation.kernels import triton_exact

            some = rows[part].contiguous()
            index = torch.arange(len(some), device=rows.device)
            triton_exact.add_rows(some, spans(index, labels[part], _SUM_ROWS), found)
        else:
            block = rows_in_hand(rows.shape[1])
            for values, where in zip(
                torch.split(rows[part], block), torch.split(labels[part], block), strict=True
            ):
                found.index_add_(0, where.long(), values.double())
        sums += (found * _UNIT).long()
    return sums, counts


def gains(
    rows: torch.Tensor,
    squares: torch.Tensor,
    distances: torch.Tensor,
    weights: torch.Tensor | None,
    centroids: torch.Tensor,
    *,
    backend: Backend = "triton",
    halves: Halves | None = None,
) -> torch.Tensor:
    """By how much centroids would lower the squared distances of rows: `curation.nearer.gains`, (2, m).

    2 d operations a pair in float16; the pairs that may gain, once more in float64.

    Args:
        rows: Rows (n, d) on the grid, float16 or float32.
        squares: Their exact squared norms (n,), float64.
        distances: Their exact squared distances (n,) so far, finite.
        weights: Whole-numbered weights (n,), int64; None: all one.
        centroids: Centroids (m, d) on the grid, float32.
        backend: "triton", or "torch" without the fused kernel.
        halves: The centroids in float16, where they are at hand.
    """
    halves = halves or halve_centroids(centroids)
    kernel = probed(backend, halves.values.shape[1], rows.device)
    out = torch.zeros((2, len(centroids)), dtype=torch.int64, device=rows.device)
    for start in range(0, len(rows), _COPIED):
        part = slice(start, start + _COPIED)
        now, norms = distances[part], squares[part].sqrt()
        turn = _Turn(backend, kernel, halves, rows[part], norms, centroids, None, None, None)
        # |x - c|^2 < D where |c|^2 / 2 - x.c < (D - |x|^2) / 2
        for pair_rows, pair_centroids in turn.below(
            (now - squares[part]) / 2 + _along(rows[part], halves.shift)
        ):
            gained = (now[pair_rows] - turn.distances(pair_centroids, pair_rows)).clamp_(min=0)
            units = gained.mul_(_UNIT**2).long()
            limbs = torch.stack([units >> 24, units & 0xFFFFFF])
            if weights is not None:
                limbs *= weights[part][pair_rows]
            out.index_add_(1, pair_centroids, limbs)
    return out


def _along(rows: torch.Tensor, direction: torch.Tensor) -> torch.Tensor:
    """Products of rows (n, d) with a direction (d,), float64."""
    blocks = torch.split(rows, rows_in_hand(rows.shape[1]))
    return torch.cat([block.double() @ direction for block in blocks])


@cache
def probed(backend: Backend, width: int, device: torch.device) -> Kernel:
    """The kernel of a backend for rows of this width, after a comparison with float64.

    Raises:
        CurationError: There is no such backend, or a score errs by more than its bound.
    """
    if backend not in get_args(Backend):
        raise CurationError(f"there is no backend {backend!r}; there are {', '.join(get_args(Backend))}")
    kernel = _torch_kernel(device)
    if backend == "triton":
        from curation.kernels import triton  # not installed everywhere

        kernel = triton.kernel(width, device)
    # the worst for sums that truncate: products of one sign; and some of both
    pattern = torch.arange(256 * width, dtype=torch.float64, device=device).mul(0.618034).frac().view(256, -1)
    unit = torch.cat([pattern[:128], pattern[128:] - 0.5])
    rows, _ = halve_rows(unit / unit.norm(dim=1, keepdim=True))
    halves = halve_centroids(rows.float())
    norms = rows.double().norm(dim=1)
    bound = halves.bound(norms, torch.zeros_like(norms)) - norms * halves.error
    scores = torch.empty((256, 3), device=device)
    labels = torch.empty((256, 2), dtype=torch.int32, device=device)
    for part in (None, spans(torch.arange(256, device=device), None, kernel.rows)):  # two sizes of tiles
        kernel.nearest(rows, halves, part, scores, labels)
        chosen = labels.long()
        products = (rows.double()[:, None] * halves.values[chosen].double()).sum(dim=2)
        off = (scores[:, :2] - (halves.half_squares[chosen] - products)).abs()
        error = float((off / bound[:, None]).max())
        if not error <= 1:
            raise CurationError(
                f"the {backend!r} products err by {error:.1f} times their bound at {width} columns on "
                f"{device} (a reduced-precision mode may be on); choose another backend"
            )
    return kernel


class _Turn:
    """Some rows and whom they look at."""

    def __init__(
        self,
        backend: Backend,
        kernel: Kernel,
        halves: Halves,
        rows: torch.Tensor,
        norms: torch.Tensor,
        centroids: torch.Tensor,
        groups: torch.Tensor | None,
        members: torch.Tensor | None,
        offsets: torch.Tensor | None,
    ) -> None:
        self.kernel, self.halves = kernel, halves
        self.distances = partial(squared_distances, rows, centroids, backend=backend)
        self.groups, self.members, self.offsets = groups, members, offsets
        self.values, errors = halve_rows(rows)
        self.margins = 2 * halves.bound(norms, errors)

    def nearest(self, seconds: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """The nearest and the second nearest (n,), int32; seconds without a promise if not asked for."""
        scores = torch.empty((len(self.values), 3), device=self.values.device)
        found = torch.empty((len(self.values), 2), dtype=torch.int32, device=self.values.device)
        if self.groups is None:
            self.kernel.nearest(self.values, self.halves, None, scores, found)
        else:
            for part in self._spans(torch.arange(len(self.values), device=self.values.device)):
                self.kernel.nearest(self.values, self.halves, part, scores, found)
        there = scores < NOTHING
        labels = found[:, 0].contiguous()
        others = found[:, 1].masked_fill(~there[:, 1], -1)

        reach = _rounded_up(scores[:, 1 if seconds else 0] + self.margins)
        third = there[:, 2] & (scores[:, 2] <= reach)
        second = there[:, 1] & (scores[:, 1] <= scores[:, 0] + self.margins) & ~third
        self._exchange(second.nonzero()[:, 0], labels, others)
        if len(index := third.nonzero()[:, 0]):
            for part in self._spans(index):
                for pair_rows, pair_centroids in self.kernel.close(self.values, self.halves, part, reach):
                    self._decide(pair_rows, pair_centroids, labels, others)
        return labels, others

    def below(self, limits: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Rows and centroids of the pairs whose |c|^2 / 2 - x.(c - m) may be below the row's limit (n,)."""
        reach = _rounded_up(limits + self.margins / 2)
        for part in self._spans(torch.arange(len(self.values), device=self.values.device)):
            yield from self.kernel.close(self.values, self.halves, part, reach)

    def _exchange(self, index: torch.Tensor, labels: torch.Tensor, others: torch.Tensor) -> None:
        """Has rows whose two labels are all that is near swap them where the other one is nearer."""
        mine, other = labels[index], others[index]
        now, then = self.distances(mine, index), self.distances(other, index)
        nearer = (then < now) | ((then == now) & (other < mine))
        labels[index], others[index] = torch.where(nearer, other, mine), torch.where(nearer, mine, other)

    def _spans(self, index: torch.Tensor) -> Iterator[Spans]:
        """Spans of these rows: those that look at candidates, and those that look at all centroids."""
        if self.groups is not None:
            groups = self.groups[index]
            chosen = groups >= 0
            yield spans(index[chosen], groups[chosen], self.kernel.rows, self.members, self.offsets)
            index = index[~chosen]
        yield spans(index, None, self.kernel.rows)

    def _decide(
        self,
        pair_rows: torch.Tensor,
        pair_centroids: torch.Tensor,
        labels: torch.Tensor,
        others: torch.Tensor,
    ) -> None:
        """Writes the exactly nearest and second nearest among pairs that hold all there is of their rows."""
        if not len(pair_rows):
            return
        exact = self.distances(pair_centroids, pair_rows)
        first = _least(exact, pair_rows, pair_centroids, len(labels))
        left = pair_centroids != first[pair_rows]
        second = _least(exact[left], pair_rows[left], pair_centroids[left], len(labels))
        found = first != _NOBODY
        labels[found] = first[found].int()
        found = second != _NOBODY
        others[found] = second[found].int()


def _least(exact: torch.Tensor, rows: torch.Tensor, centroids: torch.Tensor, n: int) -> torch.Tensor:
    """Lowest centroid among the nearest of each row's pairs (n,), `_NOBODY` for a row without pairs."""
    lowest = exact.new_full((n,), torch.inf).scatter_reduce_(0, rows, exact, "amin")
    hit = exact == lowest[rows]
    nobody = centroids.new_full((n,), _NOBODY)
    return nobody.scatter_reduce_(0, rows[hit], centroids[hit], "amin")


def _rounded_up(values: torch.Tensor) -> torch.Tensor:
    """Float64 values as float32, not below them."""
    single = values.float()
    return torch.nextafter(single, torch.full_like(single, torch.inf))


def _torch_kernel(device: torch.device) -> Kernel:
    """Products by `torch.mm`, scores in a buffer of bounded size: where there is no Triton."""

    def scored(rows: torch.Tensor, halves: Halves, work: Spans) -> Iterator[tuple[torch.Tensor, ...]]:
        everyone = torch.arange(len(halves.values), device=rows.device)
        for first, last, group in work.bounds.tolist():
            index, columns = work.order[first:last], everyone
            if work.members is not None and work.offsets is not None:
                columns = work.members[work.offsets[group] : work.offsets[group + 1]].long()
            others = halves.values if columns is everyone else halves.values[columns]
            for some in torch.split(index, max(1, _SCORES // len(columns))):
                yield some, columns, halves.half_squares[columns] - product(rows[some], others)

    def product(rows: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
        if device.type == "cuda":
            return torch.mm(rows, others.T, out_dtype=torch.float32)
        return rows.float() @ others.float().T

    def find(
        rows: torch.Tensor, halves: Halves, work: Spans | None, scores: torch.Tensor, labels: torch.Tensor
    ) -> None:
        if work is None:
            work = spans(torch.arange(len(rows), device=rows.device), None, len(rows))
        for index, columns, found in scored(rows, halves, work):
            lowest, places = found.topk(3, dim=1, largest=False)
            scores[index] = lowest
            labels[index] = columns[places[:, :2]].int()

    def close(
        rows: torch.Tensor, halves: Halves, work: Spans, limits: torch.Tensor
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for index, columns, found in scored(rows, halves, work):
            place, column = (found <= limits[index, None]).nonzero(as_tuple=True)
            yield index[place], columns[column]

    return Kernel(_ROWS, 16, find, close)
