"""Pools with one sample a line: JSON Lines, and plain text."""

from __future__ import annotations

import json
import posixpath
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

from modalities.base import Modality, ModalityError, Part, Record, Source
from modalities.sources.files import PART_BYTES, PART_ROWS
from modalities.sources.paths import READ_ERRORS, Listing, Root, list_files, printable
from modalities.sources.patience import SlowError
from modalities.sources.values import payload_of

CHUNK = 8 * 2**20


class LinesSource(Source):
    """One sample a line; the id is ``path#line``, counted from 0.

    A line ends at a line feed, a carriage return before it belongs to the end, and the last line needs none.

    Args:
        listing: the files to choose from.
        suffixes: which of them are read.
        part_rows: samples of a part at most.
    """

    def __init__(self, listing: Listing, suffixes: Sequence[str], part_rows: int = PART_ROWS) -> None:
        self._listing: Listing | None = listing
        self._root = listing.root
        self._paths = listing.paths
        self._suffixes = tuple(suffixes)
        self._part_rows = part_rows

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_listing": None}

    @abstractmethod
    def record(self, line: bytes, name: str, row: int) -> Record:
        """Turn one line, without its end, into a record."""

    def parts(self) -> list[Part]:
        """Cut files into runs of lines; this reads each file once, to find where its lines begin."""
        listing = self._listing or list_files(self._paths)
        parts: list[Part] = []
        for file in listing.having(self._suffixes):
            for spec in _runs(self._root, file.name, self._part_rows):
                parts.append(Part(len(parts), spec))
        if not parts:
            raise ModalityError(
                f"The pool is empty: source.path {self._root.url!r} holds no {', '.join(self._suffixes)} file"
                " with a line in it."
            )
        return parts

    def read(self, part: Part) -> Iterator[Record]:
        """Read the lines of a part; a bad line is a record with a reason and costs only itself."""
        spec = part.spec
        name, first, rows = spec["file"], spec["start"], spec["stop"] - spec["start"]
        reason = "The file is gone or shorter than when it was listed."
        lines: list[bytes] = []
        try:
            if spec["length"] > PART_BYTES:
                reason = f"The line has more than {PART_BYTES:,} bytes."
            else:
                lines = self._root.in_time(lambda: _text(self._root, spec)).split(b"\n")
                if lines[-1] == b"" and len(lines) > rows:
                    lines.pop()
        except SlowError as error:
            reason = str(error)
        except READ_ERRORS as error:
            reason = f"The file cannot be read ({type(error).__name__})."
        for i in range(rows):
            row = first + i
            if len(lines) == rows:
                yield self.record(lines[i].removesuffix(b"\r"), name, row)
            else:
                yield self.rejected(name, row, reason)

    def unread(self, part: Part, reason: str) -> Iterator[Record]:
        """Name the lines of a part by their numbers."""
        for row in range(part.spec["start"], part.spec["stop"]):
            yield self.rejected(part.spec["file"], row, reason)

    def rejected(self, name: str, row: int, reason: str) -> Record:
        """Return the record of a line that cannot be used."""
        return Record(f"{self._root.label(name)}#{row}", f"{self._root.uri(name)}#{row}", None, reason)


