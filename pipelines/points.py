"""Embeddings on their way to the point shards, and clusters on their way back."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from curation import exact
from curation.rows import Footing, Rows, store_smallest
from pipelines.blocks import keys_in, part_index, part_name
from pipelines.encode import matrix
from pipelines.scratch import own
from pipelines.startup import meet
from pipelines.store import Store


@dataclass(frozen=True)
class PoolRows:
    """Reads some parts of ``embeddings/`` as points on the grid; a restarted shard calls it again.

    Attributes:
        store: The run directory.
        parts: The parts.
        counts: Rows of each.
        exponent: Of the grid.
        cosine: Whether rows are brought to unit norm.
        footing: Whether they are held in memory, or in a file and streamed.
        folder: Where that file goes, on the shard's own machine; no other's.
        identity: Of the driver's machine; on another one nothing is read.
    """

    store: Store
    parts: Sequence[str]
    counts: Sequence[int]
    exponent: int
    cosine: bool
    footing: Footing
    folder: str
    identity: dict[str, str]

    def __call__(self) -> tuple[Rows | NDArray[np.float32], NDArray[np.uint64]]:
        """Points (n, d), float32 on the grid, and keys (n, 2), part after part."""
        meet(self.identity)
        shape = self.footing.n_points, self.footing.dimensions
        rows: Rows | NDArray[np.float32]
        if self.footing.resident:
            rows, start = np.empty(shape, np.float32), 0
            for chunk in self._rows():
                rows[start : start + len(chunk)] = chunk
                start += len(chunk)
        else:
            if self.store.local is None:
                for above in (Path(self.folder).parents[1], Path(self.folder).parent):
                    own(above)
            for left in Path(self.folder).glob("sketch-*"):  # of a shard that was killed
                shutil.rmtree(left)
            rows = store_smallest(self._rows, Path(self.folder), shape, self.footing.chunk_bytes)
        keys = np.empty((len(rows), 2), np.uint64)
        start = 0
        for part, count in zip(self.parts, self.counts, strict=True):
            keys[start : start + count] = keys_in(self.store.read_table(part, ["key"])["key"])
            start += count
        return rows, keys

    def _rows(self) -> Iterator[NDArray[np.float32]]:
        grid = exact.Grid(self.exponent)
        for part in self.parts:
            values = matrix(self.store.read_table(part, ["embedding"])["embedding"])
            yield grid.encode(exact.normalize_rows(values) if self.cosine else values)


@dataclass(frozen=True)
class Assignments:
    """Writes the clusters of the rows that `PoolRows` read, one file for each of its parts."""

    store: Store
    parts: Sequence[str]
    exponent: int

    def __call__(self, clusters: NDArray[np.int64], distances: NDArray[np.float64]) -> int:
        """Returns the rows written; distances (n,) are exact, on the grid."""
        scaled = exact.Grid(self.exponent).decode_squared(distances).astype(np.float32)
        start = 0
        for part in self.parts:
            table = self.store.read_table(part, ["id", "key"])
            rows = slice(start, start := start + table.num_rows)
            table = table.append_column("cluster", pa.array(clusters[rows], pa.int64()))
            table = table.append_column("distance", pa.array(scaled[rows], pa.float32()))
            self.store.write_table(part_name("tree/level-1/assignments", part_index(part)), table)
        return start
