"""Nearest centroids on a GPU without an n x k buffer: products, scores and the best two in one kernel.

A program holds a tile of rows and walks over tiles of centroids. The scores of a tile never leave the
registers: the low bits of each are replaced by its column, so that a plain minimum carries its index
along, and the two smallest of every fourth pair of columns are found by minima within one thread (the
one that holds them in a tensor core's accumulator). They join the three smallest of the tiles before.
So a score costs three minima, and threads speak to each other once a row, at the end.

Rows and centroids are float16 and products are summed in float32 on the tensor cores: what comes out is
approximate, with the bound of `curation.kernels.halves`.

Without a GPU the kernel runs in Triton's interpreter (TRITON_INTERPRET=1 before Triton is imported).
"""

# Triton reads annotations as types of its own, and carries none for mypy
# ruff: noqa: ANN001, ANN202
# mypy: disable-error-code="import-untyped, untyped-decorator, no-untyped-def, no-untyped-call"

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, partial

import torch
import triton
import triton.language as tl
from triton.runtime.errors import OutOfResources
from triton.tools.tensor_descriptor import TensorDescriptor

from curation.errors import CurationError
from curation.kernels.halves import FAR, STEP, WHOLE, Halves, Kernel, Spans, spans

_FAR = tl.constexpr(FAR)
_SLOTS = tl.constexpr(4)  # sets of columns kept apart: as many as threads share a row of an accumulator
_TRIAL_CENTROIDS = 4096
_PAIRS = 1 << 24  # pairs in hand: 128 MB


@dataclass(frozen=True)
class Tile:
    """Sizes of a program's work, powers of two; only speed depends on them.

    Attributes:
        rows: Rows of a tile, at least 16.
        centroids: Centroids of a tile, 16 to 256.
        depth: Dimensions of a step, at least 16; rows are loaded once where one step covers them.
        warps: Warps of a program.
        stages: Steps that are loaded ahead.
    """

    rows: int
    centroids: int
    depth: int
    warps: int = 4
    stages: int = 2


def kernel(width: int, device: torch.device, tile: Tile | None = None) -> Kernel:
    """The kernel for rows of this width on a device; `tile` defaults to the fastest of each kind of scan."""
    full = some = tile or Tile(64, 64, width if width <= WHOLE else STEP)
    if tile is None and device.type == "cuda":
        full, some = tuned(width, device), short(width, device)
    for one in (full, some):
        if width % one.depth and one.depth < width:
            raise ValueError(f"rows of {width} columns do not come in steps of {one.depth}")
    return Kernel(some.rows, some.centroids, partial(_nearest, full, some), partial(_close, some))


def tiles(width: int) -> list[Tile]:
    """Tiles worth trying at this width, the likeliest first."""
    if width < WHOLE:
        sizes = [(128, 128, 4, 2), (128, 128, 8, 2), (128, 256, 8, 2), (64, 128, 4, 3), (64, 256, 4, 2)]
        return [Tile(rows, centroids, width, *how) for rows, centroids, *how in sizes]
    sizes = [(128, 256, 8, 3), (128, 256, 8, 4), (128, 128, 8, 4), (128, 128, 4, 3), (64, 256, 4, 4)]
    stepped = [Tile(rows, centroids, STEP, *how) for rows, centroids, *how in sizes]
    if width == WHOLE:
        return [Tile(128, 64, width, 4, 2), Tile(128, 128, width, 8, 2), *stepped]
    return stepped


def short_tiles(width: int) -> list[Tile]:
    """Tiles for rows that look at some centroids, or at all again: fewer at a time, which pads less."""
    return [Tile(128, 64, width, 4, 3) if width < WHOLE else Tile(128, 64, STEP, 8, 3), _least(width)]


@cache
def short(width: int, device: torch.device) -> Tile:
    """The first of `short_tiles` that fits a GPU.

    Raises:
        CurationError: The GPU has room for none.
    """
    few = torch.arange(128, device=device)
    trial = _Trial(width, len(few), device)
    every = torch.arange(_TRIAL_CENTROIDS, device=device).int(), few.new_tensor([0, _TRIAL_CENTROIDS])
    for tile in short_tiles(width):
        try:
            for candidates in ((), every):  # which are other kernels, and may take other memory
                trial.run(tile, spans(few, None, tile.rows, *candidates))
        except OutOfResources:
            continue
        return tile
    raise _no_room(width, device)


