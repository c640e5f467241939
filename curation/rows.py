"""Where a block's points lie: in memory, or in a file that is read in passes.

What is computed from rows never depends on which it is: both give the same float32 multiples of 2^-24,
chunk after chunk.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

CHUNK_BYTES = 256 << 20
"""Bytes of the float32 rows that a pass holds at a time."""


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
        exponent: Rows are divided by 2^exponent.
        chunk_bytes: Bytes of the float32 rows that a pass holds at a time.
        index: Which rows of the file, ascending; all by default.
    """

    def __init__(
        self,
        path: Path,
        dtype: str,
        dimensions: int,
        exponent: int = 0,
        chunk_bytes: int = CHUNK_BYTES,
        index: NDArray[np.int64] | None = None,
    ) -> None:
        self.path, self.dtype, self.exponent = path, np.dtype(dtype), exponent
        self.chunk_bytes, self.index = chunk_bytes, index
        self._row_bytes = self.dtype.itemsize * dimensions
        n = path.stat().st_size // self._row_bytes if index is None else len(index)
        self.shape = (n, dimensions)

    @property
    def step(self) -> int:
        """Rows a chunk."""
        return max(1, self.chunk_bytes // (4 * self.shape[1]))

    def chunks(self) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """See `Rows.chunks`."""
        with self.path.open("rb", buffering=0) as file:
            for start in range(0, len(self), self.step):
                where = slice(start, min(len(self), start + self.step))
                if self.index is None:
                    low, high, pick = where.start, where.stop, None
                else:
                    wanted = self.index[where]
                    low, high, pick = int(wanted[0]), int(wanted[-1]) + 1, wanted - wanted[0]
                values = self._read(file.fileno(), low, high)
                yield where, values if pick is None else values[pick]

    def _read(self, descriptor: int, low: int, high: int) -> NDArray[np.float32]:
        raw = np.empty((high - low, self.shape[1]), self.dtype)
        view = memoryview(raw).cast("B")
        start, done = low * self._row_bytes, 0
        while done < len(view):
            got = os.preadv(descriptor, [view[done:]], start + done)
            if not got:
                raise EOFError(f"{self.path} ended early; it was cut while it was read")
            done += got
        os.posix_fadvise(descriptor, start, len(view), os.POSIX_FADV_DONTNEED)
        values = raw.astype(np.float32, copy=False)
        return np.ldexp(values, -self.exponent) if self.exponent else values

    def take(self, index: NDArray[np.int64]) -> NDArray[np.float32]:
        """See `Rows.take`."""
        where = index if self.index is None else self.index[index]
        mapped = np.memmap(self.path, self.dtype, "r").reshape(-1, self.shape[1])
        values = mapped[where].astype(np.float32)
        return np.ldexp(values, -self.exponent) if self.exponent else values

    def select(self, index: NDArray[np.int64]) -> StoredRows:
        """See `Rows.select`; an index into the same file."""
        where = index if self.index is None else self.index[index]
        return StoredRows(self.path, self.dtype.str, self.shape[1], self.exponent, self.chunk_bytes, where)


def store(
    chunks: Iterator[NDArray[np.float32]], path: Path, dimensions: int, chunk_bytes: int = CHUNK_BYTES
) -> StoredRows:
    """Writes chunks of rows on the grid to a new file, as float32."""
    with path.open("wb") as file:
        for chunk in chunks:
            file.write(memoryview(np.ascontiguousarray(chunk)).cast("B"))
            file.flush()
            os.fsync(file.fileno())  # only clean pages can be given back
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return StoredRows(path, "<f4", dimensions, 0, chunk_bytes)
