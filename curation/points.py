"""The points of a view with what every question about them needs, and the forms that answers take."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from curation import chance, exact
from curation.assign import Assigner, Centroids
from curation.kernels.threads import in_runs
from curation.rows import ResidentRows, Rows, StoredRows, store

if TYPE_CHECKING:
    from curation.assign import Chunk
    from curation.device import Placed

EVERYTHING = "everything"  # the view that needs no selection

SHORT = 2.0**-14
"""Norm on the grid below which a point has fewer than 2^10 steps of length."""

_BLOCK = 2**16  # squared distances added up at a time: no copies of all of them

Directions = NDArray[np.float64]


@dataclass(frozen=True)
class About:
    """Exact figures of a block; those of a pool are their sums.

    Attributes:
        count: Number of points.
        weight: Sum of their weights.
        squares: Weighted sum of their squared norms, in units of 2^-48.
        sums: Weighted sum of the points (d,), in steps of 2^-24.
        short: Points that are not zero and have a norm below `SHORT`.
    """

    count: int
    weight: int
    squares: int
    sums: NDArray[np.int64]
    short: int


class Labels(NamedTuple):
    """What a block's points of a view are assigned to.

    Attributes:
        first: Nearest centroid (n,), int32; -1 where it is not known.
        second: Second nearest (n,), int32, -1 where there is none; None where not looked for.
    """

    first: NDArray[np.int32]
    second: NDArray[np.int32] | None = None


class Partial(NamedTuple):
    """A block's exact part in a slice of k clusters.

    Attributes:
        sums: Weighted sums of points (k, d), in steps of 2^-24.
        counts: Sums of weights (k,).
        spread: Weighted sums of squared distances to the centroid (k, 2): of their upper bits, in units of
            2^-14, and of their lower bits, in units of 2^-30; None if not asked for.
        loss: By how much these would grow if every point went to its second nearest; as `spread`.
    """

    sums: NDArray[np.int64]
    counts: NDArray[np.int64]
    spread: NDArray[np.int64] | None = None
    loss: NDArray[np.int64] | None = None


@dataclass
class Points:
    """The points of a view: rows on the grid with what every method needs beside them.

    Attributes:
        rows: Rows (n, d).
        keys: Keys (n, 2), uint64.
        squares: Exact squared norms (n,).
        weights: Whole-numbered weights (n,), int64; None where all are one.
    """

    rows: Rows
    keys: NDArray[np.uint64]
    squares: NDArray[np.float64]
    weights: NDArray[np.int64] | None = None
    _sketch: tuple[str, Points] | None = field(default=None, repr=False)
    _placed: Placed | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.rows)

    def chunks(self, assigner: Assigner) -> Iterator[tuple[slice, Chunk]]:
        """Every row once, where the assigner computes; what its device has room for stays there."""
        if assigner.on is None:
            return self.rows.chunks()
        if self._placed is None:
            self._placed = assigner.on.place(self.rows)
        return self._placed.chunks()

    def norms(self, where: slice) -> NDArray[np.float64]:
        """Euclidean norms of a chunk."""
        squares = self.squares[where]
        out = np.empty(len(squares))
        in_runs(len(out), lambda run: np.sqrt(squares[run], out=out[run]))
        return out

    @cached_property
    def mixed(self) -> NDArray[np.uint64]:
        """Both words of each key folded into one (n,)."""
        return chance.mixed(self.keys)

    @cached_property
    def by_key(self) -> NDArray[np.int64]:
        """Indices (n,) in the order of the keys' first words."""
        return chance.by_word(self.keys[:, 0])

    def select(self, index: NDArray[np.int64]) -> Points:
        """Some of the points, by ascending index."""
        weights = None if self.weights is None else self.weights[index]
        return Points(self.rows.select(index), self.keys[index], self.squares[index], weights)

    def draws(self, salt: int, *, few: bool = False) -> NDArray[np.float64]:
        """Draws (n,), divided by the weights; infinite where a weight is zero.

        Args:
            salt: Salt of the draw.
            few: Whether the smallest few decide, or one alone: then they are `chance.race`s.
        """
        drawn = chance.draws(self.mixed, np.uint64(salt))
        if self.weights is None:
            return drawn
        drawn = chance.race(drawn) if few else drawn
        with np.errstate(divide="ignore"):
            return drawn / self.weights

    def total(self, squared: NDArray[np.float64]) -> int:
        """Weighted sum of squared distances or norms, in units of 2^-48."""
        found = 0
        for start in range(0, len(squared), _BLOCK):
            weights = None if self.weights is None else self.weights[start : start + _BLOCK]
            found += exact.total(exact.square_units(squared[start : start + _BLOCK]), weights)
        return found

    def sketched(self, directions: Directions | None, assigner: Assigner, scratch: Path | None) -> Points:
        """The points along some directions; the last answer is kept. Themselves where there are none."""
        if directions is None:
            return self
        token = hashlib.blake2b(np.ascontiguousarray(directions).data, digest_size=16).hexdigest()
        if self._sketch is None or self._sketch[0] != token:
            flat = (assigner.project(rows, directions) for _, rows in self.chunks(assigner))
            if isinstance(self.rows, StoredRows) and scratch is not None:
                name = scratch / f"sketch-{id(self)}.rows"
                rows: Rows = store(flat, name, directions.shape[1], self.rows.chunk_bytes)
            else:
                values, start = np.empty((len(self), directions.shape[1]), np.float32), 0
                for part in flat:
                    values[start : start + len(part)] = part
                    start += len(part)
                rows = ResidentRows(values)
            squares = np.empty(len(self))
            for where, part in rows.chunks():
                squares[where] = exact.squared_norms(part, assigner.n_threads)
            self._sketch = (token, Points(rows, self.keys, squares, self.weights))
        return self._sketch[1]

    def distances(
        self, assigner: Assigner, labels: NDArray[np.int32], centroids: Centroids
    ) -> NDArray[np.float64]:
        """Exact squared distances (n,) to the centroids that the points are labelled with."""
        out = np.empty(len(self))
        for where, rows in self.chunks(assigner):
            out[where] = assigner.squared_distances(rows, centroids, labels[where])
        return out
