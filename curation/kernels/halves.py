"""Rows and centroids in float16 for the tensor cores, and how far their scores can be off.

Both are rounded to float16, x' and c', the centroids after a shift by their mean m, which changes no
order and leaves less to round. The score t = |c|^2 / 2 - x'.c' differs from |c|^2 / 2 - x.(c - m) by at
most

    B = |x - x'||c - m| + |x'||c - m - c'|      the rounding to float16, measured
      + 6u ceil(w / 4) |x'||c'|                 the accumulation over w columns, u = 2^-23
      + (2u + 2^-15) (|x'||c'| + |c|^2 / 2)     float32, and the low bits that carry an index

with the largest of each over the centroids. Tensor cores align the products of a block and what was
added before to the largest exponent among them, truncate, and truncate the sum: on a V100, the worst,
blocks of 4 without extra bits, so 5 truncated addends and a truncated result for 4 products; later ones
have longer blocks and extra bits (Fasi, Higham, Mikaitis, Pranesh, Numerical behavior of NVIDIA tensor
cores, PeerJ CS, 2021; Khattak, Mikaitis, Accurate models of NVIDIA tensor cores, arXiv 2512.07004, up
to H100 and B200). Float32 sums on other units err less.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

NOTHING = 1e38
"""Scores from here on belong to no centroid."""

FAR = 3e38
"""Half the squared norm of a centroid that is not there; finite, so that its low bits make no NaN."""

WHOLE = 256
"""Up to this width a kernel holds whole rows."""

STEP = 64
"""Wider rows come in steps of so many columns."""

_PADDING = 256  # no kernel takes more centroids at once
_TRUNCATION = 2.0**-23
_PACKING = 2.0**-15
_IN_HAND = 1 << 24  # float64 values at a time: 128 MB


@dataclass(frozen=True)
class Halves:
    """Centroids in float16.

    Attributes:
        values: Shifted centroids c' (count, width), zeros where nothing is.
        half_squares: |c|^2 / 2 of the unshifted ones (count,), float32, `FAR` where nothing is.
        size: Centroids that are there; `count` is a larger multiple of every tile.
        norm: The largest |c - m|.
        error: The largest |c - m - c'|.
        square: The largest |c|^2 / 2.
        shift: m (d,), float64.
    """

    values: torch.Tensor
    half_squares: torch.Tensor
    size: int
    norm: float
    error: float
    square: float
    shift: torch.Tensor

    def bound(self, norms: torch.Tensor, errors: torch.Tensor) -> torch.Tensor:
        """B of the module's docstring (n,), float64, for rows of these norms |x| and errors |x - x'|."""
        width = self.values.shape[1]
        rounded = norms + errors
        product = rounded * (self.norm + self.error)
        rounding = errors * self.norm + rounded * self.error
        accumulation = 6 * _TRUNCATION * -(-width // 4) * product
        packing = (2 * _TRUNCATION + _PACKING) * (product + self.square)
        return (rounding + accumulation + packing) * (1 + 1e-2)  # the slack covers what is of second order


@dataclass(frozen=True)
class Spans:
    """Which rows are scored together, and against which centroids.

    Attributes:
        order: Rows, those of a group side by side (m,), int64.
        bounds: First and last + 1 place in `order`, and group, of every span (spans, 3), int64.
        members: Candidates of group after group, int32, each padded to whole tiles with a centroid that
            is not there; None: all centroids.
        offsets: Where the candidates of each group start and the last ones end (groups + 1,), int64.
    """

    order: torch.Tensor
    bounds: torch.Tensor
    members: torch.Tensor | None = None
    offsets: torch.Tensor | None = None


@dataclass(frozen=True)
class Kernel:
    """What computes scores.

    Attributes:
        rows: Most rows of a span.
        centroids: Candidates of a group are padded to a multiple of this.
        nearest: Called with rows (n, width), centroids, spans (None: all rows against all centroids),
            scores (n, 3) float32 and labels (n, 2) int32; writes, for the rows of the spans, the scores
            and the indices of the best two, and a score that the third best does not fall below.
        close: Called with rows, centroids, spans and limits (n,) float32; yields the row and the
            centroid of every pair whose score is at most the row's limit, in no order, those of one row
            together.
    """

    rows: int
    centroids: int
    nearest: Callable[[torch.Tensor, Halves, Spans | None, torch.Tensor, torch.Tensor], None]
    close: Callable[[torch.Tensor, Halves, Spans, torch.Tensor], Iterator[tuple[torch.Tensor, torch.Tensor]]]


def rows_in_hand(dimensions: int) -> int:
    """Rows whose float64 copies are made at a time: what lies beside the rows stays small."""
    return max(1, _IN_HAND // dimensions)


def padded_width(dimensions: int) -> int:
    """Columns of rows and centroids, the last ones zero, so that kernels need no masks."""
    if dimensions <= WHOLE:
        return max(16, 1 << (dimensions - 1).bit_length())
    return -(-dimensions // STEP) * STEP


def halve_centroids(centroids: torch.Tensor) -> Halves:
    """Centroids (k, d), float32 on the grid, in float16. Reads them a few times, 2 k d bytes out."""
    size, dimensions = centroids.shape
    count = (size // _PADDING + 1) * _PADDING  # at least one that is not there
    shift = centroids.mean(dim=0, dtype=torch.float64)
    values = centroids.new_zeros((count, padded_width(dimensions)), dtype=torch.float16)
    squares = centroids.new_full((count,), 2 * FAR, dtype=torch.float64)
    largest = centroids.new_zeros(2, dtype=torch.float64)
    block = rows_in_hand(dimensions)
    for start in range(0, size, block):
        wide = centroids[start : start + block].double()
        squares[start : start + len(wide)] = wide.square().sum(dim=1)
        wide -= shift
        values[start : start + len(wide), :dimensions] = wide.half()
        left = wide - values[start : start + len(wide), :dimensions].double()
        norms = torch.stack([wide.square().sum(dim=1).max(), left.square().sum(dim=1).max()])
        largest = torch.maximum(largest, norms)
    norm, error = largest.sqrt().tolist()
    return Halves(values, (squares / 2).float(), size, norm, error, float(squares[:size].max()) / 2, shift)


def as_they_are(rows: torch.Tensor) -> bool:
    """Whether a kernel takes these rows without a copy."""
    whole = rows.shape[1] == padded_width(rows.shape[1])
    return whole and rows.dtype == torch.float16 and rows.is_contiguous()


def halve_rows(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows (n, d) in float16 (n, width), and their rounding errors (n,), float64."""
    dimensions = rows.shape[1]
    width = padded_width(dimensions)
    errors = rows.new_zeros(len(rows), dtype=torch.float64)
    if as_they_are(rows):
        return rows, errors
    values = rows.new_zeros((len(rows), width), dtype=torch.float16)
    block = rows_in_hand(dimensions)
    for start in range(0, len(rows), block):
        part = rows[start : start + block]
        values[start : start + block, :dimensions] = part
        if rows.dtype != torch.float16:
            left = part.double() - values[start : start + block, :dimensions].double()
            errors[start : start + block] = left.square().sum(dim=1).sqrt()
    return values, errors


