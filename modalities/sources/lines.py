"""Pools with one sample a line: JSON Lines, and plain text, also compressed with gzip or zstd."""

from __future__ import annotations

import posixpath
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from modalities.base import Modality, ModalityError, Part, Record
from modalities.mapper import Mapper, threads
from modalities.sources.compression import Damaged, Forward
from modalities.sources.files import PART_BYTES, PART_ROWS
from modalities.sources.kept import check_keys, kept_of
from modalities.sources.objects import id_in, json_object
from modalities.sources.paths import READ_ERRORS, Listing
from modalities.sources.runs import RunsSource, first_good
from modalities.sources.values import check_addresses, payload_of

CHUNK = 8 * 2**20

LOOKED_AT = 100
"""Lines that are looked at for the keys of ``source.keep``."""


class LinesSource(RunsSource):
    """One sample a line; the id is ``path#line``, counted from 0.

    A line ends at a line feed, a carriage return before it belongs to the end, and the last line needs none.
    """

    sample = "line"

    @abstractmethod
    def record(self, line: bytes, name: str, row: int) -> Record:
        """Turn one line, without its end, into a record."""

    def extents(self, stream: Forward) -> Iterator[tuple[int, int]]:
        """Yield where each line begins and ends."""
        base = last = 0
        while chunk := stream.read(CHUNK):
            found = chunk.find(b"\n")
            while found >= 0:
                yield last, base + found + 1
                last = base + found + 1
                found = chunk.find(b"\n", found + 1)
            base += len(chunk)
        if base > last:
            yield last, base

    def records(self, data: bytes, name: str, rows: range) -> list[Record]:
        """Turn lines into records."""
        lines = data.split(b"\n")
        if lines[-1] == b"" and len(lines) > len(rows):
            lines.pop()
        if len(lines) != len(rows):
            return []
        return [
            self.record(line.removesuffix(b"\r"), name, row) for line, row in zip(lines, rows, strict=True)
        ]


class JsonLinesSource(LinesSource):
    """JSON Lines: an object a line.

    Args:
        listing: the files to choose from.
        modality: what a sample is.
        column: the key of the samples; None takes the modality's usual name.
        id_column: the key of the ids; None numbers the lines.
        part_rows: samples of a part at most.
        keep: keys that stay with the samples, as strings.
    """

    SUFFIXES = (".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz", ".jsonl.zst", ".ndjson.zst")

    def __init__(
        self,
        listing: Listing,
        modality: Modality,
        column: str | None = None,
        id_column: str | None = None,
        part_rows: int = PART_ROWS,
        keep: Sequence[str] = (),
    ) -> None:
        super().__init__(listing, self.SUFFIXES, part_rows)
        self.kept = dict.fromkeys(keep, pa.string())
        self._literal = modality.strings_are_samples
        self._column = column or modality.column_names[0]
        self._named = column is not None
        self._id_column = id_column

    def parts(self, mapper: Mapper = threads) -> Sequence[Part]:
        """As for all lines; raises ModalityError too when the first object lacks a column.

        So it does when the first ones hold addresses that are not followed.
        """
        parts = super().parts(mapper)
        name = first_good(parts).spec["file"]
        sample, found = self._first_objects(name)
        check_keys(found, list(self.kept), name)
        for key, column in (("source.column", self._column), ("source.id_column", self._id_column)):
            if sample is not None and column is not None and column not in sample:
                raise ModalityError(f"{name} has no key {column!r}: set {key} to one of {', '.join(sample)}.")
        values = (value.get(self._column) for value in found)
        check_addresses(values, self._literal, self._root, name, self._column)
        return parts

    def _first_objects(self, name: str) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
        """Return the object of a file's first line, if it is one, and those of some lines from there on."""
        fs, path = self._root.join(name)
        try:
            with fs.open(path, "rb") as file:
                stream = Forward(file)
                text = b""
                while b"\n" not in text and len(text) < PART_BYTES and (chunk := stream.read(CHUNK)):
                    text += chunk
        except (Damaged, *READ_ERRORS):
            return None, []  # reading it will say why
        found = [json_object(line)[0] for line in text.split(b"\n", LOOKED_AT)[:LOOKED_AT]]
        return found[0], [value for value in found if value is not None]

    def record(self, line: bytes, name: str, row: int) -> Record:
        """Parse one line."""
        value, reason = json_object(line)
        if value is None:
            return self.rejected(name, row, reason)
        identity: str | None = f"{self._root.label(name)}#{row}"
        if self._id_column is not None:
            identity, reason = id_in(value, self._id_column)
        if identity is None:
            return self.rejected(name, row, reason)
        if self._column not in value:
            return self.rejected(name, row, f"The line has no key {self._column!r}.")
        folder = posixpath.dirname(name)
        payload, why = payload_of(value[self._column], self._literal, self._root, folder, named=self._named)
        kept = kept_of(value, self.kept) if self.kept else None
        return Record(identity, f"{self._root.uri(name)}#{row}", payload, why, kept)


class TextLinesSource(LinesSource):
    """Plain text: a document a line."""

    SUFFIXES = (".txt", ".text", ".txt.gz", ".text.gz", ".txt.zst", ".text.zst")

    def __init__(self, listing: Listing, part_rows: int = PART_ROWS) -> None:
        super().__init__(listing, self.SUFFIXES, part_rows)

    def record(self, line: bytes, name: str, row: int) -> Record:
        """Take the line as it is; the modality judges it."""
        return Record(f"{self._root.label(name)}#{row}", f"{self._root.uri(name)}#{row}", line)