@cache
def tuned(width: int, device: torch.device) -> Tile:
    """The fastest tile for full scans at this width on a GPU, by a trial of each.

    Raises:
        CurationError: The GPU has room for none.
    """
    count = 4 * 128 * int(torch.cuda.get_device_properties(device).multi_processor_count)
    trial = _Trial(width, count, device)
    times = trial.seconds(tiles(width)) or trial.seconds([_least(width)])
    if not times:
        raise _no_room(width, device)
    return min(times, key=lambda tile: times[tile])


def _least(width: int) -> Tile:
    """A tile for GPUs of little shared memory."""
    return Tile(64, 64, min(width, STEP))


def _no_room(width: int, device: torch.device) -> CurationError:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device
    return CurationError(
        f"{name} has too little shared memory for the fused kernel at {width} "
        "columns; let the device be 'cuda:torch', which does without it, or 'cpu'"
    )


class _Trial:
    """Rows and centroids of nothing in particular, to try tiles on."""

    def __init__(self, width: int, count: int, device: torch.device) -> None:
        mixed = torch.arange((count + _TRIAL_CENTROIDS) * width, device=device).mul(0.618034).frac().half()
        self.rows, values = torch.split(mixed.view(-1, width), [count, _TRIAL_CENTROIDS])
        half, shift = torch.zeros(_TRIAL_CENTROIDS, device=device), torch.zeros(width, device=device)
        self.centroids = Halves(values, half, _TRIAL_CENTROIDS, 0, 0, 0, shift)
        self.scores = torch.empty((count, 3), device=device)
        self.labels = torch.empty((count, 2), dtype=torch.int32, device=device)

    def run(self, tile: Tile, some: Spans | None = None) -> None:
        """Finds the nearest of all rows, or of those of some spans."""
        _nearest(tile, tile, self.rows, self.centroids, some, self.scores, self.labels)

    def seconds(self, tiles: list[Tile]) -> dict[Tile, float]:
        """What scans of all rows take with the tiles that the GPU has room for."""
        times: dict[Tile, float] = {}
        for tile in tiles:
            try:
                times[tile] = triton.testing.do_bench(partial(self.run, tile), warmup=5, rep=20)
            except OutOfResources:
                continue  # less shared memory than the list was made for
        return times


def _nearest(
    full: Tile,
    some: Tile,
    rows: torch.Tensor,
    centroids: Halves,
    spans: Spans | None,
    scores: torch.Tensor,
    labels: torch.Tensor,
) -> None:
    """`Kernel.nearest`. 2 width operations a pair; a tile of rows reads all its centroids once."""
    tile = full if spans is None else some
    _launch(tile, rows, centroids, spans, scores, labels, None, 0)


