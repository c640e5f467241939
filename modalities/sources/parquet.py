"""A pool in Parquet files: one sample a row."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from modalities.base import Modality, ModalityError, Part, Record, Source
from modalities.mapper import Mapper, threads
from modalities.packed import Packed
from modalities.sources import faults
from modalities.sources.columns import (
    check_ids,
    check_plain,
    check_samples,
    find_column,
    is_text,
    require_column,
    unlike,
)
from modalities.sources.files import PART_BYTES, PART_ROWS
from modalities.sources.kept import kept_types, kept_value
from modalities.sources.lists import LOOKED_AT
from modalities.sources.paths import READ_ERRORS, Listing, Root, list_files
from modalities.sources.patience import SlowError
from modalities.sources.runs import first_good
from modalities.sources.values import check_addresses, payload_of

SUFFIXES = (".parquet", ".pq", ".parq")

PARQUET_ERRORS = (*READ_ERRORS, pa.ArrowException, UnicodeDecodeError)
"""What reading Parquet raises where the file is at fault; names in a footer may be any bytes."""

NO_PARQUET = "The file is no Parquet, or is damaged."

GROUP_ROWS = 2**31
"""A row group that claims so many rows is damaged: no page counts beyond."""


class ParquetSource(Source):
    """One sample a row; the id is ``path#row`` or the value of a column.

    The column holds bytes, a struct ``{bytes, path}``, or strings: documents for text, addresses of files
    (relative to the Parquet file, or remote) otherwise.

    Args:
        listing: the files to choose from.
        modality: what a sample is.
        column: where the samples are; None looks for the one that can be meant.
        id_column: where the ids are; None numbers the rows of each file.
        part_rows: samples of a part at most.
        keep: columns that stay with the samples.

    Raises:
        ModalityError: the first file that can be read has no such column, or none or several that could be
            meant; or there is no such file.
    """

    def __init__(
        self,
        listing: Listing,
        modality: Modality,
        column: str | None = None,
        id_column: str | None = None,
        part_rows: int = PART_ROWS,
        keep: Sequence[str] = (),
    ) -> None:
        self._listing: Listing | None = listing
        self._root = listing.root
        self._paths = listing.paths
        self._literal = modality.strings_are_samples
        self._id_column = id_column
        self._part_rows = part_rows
        self._named = column is not None
        self._single = listing.single
        first, schema = self._first_schema(table_files(listing, SUFFIXES))
        self.kept = kept_types(schema, keep, first)
        self._column = column if column is not None else find_column(schema, modality, id_column, first)
        require_column(schema, self._column, "source.column", first)
        check_samples(schema.field(self._column), first)
        if id_column is not None:
            require_column(schema, id_column, "source.id_column", first)
            check_ids(schema.field(id_column), first)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_listing": None}

    def parts(self, mapper: Mapper = threads) -> Sequence[Part]:
        """Cut row groups into parts of at most `part_rows` rows and about `PART_BYTES` bytes."""
        names = table_files(self._listing or list_files(self._paths), SUFFIXES)
        runs = chain.from_iterable(mapper(self._slices, names, 0))
        parts = Packed(Part(index, spec) for index, spec in enumerate(runs))
        if not parts:
            raise ModalityError(f"The pool is empty: the Parquet files of {self._root.url!r} have no rows.")
        first = first_good(parts).spec["file"]
        values = _first_texts(self._root, first, self._column)
        check_addresses(values, self._literal, self._root, first, self._column)
        return parts

    def read(self, part: Part) -> Iterator[Record]:
        """Read the rows of a part; where a row group is damaged, all its rows are records with a reason."""
        spec = part.spec
        if "reason" in spec:
            yield from self.unread(part, spec["reason"])
            return
        name = spec["file"]
        label = self._root.label(name)
        folder = posixpath.dirname(name)
        uri = self._root.uri(name)
        own = [self._column] if self._id_column is None else [self._column, self._id_column]
        columns = list(dict.fromkeys([*own, *self.kept]))
        try:
            table = read_slice(self._root, spec, columns)
        except (*PARQUET_ERRORS, ModalityError, SlowError) as error:
            reason = "The row group cannot be read: the Parquet file is damaged or gone."
            if isinstance(error, SlowError):
                reason = str(error)
            yield from self.unread(part, reason)
            return
        ids = None if self._id_column is None else read_ids(table, self._id_column)
        for i, value in enumerate(table.column(self._column)):
            row = spec["first"] + spec["start"] + i
            where = f"{uri}#{row}"
            id, wrong = (f"{label}#{row}", None) if ids is None else ids[i]
            if id is None:
                yield Record(f"{label}#{row}", where, None, wrong)
                continue
            payload, why = payload_of(_value(value), self._literal, self._root, folder, named=self._named)
            kept = {key: kept_value(table.column(key)[i]) for key in self.kept}
            yield Record(id, where, payload, why, kept or None)

    def unread(self, part: Part, reason: str) -> Iterator[Record]:
        """Name the rows of a part by their numbers."""
        name, first = part.spec["file"], part.spec["first"]
        label, uri = self._root.label(name), self._root.uri(name)
        for row in range(first + part.spec["start"], first + part.spec["stop"]):
            yield Record(f"{label}#{row}", f"{uri}#{row}", None, reason)

    def _first_schema(self, names: Sequence[str]) -> tuple[str, pa.Schema]:
        """The name and the columns of the first file that can be read, by which the others are judged."""
        failures: list[ModalityError] = []
        for name in names:
            try:
                return name, open_parquet(self._root, name).schema_arrow
            except ModalityError as error:
                if not _is_its_own(error):
                    raise
                failures.append(error)
        raise failures[0]  # `table_files` names one file at least

    def _slices(self, name: str) -> list[dict[str, Any]]:
        """Specs of the parts of one file; one among others that cannot be used is one rejected sample."""
        try:
            file = open_parquet(self._root, name)
            misfit = unlike(file.schema_arrow, self._column, self._id_column, self.kept)
            if misfit is None:
                return list(slices(file.metadata, name, self._part_rows))
        except ModalityError as error:
            if self._single or not _is_its_own(error):
                raise
            misfit = _reason(error.__cause__)
        return [
            {"file": name, "row_group": 0, "step": 1, "start": 0, "stop": 1, "first": 0, "reason": misfit}
        ]


def read_ids(table: pa.Table, name: str) -> list[tuple[str | None, str | None]]:
    """Return for each row its id from the column `name`, or None and the reason why it has none."""
    ids: list[tuple[str | None, str | None]] = []
    for scalar in table.column(name):
        try:
            value = scalar.as_py()
        except UnicodeDecodeError:
            ids.append((None, f"The id column {name!r} is not valid UTF-8."))
        else:
            ids.append((None, f"The id column {name!r} is null.") if value is None else (str(value), None))
    return ids


def table_files(listing: Listing, suffixes: Sequence[str]) -> Sequence[str]:
    """Return the names of the table files of a listing.

    Raises:
        ModalityError: there are none.
    """
    names = Packed(file.name for file in listing.having(suffixes))
    if not names:
        raise ModalityError(
            f"The pool is empty: source.path {listing.root.url!r} holds no {', '.join(suffixes)} file."
        )
    return names


def open_parquet(root: Root, name: str, buffer_size: int = 0) -> pq.ParquetFile:
    """Open a Parquet file and read its footer.

    Args:
        root: what its name is relative to.
        name: of the file.
        buffer_size: bytes of a column that are fetched at once; 0 fetches it as a whole.

    Raises:
        ModalityError: it is not there or no Parquet.
    """
    fs, path = root.join(name)
    try:
        # what is fetched ahead would be all of the row group, whatever the buffer
        file = pq.ParquetFile(fs.open(path, "rb"), buffer_size=buffer_size, pre_buffer=not buffer_size)
        file.schema_arrow.names  # noqa: B018 - they may be damaged as well
        return file
    except PARQUET_ERRORS as error:
        raise unreadable(root.uri(name), error) from error


def _is_its_own(error: ModalityError) -> bool:
    """Whether a file is at fault that cannot be used, and not the way to it."""
    cause = error.__cause__
    return not isinstance(cause, READ_ERRORS) or faults.is_its_own(cause)


def _reason(cause: BaseException | None) -> str:
    """Say why a file cannot be used; what Arrow finds damaged is an OSError without a number."""
    of_disk = isinstance(cause, OSError) and (type(cause) is not OSError or cause.errno)
    return faults.told(cause) if cause is not None and of_disk else NO_PARQUET


def unreadable(where: str, error: Exception) -> ModalityError:
    """Return the error that says that a file is no Parquet, or is damaged."""
    return ModalityError(f"{where} cannot be read as Parquet ({error}): repair it or take it out.")


def slices(metadata: pq.FileMetaData, name: str, part_rows: int) -> Iterator[dict[str, Any]]:
    """Cut the row groups of one file into parts, and yield their specs.

    Raises:
        ModalityError: the footer is damaged.
    """
    first = 0
    for group in range(metadata.num_row_groups):
        group_meta = metadata.row_group(group)
        rows = group_meta.num_rows
        if not 0 <= rows < GROUP_ROWS:
            raise unreadable(name, ValueError(f"a row group of {rows:,} rows"))
        # of all columns: asking for one of a damaged footer ends the process (an exception that Arrow leaves)
        size = group_meta.total_byte_size
        step = max(1, min(part_rows, PART_BYTES * rows // max(size, 1)))
        for start in range(0, rows, step):
            stop = min(start + step, rows)
            spec = {"file": name, "row_group": group, "step": step, "start": start, "stop": stop}
            yield spec | {"first": first}
        first += rows


class _Cursor:
    """The place in a row group where this process stopped reading.

    Parquet cannot start in the middle of a row group; a process that takes the parts of a long one in order
    would otherwise read it from its start each time.
    """

    def __init__(self) -> None:
        self.key: tuple[Any, ...] = ()
        self.position = 0
        self.batches: Iterator[pa.RecordBatch] = iter(())
        self.rest: pa.Table | None = None

    def take(self, root: Root, spec: dict[str, Any], columns: list[str]) -> pa.Table:
        key = (root.url, spec["file"], spec["row_group"], spec["step"], tuple(columns))
        if key != self.key or spec["start"] < self.position:
            file = open_parquet(root, spec["file"])
            for column in columns:
                if column in file.schema_arrow.names:  # the file may be another one than was listed
                    check_plain(file.schema_arrow.field(column), spec["file"])
            self.batches = file.iter_batches(spec["step"], row_groups=[spec["row_group"]], columns=columns)
            self.key, self.position, self.rest = key, 0, None
        try:
            self._read(spec["start"] - self.position)
            return self._read(spec["stop"] - spec["start"])
        except BaseException:
            self.key = ()  # an iterator that failed cannot go on
            raise

    def _read(self, rows: int) -> pa.Table:
        pieces = [] if self.rest is None else [self.rest]
        held = sum(piece.num_rows for piece in pieces)
        while held < rows:
            batch = next(self.batches, None)
            if batch is None:
                raise pa.ArrowInvalid("The row group is shorter than its metadata say.")
            pieces.append(pa.Table.from_batches([batch]))
            held += batch.num_rows
        if not pieces:
            return pa.table({})
        table = pa.concat_tables(pieces)
        self.rest = table.slice(rows)
        self.position += rows
        return table.slice(0, rows)


_cursor = _Cursor()


def read_slice(root: Root, spec: dict[str, Any], columns: list[str]) -> pa.Table:
    """Read the rows of one part.

    Raises:
        ModalityError, OSError, pyarrow.ArrowException: the file is damaged or gone.
        SlowError: it takes longer than the root allows.
    """
    global _cursor
    cursor = _cursor
    try:
        return root.in_time(lambda: cursor.take(root, spec, columns))
    except SlowError:
        _cursor = _Cursor()  # the old one is still being moved
        raise


def _first_texts(root: Root, name: str, column: str) -> list[Any]:
    """Some values of a column of strings; none of any other."""
    try:
        file = open_parquet(root, name, buffer_size=2**16)  # else the whole row group would be fetched
        if not is_text(file.schema_arrow.field(column).type):
            return []
        batch = next(file.iter_batches(LOOKED_AT, columns=[column]), None)
    except (*PARQUET_ERRORS, ModalityError, KeyError):
        return []  # reading it will say why
    return [] if batch is None else [_value(scalar) for scalar in batch.column(0)]


def _value(scalar: pa.Scalar) -> Any:
    """A sample as Python has it; of a string that is not UTF-8 the bytes, which the modality judges."""
    if isinstance(scalar, pa.StructScalar):
        return _struct(scalar) if scalar.is_valid else None
    try:
        return scalar.as_py()
    except UnicodeDecodeError:
        return scalar.as_buffer().to_pybytes()


def _struct(scalar: pa.StructScalar) -> dict[str, Any]:
    """The bytes and the path of a sample; other fields may be anything."""
    held = {"bytes": _value(scalar["bytes"])}
    place = scalar.type.get_field_index("path")
    if place >= 0 and is_text(scalar.type.field(place).type):
        path = _value(scalar[place])
        held["path"] = path.decode("utf-8", "surrogateescape") if isinstance(path, bytes) else path
    return held
