"""Pools whose files hold samples one after the other: a part is a run of them, bytes from here to there."""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

from modalities.base import ModalityError, Part, Record, Source
from modalities.mapper import Mapper, threads
from modalities.packed import Packed
from modalities.sources import faults
from modalities.sources.compression import Damaged, Forward
from modalities.sources.files import PART_BYTES, PART_ROWS
from modalities.sources.paths import READ_ERRORS, Listing, Root, list_files
from modalities.sources.patience import SlowError

GONE = "The file is gone or shorter than when it was listed."


class RunsSource(Source):
    """Samples that follow each other in a file, which may be compressed with gzip or zstd.

    The spec of a part is ``file``, ``start`` and ``stop`` (its samples, counted from 0), ``offset`` and
    ``length`` (its bytes, as they are without compression), ``codec`` where the file is compressed, and
    ``reason`` where its samples cannot be used.

    Args:
        listing: the files to choose from.
        suffixes: which of them are read; ``.gz`` or ``.zst`` may follow.
        part_rows: samples of a part at most.

    Attributes:
        sample: what the pool calls a sample.
        sample_bytes: a larger one is rejected unread.
    """

    sample = "sample"
    sample_bytes = PART_BYTES

    def __init__(self, listing: Listing, suffixes: Sequence[str], part_rows: int = PART_ROWS) -> None:
        self._listing: Listing | None = listing
        self._root = listing.root
        self._paths = listing.paths
        self._single = listing.single
        self._suffixes = tuple(suffixes)
        self._part_rows = part_rows

    def __getstate__(self) -> dict[str, Any]:
        # A task needs its part, not the names of the whole pool.
        return self.__dict__ | {"_listing": None}

    @abstractmethod
    def extents(self, stream: Forward) -> Iterator[tuple[int, int]]:
        """Yield where each sample of a file begins and ends.

        Raises:
            Damaged: the rest of the file cannot be read.
        """

    @abstractmethod
    def records(self, data: bytes, name: str, rows: range) -> list[Record]:
        """Turn the bytes of a part into its records; another number of them is a part that changed."""

    def parts(self, mapper: Mapper = threads) -> Sequence[Part]:
        """Cut files into runs of samples; this reads each file once, to find where they begin."""
        listing = self._listing or list_files(self._paths)
        files = listing.having(self._suffixes)
        runs = mapper(self._runs, Packed(file.name for file in files), sum(file.size or 0 for file in files))
        parts = Packed(Part(index, spec) for index, spec in enumerate(chain.from_iterable(runs)))
        if not parts:
            raise ModalityError(
                f"The pool is empty: source.path {self._root.url!r} holds no {', '.join(self._suffixes)} file"
                f" with a {self.sample} in it."
            )
        return parts

    def read(self, part: Part) -> Iterator[Record]:
        """Read the samples of a part; a bad one is a record with a reason and costs only itself."""
        rows = range(part.spec["start"], part.spec["stop"])
        found: list[Record] = []
        reason = part.spec.get("reason")
        if reason is None:
            try:
                data = self._root.in_time(lambda: stretch(self._root, part.spec))
                found = self.records(data, part.spec["file"], rows)
            except (SlowError, Damaged) as error:
                reason = str(error)
            except READ_ERRORS as error:
                reason = f"The file cannot be read ({type(error).__name__})."
        if reason is not None or len(found) != len(rows):
            yield from self.unread(part, reason or GONE)
        else:
            yield from found

    def unread(self, part: Part, reason: str) -> Iterator[Record]:
        """Name the samples of a part by their numbers."""
        for row in range(part.spec["start"], part.spec["stop"]):
            yield self.rejected(part.spec["file"], row, reason)

    def rejected(self, name: str, row: int, reason: str) -> Record:
        """Return the record of a sample that cannot be used."""
        return Record(f"{self._root.label(name)}#{row}", f"{self._root.uri(name)}#{row}", None, reason)

    def _runs(self, name: str) -> list[dict[str, Any]]:
        """Specs of the parts of a file; one among others that cannot be read is one rejected sample."""
        fs, path = self._root.join(name)
        try:
            with fs.open(path, "rb") as file:
                stream = Forward(file)
                codec = {} if stream.codec is None else {"codec": stream.codec}
                return [{"file": name, **spec, **codec} for spec in self._cut(self.extents(stream))]
        except READ_ERRORS as error:
            if self._single or not faults.is_its_own(error):
                raise ModalityError(f"{self._root.uri(name)} cannot be read: {error}.") from error
            return [{"file": name, **_lost(0, 0, faults.told(error))}]

    def _cut(self, extents: Iterable[tuple[int, int]]) -> Iterator[dict[str, Any]]:
        """Yield specs of at most `part_rows` samples and about `PART_BYTES`; a large sample stands alone."""
        row = start = offset = end = 0
        too_large = {"reason": f"The {self.sample} has more than {self.sample_bytes:,} bytes."}
        try:
            for first, last in extents:
                if row > start and (row - start == self._part_rows or last - offset > PART_BYTES):
                    yield {"start": start, "stop": row, "offset": offset, "length": end - offset}
                    start = row
                row += 1
                if last - first > self.sample_bytes:
                    yield {"start": start, "stop": row, "offset": first, "length": last - first, **too_large}
                    start = row
                offset = first if row - start <= 1 else offset
                end = last
            damage = None
        except Damaged as found:
            damage = str(found)
        if row > start:
            yield {"start": start, "stop": row, "offset": offset, "length": end - offset}
        if damage is not None:
            yield _lost(row, end, damage)


def _lost(row: int, offset: int, reason: str) -> dict[str, Any]:
    """Of what cannot be read from an offset on: one rejected sample."""
    return {"start": row, "stop": row + 1, "offset": offset, "length": 0, "reason": reason}


def first_good(parts: Sequence[Part]) -> Part:
    """The first part that can be read; where there is none, the first."""
    return next((part for part in parts if "reason" not in part.spec), parts[0])


class _Cursor:
    """The place in a compressed file where this process stopped reading.

    Such a file is read from its beginning alone; a process that takes its parts in order passes through it
    once.
    """

    def __init__(self) -> None:
        self._key: tuple[Any, ...] = ()
        self._file: Any = None
        self._stream: Forward | None = None

    def take(self, root: Root, spec: dict[str, Any]) -> bytes:
        key = (root.url, spec["file"])
        if self._stream is None or key != self._key or self._stream.position > spec["offset"]:
            self.close()
            fs, path = root.join(spec["file"])
            self._file = fs.open(path, "rb")
            self._key, self._stream = key, Forward(self._file)
        stream = self._stream
        try:
            stream.skip(spec["offset"] - stream.position)
            return stream.read(spec["length"])
        except BaseException:
            self.close()  # a stream that failed cannot go on
            raise

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file = self._stream = None


_idle: deque[_Cursor] = deque(maxlen=1)
"""A read that nobody waits for any more may still move its cursor, so one that is at work is not here."""


def stretch(root: Root, spec: dict[str, Any]) -> bytes:
    """Return the bytes of a part, fewer where the file was cut.

    Raises:
        OSError, EOFError: the file is gone or cannot be read.
        Damaged: the compressed data are not what they were when they were listed.
    """
    if "codec" in spec:
        cursor = _idle.pop() if _idle else _Cursor()
        data = cursor.take(root, spec)
        _idle.append(cursor)
        return data
    fs, path = root.join(spec["file"])
    with fs.open(path, "rb") as stream:
        stream.seek(spec["offset"])
        text: bytes = stream.read(spec["length"])
    return text
