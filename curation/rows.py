"""Where a block's points lie: in memory, or in a file that is read in passes.

What is computed from rows never depends on which it is: both give the same float32 multiples of 2^-24,
chunk after chunk. `Footing` decides which it is, from the bytes that a worker may take.
"""

from __future__ import annotations

import os
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numba import njit
from numpy.typing import NDArray

from curation import sketch
from curation.errors import CurationError

CHUNK_BYTES = 256 << 20
"""Bytes of the float32 rows that a pass holds at a time."""

STATE_BYTES = 104
"""Of a point beside its coordinates: key, norms and order (48), labels, and what draws and sums need."""

TABLE_BYTES = 28
"""Of a coordinate of a centroid: twice as float32, once more in slices, and two tables of int64 sums."""

_CHUNKS = 4  # that exist at a time: this one, the next, that as read, and what is made of them
_LEAST_ROWS = 256  # of a chunk

Chunks = Iterable[NDArray[np.float32]]

_SINGLES = np.arange(2**16, dtype=np.uint16).view(np.float16).astype(np.float32)


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _widen(halves: NDArray[np.uint16], singles: NDArray[np.float32], out: NDArray[np.float32]) -> None:
    """float16 as float32, several times as fast as NumPy."""
    for i in range(halves.size):
        out[i] = singles[halves[i]]


