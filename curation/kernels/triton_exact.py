"""Sums of rows and distances of pairs on a GPU in float64: exact on the grid, in any order.

Without a GPU they run in Triton's interpreter, as `curation.kernels.triton` does.
"""

# Triton reads annotations as types of its own, and carries none for mypy
# ruff: noqa: ANN001, ANN202
# mypy: disable-error-code="import-untyped, untyped-decorator, no-untyped-def, no-untyped-call"

from __future__ import annotations

import torch
import triton
import triton.language as tl

from curation.kernels.halves import Spans

_COLUMNS = 128  # of a sum, in one program
_TOGETHER = 32  # rows of a sum that are loaded at once
_PAIR_ROWS = 16  # pairs of a program


def add_rows(rows: torch.Tensor, spans: Spans, sums: torch.Tensor) -> None:
    """Adds the rows (n, d) of every span to the sum of its group in `sums` (groups, d), float64, in place.

    Reads every row once. The order of additions is the device's own: they must be exact.
    """
    if len(spans.bounds):
        blocks = -(-rows.shape[1] // _COLUMNS)
        _add[(len(spans.bounds), blocks)](
            rows, spans.order, spans.bounds, sums, rows.shape[1], ROWS=_TOGETHER, COLUMNS=_COLUMNS
        )


def pair_distances(
    rows: torch.Tensor,
    centroids: torch.Tensor,
    index: torch.Tensor | None,
    labels: torch.Tensor,
    out: torch.Tensor,
) -> None:
    """Writes exact squared distances (m,), float64, of rows (n, d), or of those of an index, to centroids.

    Float64 of what lies on the grid: exact, in any order. Negative labels stand for the first centroid.
    """
    if len(out):
        rows, centroids = rows.contiguous(), centroids.contiguous()
        _distance[(-(-len(out) // _PAIR_ROWS),)](
            rows, centroids, index, labels, out, len(out), rows.shape[1], ROWS=_PAIR_ROWS, COLUMNS=_COLUMNS
        )


@triton.jit
def _add(rows, order, bounds, sums, width, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """The sum of one span's rows, some columns of it."""
    program = tl.program_id(0).to(tl.int64)
    first = tl.load(bounds + 3 * program)
    last = tl.load(bounds + 3 * program + 1)
    group = tl.load(bounds + 3 * program + 2)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = column < width
    total = tl.zeros([COLUMNS], tl.float64)
    for start in range(0, (last - first).to(tl.int32), ROWS):
        place = first + start + tl.arange(0, ROWS)
        there = place < last
        row = tl.load(order + place, mask=there, other=0)
        values = tl.load(
            rows + row[:, None] * width + column[None, :], mask=there[:, None] & inside[None, :], other=0.0
        )
        total += tl.sum(values.to(tl.float64), axis=0)
    tl.atomic_add(sums + group * width + column, total, mask=inside)


@triton.jit
def _distance(rows, centroids, index, labels, out, n, width, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Squared distances of some pairs."""
    place = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    there = place < n
    row = place if index is None else tl.load(index + place, mask=there, other=0)
    label = tl.maximum(tl.load(labels + place, mask=there, other=0).to(tl.int64), 0)
    total = tl.zeros([ROWS], tl.float64)
    for start in range(0, width, COLUMNS):
        column = start + tl.arange(0, COLUMNS)
        inside = there[:, None] & (column < width)[None, :]
        left = tl.load(rows + row[:, None] * width + column[None, :], mask=inside, other=0.0)
        right = tl.load(centroids + label[:, None] * width + column[None, :], mask=inside, other=0.0)
        difference = left.to(tl.float64) - right.to(tl.float64)
        total += tl.sum(difference * difference, axis=1)
    tl.store(out + place, total, mask=there)