def _close(
    tile: Tile, rows: torch.Tensor, centroids: Halves, spans: Spans, limits: torch.Tensor
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """`Kernel.close`: again where there are more pairs than fit, in two halves."""
    if not len(spans.bounds):
        return
    capacity = max(_PAIRS, centroids.size)
    pairs = torch.empty((2, capacity), dtype=torch.int32, device=rows.device)
    found = torch.zeros(1, dtype=torch.int64, device=rows.device)
    _launch(tile, rows, centroids, spans, limits, pairs, found, capacity)
    count = int(found)
    if count <= capacity:
        yield pairs[0, :count].long(), pairs[1, :count].long()
        return
    for bounds in _halved(spans.bounds):
        half = Spans(spans.order, bounds, spans.members, spans.offsets)
        yield from _close(tile, rows, centroids, half, limits)


def _halved(bounds: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Spans in two halves; a lone one is cut in the middle."""
    if len(bounds) > 1:
        left, right = bounds.tensor_split(2)
        return left.contiguous(), right.contiguous()
    first, last, group = bounds[0].tolist()
    middle = (first + last) // 2
    return bounds.new_tensor([[first, middle, group]]), bounds.new_tensor([[middle, last, group]])


def _launch(
    tile: Tile,
    rows: torch.Tensor,
    centroids: Halves,
    spans: Spans | None,
    scores: torch.Tensor,
    labels: torch.Tensor,
    found: torch.Tensor | None,
    capacity: int,
) -> None:
    programs = -(-len(rows) // tile.rows) if spans is None else len(spans.bounds)
    if not programs:
        return
    depth = min(tile.depth, rows.shape[1])
    members = spans is not None and spans.members is not None
    _scan[(programs,)](
        rows if spans is not None else TensorDescriptor.from_tensor(rows, [tile.rows, depth]),
        None if spans is None else spans.order,
        None if spans is None else spans.bounds,
        centroids.values
        if members
        else TensorDescriptor.from_tensor(centroids.values, [tile.centroids, depth]),
        centroids.half_squares,
        None if spans is None else spans.members,
        None if spans is None else spans.offsets,
        scores,
        labels,
        found,
        capacity,
        len(rows),
        centroids.size,
        rows.shape[1],
        ROWS=tile.rows,
        CENTROIDS=tile.centroids,
        DEPTH=depth,
        LEVELS=tile.centroids.bit_length() - 4,
        WHOLE=tile.depth >= rows.shape[1],
        SPANS=spans is not None,
        MEMBERS=members,
        CLOSE=found is not None,
        num_warps=tile.warps,
        num_stages=tile.stages,
    )


@triton.jit
def _halves(values):
    """The left and the right half of the columns."""
    pairs = tl.reshape(values, [values.shape[0], 2, values.shape[1] // 2])
    return tl.split(tl.permute(pairs, [0, 2, 1]))


@triton.jit
def _merged(a, b, c, x, y, z):
    """The three smallest, ascending, of two ascending triples."""
    higher = tl.maximum(a, x)
    lower = tl.minimum(b, y)
    rest = tl.minimum(tl.maximum(b, y), tl.minimum(c, z))
    return tl.minimum(a, x), tl.minimum(higher, lower), tl.minimum(tl.maximum(higher, lower), rest)


@triton.jit
def _merged_places(a, i, b, j, x, u, y, v):
    """Places of the two smallest of two ascending pairs, from the places of a, b, x and y."""
    loser = tl.where(a <= x, u, i)
    runner_up = tl.where(b <= y, j, v)
    second = tl.where(tl.maximum(a, x) <= tl.minimum(b, y), loser, runner_up)
    return tl.where(a <= x, i, u), second


@triton.jit
def _two_smallest(scores, WIDTH: tl.constexpr, LEVELS: tl.constexpr):
    """The two smallest scores of every slot of a tile, ascending, their columns in the low bits."""
    packed = (scores.to(tl.int32, bitcast=True) & -WIDTH) | tl.arange(0, WIDTH)[None, :]
    packed = packed.to(tl.float32, bitcast=True)
    # an accumulator lies in threads by pairs of columns, four threads a row: pairs first, then what
    # is a multiple of eight columns apart
    even, odd = tl.split(tl.reshape(packed, [packed.shape[0], WIDTH // 2, 2]))
    a = tl.minimum(even, odd)
    b = tl.maximum(even, odd)
    for _ in tl.static_range(LEVELS):
        a, x = _halves(a)
        b, y = _halves(b)
        a, b = tl.minimum(a, x), tl.minimum(tl.maximum(a, x), tl.minimum(b, y))
    return a, b


@triton.jit
def _scan(
    rows,
    order,
    bounds,
    centroids,
    half_squares,
    members,
    offsets,
    scores,
    labels,
    found,
    capacity,
    n,
    k,
    width,
    ROWS: tl.constexpr,
    CENTROIDS: tl.constexpr,
    DEPTH: tl.constexpr,
    LEVELS: tl.constexpr,
    WHOLE: tl.constexpr,
    SPANS: tl.constexpr,
    MEMBERS: tl.constexpr,
    CLOSE: tl.constexpr,
):
    """One tile of rows against all its candidates: the best two of each, or all within a limit (CLOSE).

    What lies side by side comes by descriptors, through Hopper's copy engine: rows that are not chosen
    (SPANS) and centroids that are not (MEMBERS); the rest by pointers.
    """
    program = tl.program_id(0).to(tl.int64)
    corner = tl.program_id(0) * ROWS
    place = program * ROWS + tl.arange(0, ROWS)
    first = 0
    count = k
    if SPANS:
        place = tl.load(bounds + 3 * program) + tl.arange(0, ROWS)
        end = tl.load(bounds + 3 * program + 1)
        row = tl.load(order + tl.minimum(place, end - 1))
        if MEMBERS:
            group = tl.load(bounds + 3 * program + 2)
            first = tl.load(offsets + group)
            count = (tl.load(offsets + group + 1) - first).to(tl.int32)
    else:
        end = n
        row = tl.minimum(place, end - 1)
    there = place < end
    depth = tl.arange(0, DEPTH)
    if SPANS:
        row_steps = rows + row[:, None] * width + depth[None, :]
        if WHOLE:
            step = tl.load(row_steps)
    elif WHOLE:
        step = rows.load([corner, 0])
    if CLOSE:
        limit = tl.where(there, tl.load(scores + row), -_FAR)
    a = tl.full([ROWS, _SLOTS], _FAR, tl.float32)
    b = a
    c = a
    i = tl.zeros([ROWS, _SLOTS], tl.int32)
    j = i
    # flat: the first steps of the next tile are loaded while the scores of this one are looked at
    for tile in tl.range(0, count, CENTROIDS, flatten=not SPANS):
        column = tile + tl.arange(0, CENTROIDS)
        if MEMBERS:
            column = tl.load(members + first + column)
            steps = centroids + column.to(tl.int64)[None, :] * width + depth[:, None]
        products = tl.zeros([ROWS, CENTROIDS], tl.float32)
        if WHOLE:
            other = tl.load(steps) if MEMBERS else centroids.load([tile, 0]).T
            products = tl.dot(step, other, products)
        else:
            for start in range(0, width, DEPTH):
                left = tl.load(row_steps + start) if SPANS else rows.load([corner, start])
                other = tl.load(steps + start) if MEMBERS else centroids.load([tile, start]).T
                products = tl.dot(left, other, products)
        score = tl.load(half_squares + column)[None, :] - products
        if CLOSE:
            near = score <= limit[:, None]
            if tl.max(near.to(tl.int32)) > 0:
                slot = tl.atomic_add(found + tl.zeros_like(near).to(tl.int32), 1, mask=near)
                near = near & (slot < capacity)
                tl.store(labels + slot, tl.broadcast_to(row[:, None].to(tl.int32), near.shape), mask=near)
                tl.store(labels + capacity + slot, tl.broadcast_to(column[None, :], near.shape), mask=near)
        else:
            x, y = _two_smallest(score, CENTROIDS, LEVELS)
            i, j = _merged_places(a, i, b, j, x, tile + tl.zeros_like(i), y, tile + tl.zeros_like(i))
            # nothing else of the tile's slot lies below y, so that y bounds a third as well
            a, b, c = _merged(a, b, c, x, y, y)
    if not CLOSE:
        i += a.to(tl.int32, bitcast=True) & (CENTROIDS - 1)
        j += b.to(tl.int32, bitcast=True) & (CENTROIDS - 1)
        for _ in tl.static_range(2):
            a, x = _halves(a)
            b, y = _halves(b)
            c, z = _halves(c)
            i, u = _halves(i)
            j, v = _halves(j)
            i, j = _merged_places(a, i, b, j, x, u, y, v)
            a, b, c = _merged(a, b, c, x, y, z)
        i = tl.reshape(i, [ROWS])
        j = tl.reshape(j, [ROWS])
        if MEMBERS:
            i = tl.load(members + first + i)
            j = tl.load(members + first + j)
        tl.store(scores + 3 * row, tl.reshape(a, [ROWS]), mask=there)
        tl.store(scores + 3 * row + 1, tl.reshape(b, [ROWS]), mask=there)
        tl.store(scores + 3 * row + 2, tl.reshape(c, [ROWS]), mask=there)
        tl.store(labels + 2 * row, i, mask=there)
        tl.store(labels + 2 * row + 1, j, mask=there)