@dataclass(frozen=True)
class Footing:
    """How a worker holds n points within its memory: all of them, or a chunk at a time.

    Args:
        memory: Bytes that it may take for its points and centroids, beside its process.
        n_points: Its points n.
        dimensions: Columns d.
        n_clusters: Most centroids k of a fit.
        n_selected: Most points of a resampling step, which are held a second time.

    Raises:
        CurationError: Not even a small block of rows fits.
    """

    memory: int
    n_points: int
    dimensions: int
    n_clusters: int
    n_selected: int = 0

    def __post_init__(self) -> None:
        if self.memory < self.least:
            more = "spread the points over more workers (cluster.shards)"
            raise CurationError(
                f"{self.memory:,} bytes of memory are too few for {self.n_points:,} points of "
                f"{self.dimensions} dimensions and {self.n_clusters:,} clusters: their keys and labels, the "
                f"centroids and a block of rows take at least {self.least:,}; allow that much "
                f"(cluster.memory), or {more if 2 * self.table < self.memory else 'ask for fewer clusters'}"
            )

    @property
    def fixed(self) -> int:
        """Bytes that it takes however the rows are held."""
        state = STATE_BYTES * (self.n_points + self.n_selected)
        return state + self.table

    @property
    def table(self) -> int:
        """Bytes of all centroids, and of what is reckoned of them."""
        return TABLE_BYTES * self.n_clusters * self.dimensions

    @property
    def least(self) -> int:
        """The smallest memory that will do."""
        return self.fixed + min(self._rows, _CHUNKS * _LEAST_ROWS * 4 * self.dimensions)

    @property
    def _rows(self) -> int:
        """Bytes of all rows with their sketch."""
        width = self.dimensions + (sketch.SIZE if sketch.pays(self.dimensions) else 0)
        return 4 * width * (self.n_points + self.n_selected)

    @property
    def whole(self) -> int:
        """Bytes that it takes with all rows in memory, and their sketch."""
        return self.fixed + self._rows

    @property
    def resident(self) -> bool:
        """Whether that fits."""
        return self.whole <= self.memory

    @property
    def chunk_bytes(self) -> int:
        """Bytes of float32 rows to hold at a time, where not all rows fit."""
        return max(4 * self.dimensions, min(CHUNK_BYTES, (self.memory - self.fixed) // _CHUNKS))


class Rows(ABC):
    """Rows (n, d), float32 on the grid.

    Attributes:
        shape: (n, d).
    """

    shape: tuple[int, int]

    def __len__(self) -> int:
        return self.shape[0]

    @abstractmethod
    def chunks(self) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """Every row once: where a chunk stands, and its rows, to be read only."""

    @abstractmethod
    def take(self, index: NDArray[np.int64]) -> NDArray[np.float32]:
        """The rows of an index, in its order."""

    def whole(self) -> NDArray[np.float32]:
        """All rows as one array, to be read only."""
        out = np.empty(self.shape, np.float32)
        for where, rows in self.chunks():
            out[where] = rows
        return out

    @abstractmethod
    def select(self, index: NDArray[np.int64]) -> Rows:
        """The rows of an ascending index as rows of their own."""

    @property
    def step(self) -> int:
        """Rows a chunk."""
        return max(1, CHUNK_BYTES // (4 * self.shape[1]))


class ResidentRows(Rows):
    """Rows in memory.

    Args:
        values: The rows; not copied.
    """

    def __init__(self, values: NDArray[np.float32]) -> None:
        self.values = values
        self.shape = (values.shape[0], values.shape[1])

    def chunks(self) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """See `Rows.chunks`."""
        for start in range(0, len(self), self.step):
            where = slice(start, min(len(self), start + self.step))
            yield where, self.values[where]

    def take(self, index: NDArray[np.int64]) -> NDArray[np.float32]:
        """See `Rows.take`."""
        return self.values[index]

    def whole(self) -> NDArray[np.float32]:
        """See `Rows.whole`; no copy."""
        return self.values

    def select(self, index: NDArray[np.int64]) -> ResidentRows:
        """See `Rows.select`; a copy, since it is read many times."""
        return ResidentRows(self.values[index])


class StoredRows(Rows):
    """Rows in a file on a local disk: float16 where they fit it exactly, else float32.

    Pages that a pass has read are given back to the system, so that a pool larger than memory does not
    push everything else out of it.

    Args:
        path: The file: rows one after another, without a header.
        dtype: float16 or float32.
        dimensions: Columns d.
        chunk_bytes: Bytes of the float32 rows that a pass holds at a time.
        index: Which rows of the file, ascending; all by default.
    """

    def __init__(
        self,
        path: Path,
        dtype: str,
        dimensions: int,
        chunk_bytes: int = CHUNK_BYTES,
        index: NDArray[np.int64] | None = None,
    ) -> None:
        self.path, self.dtype = path, np.dtype(dtype)
        self.chunk_bytes, self.index = chunk_bytes, index
        self._row_bytes = self.dtype.itemsize * dimensions
        n = path.stat().st_size // self._row_bytes if index is None else len(index)
        self.shape = (n, dimensions)

    @property
    def step(self) -> int:
        """Rows a chunk."""
        return max(1, self.chunk_bytes // (4 * self.shape[1]))

    def chunks(self) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """See `Rows.chunks`; the next one is read meanwhile."""
        with self.path.open("rb", buffering=0) as file, ThreadPoolExecutor(1) as ahead:
            coming: list[tuple[slice, Future[NDArray[np.float32]]]] = []
            for where, low, high, wanted in self._spans():
                coming.append((where, ahead.submit(self._read, file.fileno(), low, high, wanted)))
                if len(coming) > 1:
                    yield self._arrived(coming)
            while coming:
                yield self._arrived(coming)

    @staticmethod
    def _arrived(
        coming: list[tuple[slice, Future[NDArray[np.float32]]]],
    ) -> tuple[slice, NDArray[np.float32]]:
        where, rows = coming.pop(0)
        return where, rows.result()

    def _spans(self) -> Iterator[tuple[slice, int, int, NDArray[np.int64] | None]]:
        """Where each chunk stands, rows low..high-1 of the file to read for it, and which of them to keep."""
        start = 0
        while start < len(self):
            if self.index is None:
                stop = min(len(self), start + self.step)
                yield slice(start, stop), start, stop, None
            else:
                # what lies between the rows wanted is read as well, and counts as part of the chunk
                low = int(self.index[start])
                stop = int(np.searchsorted(self.index, low + self.step))
                wanted = self.index[start:stop] - low
                yield slice(start, stop), low, low + int(wanted[-1]) + 1, wanted
            start = stop

    def _read(
        self, descriptor: int, low: int, high: int, wanted: NDArray[np.int64] | None = None
    ) -> NDArray[np.float32]:
        """Rows low..high-1 of the file, or those wanted of them."""
        raw = np.empty((high - low, self.shape[1]), self.dtype)
        view = raw.reshape(-1).view(np.uint8).data
        start, done = low * self._row_bytes, 0
        while done < len(view):
            got = os.preadv(descriptor, [view[done:]], start + done)
            if not got:
                raise EOFError(f"{self.path} ended early: it was cut while it was read; run again to mend it")
            done += got
        os.posix_fadvise(descriptor, start, len(view), os.POSIX_FADV_DONTNEED)
        found = raw if wanted is None else raw[wanted]
        if found.dtype == np.float32:
            return found
        out = np.empty(found.shape, np.float32)
        _widen(found.reshape(-1).view(np.uint16), _SINGLES, out.reshape(-1))
        return out

    def take(self, index: NDArray[np.int64]) -> NDArray[np.float32]:
        """See `Rows.take`."""
        where = index if self.index is None else self.index[index]
        with self.path.open("rb", buffering=0) as file:
            # a page for a row: reading ahead would bring in, and keep, most of the file
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
            out = np.empty((len(where), self.shape[1]), np.float32)
            for position, row in enumerate(where.tolist()):
                raw = os.pread(file.fileno(), self._row_bytes, row * self._row_bytes)
                out[position] = np.frombuffer(raw, self.dtype)
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return out

    def select(self, index: NDArray[np.int64]) -> StoredRows:
        """See `Rows.select`; an index into the same file."""
        where = index if self.index is None else self.index[index]
        return StoredRows(self.path, self.dtype.str, self.shape[1], self.chunk_bytes, where)


def store(
    chunks: Iterator[NDArray[np.float32]], path: Path, dimensions: int, chunk_bytes: int = CHUNK_BYTES
) -> StoredRows:
    """Writes chunks of rows on the grid to a new file, as float32."""
    _write(path, chunks, np.dtype("<f4"))
    return StoredRows(path, "<f4", dimensions, chunk_bytes)


def store_smallest(
    read: Callable[[], Chunks], folder: Path, shape: tuple[int, int], chunk_bytes: int
) -> StoredRows:
    """Writes rows on the grid to a file in a folder, as float16 if that holds all of them exactly.

    A file that an earlier call has finished there is taken as it is: the folder belongs to these rows.

    Args:
        read: Gives the rows chunk after chunk, from the first, each time it is called.
        folder: Where to write; made if it is not there.
        shape: (n, d) of all rows together.
        chunk_bytes: Bytes of the float32 rows that a pass holds at a time.
    """
    n, dimensions = shape
    folder.mkdir(parents=True, exist_ok=True)
    for dtype in (np.dtype("<f2"), np.dtype("<f4")):
        path = folder / f"rows.{dtype.str[1:]}"
        if path.exists() and path.stat().st_size == n * dimensions * dtype.itemsize:
            return StoredRows(path, dtype.str, dimensions, chunk_bytes)
    for dtype in (np.dtype("<f2"), np.dtype("<f4")):
        part = folder / f".{uuid.uuid4().hex}.part"
        try:
            if _write(part, read(), dtype):
                part.replace(path := folder / f"rows.{dtype.str[1:]}")
                return StoredRows(path, dtype.str, dimensions, chunk_bytes)
        finally:
            part.unlink(missing_ok=True)
    raise AssertionError("float32 holds every row on the grid")


def _write(path: Path, chunks: Chunks, dtype: np.dtype[np.floating]) -> bool:
    """Writes rows to a file; stops, and says False, at the first that the dtype does not hold exactly."""
    with path.open("wb") as file:
        for chunk in chunks:
            narrow = np.ascontiguousarray(chunk, dtype)
            if dtype != np.float32 and not np.array_equal(narrow, chunk):
                return False
            file.write(narrow.reshape(-1).view(np.uint8).data)
            file.flush()
            os.fsync(file.fileno())  # only clean pages can be given back
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return True