class JsonLinesSource(LinesSource):
    """JSON Lines: an object a line.

    Args:
        listing: the files to choose from.
        modality: what a sample is.
        column: the key of the samples; None takes the modality's usual name.
        id_column: the key of the ids; None numbers the lines.
        part_rows: samples of a part at most.
    """

    SUFFIXES = (".jsonl", ".ndjson")

    def __init__(
        self,
        listing: Listing,
        modality: Modality,
        column: str | None = None,
        id_column: str | None = None,
        part_rows: int = PART_ROWS,
    ) -> None:
        super().__init__(listing, self.SUFFIXES, part_rows)
        self._literal = modality.strings_are_samples
        self._column = column or modality.column_names[0]
        self._named = column is not None
        self._id_column = id_column

    def parts(self) -> list[Part]:
        """As for all lines; raises ModalityError too when the first object lacks a column."""
        parts = super().parts()
        sample = self._first_object(parts[0])
        for key, column in (("source.column", self._column), ("source.id_column", self._id_column)):
            if sample is not None and column is not None and column not in sample:
                raise ModalityError(
                    f"{parts[0].spec['file']} has no key {column!r}: set {key} to one of {', '.join(sample)}."
                )
        return parts

    def _first_object(self, part: Part) -> dict[str, Any] | None:
        fs, path = self._root.join(part.spec["file"])
        with fs.open(path, "rb") as stream:
            value, _ = _json_object(stream.readline(PART_BYTES))
        return value

    def record(self, line: bytes, name: str, row: int) -> Record:
        """Parse one line."""
        value, reason = _json_object(line)
        if value is None:
            return self.rejected(name, row, reason)
        identity = (
            value.get(self._id_column) if self._id_column is not None else f"{self._root.label(name)}#{row}"
        )
        if isinstance(identity, bool) or not isinstance(identity, str | int):
            return self.rejected(name, row, f"The key {self._id_column!r} holds no string or integer.")
        if printable(str(identity)) != str(identity):
            return self.rejected(name, row, f"The key {self._id_column!r} holds no valid Unicode.")
        if self._column not in value:
            return self.rejected(name, row, f"The line has no key {self._column!r}.")
        folder = posixpath.dirname(name)
        payload, why = payload_of(value[self._column], self._literal, self._root, folder, named=self._named)
        return Record(str(identity), f"{self._root.uri(name)}#{row}", payload, why)


class TextLinesSource(LinesSource):
    """Plain text: a document a line."""

    SUFFIXES = (".txt", ".text")

    def __init__(self, listing: Listing, part_rows: int = PART_ROWS) -> None:
        super().__init__(listing, self.SUFFIXES, part_rows)

    def record(self, line: bytes, name: str, row: int) -> Record:
        """Take the line as it is; the modality judges it."""
        return Record(f"{self._root.label(name)}#{row}", f"{self._root.uri(name)}#{row}", line)


def _json_object(line: bytes) -> tuple[dict[str, Any] | None, str]:
    if not line.strip():
        return None, "The line is blank."
    try:
        value = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError:
        return None, "The line is not valid UTF-8."
    except (ValueError, RecursionError):
        return None, "The line is not valid JSON."
    return (value, "") if isinstance(value, dict) else (None, "The line is not a JSON object.")


def _text(root: Root, spec: dict[str, Any]) -> bytes:
    fs, path = root.join(spec["file"])
    with fs.open(path, "rb") as stream:
        stream.seek(spec["offset"])
        text: bytes = stream.read(spec["length"])
    return text


def _runs(root: Root, name: str, part_rows: int) -> Iterator[dict[str, Any]]:
    """Yield specs of at most `part_rows` lines and `PART_BYTES` bytes; a longer line stands alone."""
    offset = row = start = 0
    position = 0
    for end in _line_ends(root, name):
        rows, length = row - start, end - offset
        if rows and (rows == part_rows or length > PART_BYTES):
            yield {"file": name, "start": start, "stop": row, "offset": offset, "length": position - offset}
            start, offset = row, position
        row, position = row + 1, end
    if row > start:
        yield {"file": name, "start": start, "stop": row, "offset": offset, "length": position - offset}


def _line_ends(root: Root, name: str) -> Iterator[int]:
    """Yield the byte offset just behind each line of a file."""
    fs, path = root.join(name)
    try:
        with fs.open(path, "rb") as stream:
            base = last = 0
            while chunk := stream.read(CHUNK):
                found = chunk.find(b"\n")
                while found >= 0:
                    last = base + found + 1
                    yield last
                    found = chunk.find(b"\n", found + 1)
                base += len(chunk)
            if base > last:
                yield base
    except READ_ERRORS as error:
        raise ModalityError(f"{root.uri(name)} cannot be read: {error}.") from error
