"""How labels and centroids are kept in files: written by the worker that has them, read by any other.

A file is named by the hash of its content, so that what is damaged shows, and what is there already is
not written again. A list of rows is kept in pieces, and read in stretches that need not be the same.
"""

from __future__ import annotations

import hashlib
import io
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from curation.block import PointBlock
from curation.errors import CurationError
from curation.points import Labels

Stretch = tuple[int, int]
"""Positions low..high-1 of a list that is kept in pieces."""


class Files(Protocol):
    """Where a checkpoint is kept; a file appears whole or not at all."""

    def exists(self, rel: str) -> bool:
        """Whether there is a file."""

    def list(self, rel: str, suffix: str) -> Sequence[str]:
        """Paths of the files right in a folder whose names end in `suffix`."""

    def read_bytes(self, rel: str) -> bytes:
        """The content of a file."""

    def write_bytes(self, rel: str, data: bytes) -> None:
        """Writes a file."""

    def delete(self, rel: str) -> None:
        """Deletes a file or a whole folder, if it is there."""


class DamagedError(CurationError):
    """A file of a checkpoint is missing, or is not what was written."""


@dataclass(frozen=True)
class Kept:
    """A list of rows that is kept in pieces, a file each.

    Attributes:
        names: The files, in order; their names begin with the hash of their content.
        counts: Rows in each.
    """

    names: list[str]
    counts: list[int]

    def __len__(self) -> int:
        return sum(self.counts)


class KeptBlock(PointBlock):
    """A block that also writes and reads what a checkpoint keeps."""

    def keep(
        self, own: Labels | NDArray[np.float32] | None, files: Files, folder: str
    ) -> tuple[str, int] | None:
        """Writes labels or centroids into the folder; the name of the file and its rows."""
        if own is None:
            return None
        if not isinstance(own, Labels):
            return write_array(files, folder, own), len(own)
        columns = [own.first] if own.second is None else [own.first, own.second]
        return write_array(files, folder, np.stack(columns, axis=1)), len(own.first)

    def check(self, own: Sequence[str], files: Files, folder: str) -> str:
        """What is wrong with the first of some files that is not as it was written; empty if none is."""
        try:
            for name in own:
                read_array(files, folder, name)
        except DamagedError as error:
            return str(error)
        return ""

    def read_centroids(
        self, own: Stretch | None, files: Files, folder: str, kept: Kept
    ) -> NDArray[Any] | None:
        """Reads a stretch of centroids; nothing for None."""
        return None if own is None else _stretch(files, folder, kept, own)

    def read_labels(self, own: Stretch, files: Files, folder: str, kept: Kept) -> Labels:
        """Reads a stretch of labels."""
        columns = _stretch(files, folder, kept, own)
        return Labels(*(np.ascontiguousarray(column) for column in columns.T))

    def size_of(self, view: str) -> int:
        """Number of this block's points in a view."""
        return len(self._points(view))


def write_array(files: Files, folder: str, array: NDArray[Any]) -> str:
    """Writes an array to a file named by its content, and returns the name."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    name = f"{digest(buffer.getbuffer())}.npy"
    if not files.exists(f"{folder}/{name}"):
        files.write_bytes(f"{folder}/{name}", buffer.getvalue())
    return name


def read_array(files: Files, folder: str, name: str) -> NDArray[Any]:
    """Reads an array.

    Raises:
        DamagedError: The file is not there, or not what its name says.
    """
    try:
        data = files.read_bytes(f"{folder}/{name}")
    except FileNotFoundError as error:
        raise DamagedError(f"{folder}/{name} is missing") from error
    if f"{digest(data)}.npy" != name:
        raise DamagedError(f"{folder}/{name} is damaged: its content is not what was written")
    try:
        array: NDArray[Any] = np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise DamagedError(f"{folder}/{name} is no array of numbers") from error
    return array


def digest(data: bytes | memoryview) -> str:
    """128-bit hash by which what is kept is known again."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _stretch(files: Files, folder: str, kept: Kept, stretch: Stretch) -> NDArray[Any]:
    low, high = stretch
    parts: list[NDArray[Any]] = []
    for name, (start, end) in zip(kept.names, itertools.pairwise(np.cumsum([0, *kept.counts])), strict=True):
        if (start < high and low < end) or (low == high and not parts):
            array = read_array(files, folder, name)
            parts.append(array[max(0, low - start) : max(0, high - start)])
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