def spans(
    index: torch.Tensor,
    groups: torch.Tensor | None,
    rows: int,
    members: torch.Tensor | None = None,
    offsets: torch.Tensor | None = None,
) -> Spans:
    """Spans of at most `rows` rows of one group each.

    Args:
        index: The rows (m,), int64.
        groups: Group of each of them (m,); None: all in one.
        rows: Most rows of a span.
        members: Candidates of the groups, padded; see `Spans`.
        offsets: Their offsets.
    """
    if groups is None:
        groups = torch.zeros_like(index)
    by_group = groups.argsort(stable=True)
    counts = torch.bincount(groups)
    ends = counts.cumsum(0)
    parts = (counts + rows - 1) // rows
    which = torch.repeat_interleave(torch.arange(len(parts), device=index.device), parts)
    number = torch.arange(len(which), device=index.device)
    first = (ends - counts)[which] + (number - (parts.cumsum(0) - parts)[which]) * rows
    last = torch.minimum(first + rows, ends[which])
    return Spans(index[by_group], torch.stack([first, last, which], 1), members, offsets)


def padded_members(
    members: torch.Tensor, offsets: torch.Tensor, multiple: int, size: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Candidates and offsets with every group padded to a multiple by centroid `size`, which is not there."""
    counts = offsets.diff()
    room = (counts + multiple - 1) // multiple * multiple
    padded = torch.cat([offsets.new_zeros(1), room.cumsum(0)])
    moved = torch.repeat_interleave(padded[:-1] - offsets[:-1], counts)
    out = members.new_full((int(padded[-1]),), size)
    out[torch.arange(len(members), device=members.device) + moved] = members
    return out, padded
