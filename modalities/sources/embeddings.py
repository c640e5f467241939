"""A pool that is already embedded: ``.npy`` of shape (n, d), or Parquet with ids and embeddings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from tokenize import TokenError
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from modalities.base import ModalityError, Part, Record, Source
from modalities.mapper import Mapper, threads
from modalities.packed import Packed
from modalities.sources.columns import check_ids, require_column
from modalities.sources.files import PART_BYTES
from modalities.sources.parquet import (
    PARQUET_ERRORS,
    SUFFIXES,
    open_parquet,
    read_ids,
    read_slice,
    slices,
    unreadable,
)
from modalities.sources.paths import READ_ERRORS, File, Listing, Root
from modalities.sources.patience import SlowError

PART_ROWS = 16_384
"""Rows of a part at most: vectors are small, and there is nothing to encode."""

Vectors = NDArray[np.float16] | NDArray[np.float32]
Reasons = list[str | None]
Specs = list[dict[str, Any]]


class EmbeddingsSource(Source):
    """Rows that are embeddings already; `read_vectors` takes the place of `read`.

    A ``.npy`` file names its rows by their index, several files by ``path#index``.

    Args:
        listing: the files to choose from, all ``.npy`` or all Parquet.
        column: the column of the embeddings (Parquet only), a list or fixed-size list of floats.
        id_column: the column of the ids (Parquet only).
        part_rows: rows of a part at most.

    Raises:
        ModalityError: a file is damaged, not of floats, or differs from the others in its dimension.
    """

    def __init__(
        self,
        listing: Listing,
        column: str | None = None,
        id_column: str | None = None,
        part_rows: int = PART_ROWS,
    ) -> None:
        self._root = listing.root
        self._column = column or "embedding"
        self._id_column = id_column or "id"
        self._part_rows = part_rows
        kinds = Packed(
            (file.name, _is_array(self._root, file)) for file in listing.having((".npy", *SUFFIXES))
        )
        arrays, tables = (
            Packed(name for name, is_array in kinds if is_array is kind) for kind in (True, False)
        )
        if bool(arrays) == bool(tables):
            found = "both .npy and Parquet files" if arrays else "neither a .npy nor a Parquet file"
            raise ModalityError(
                f"source.path {self._root.url!r} holds {found}; embeddings come in one of them."
            )
        self._several = len(arrays) > 1
        self._dim = 0
        self._dtype: np.dtype[Any] = np.dtype(np.float16)
        described = threads(self._array if arrays else self._table, arrays or tables)
        specs = enumerate(chain.from_iterable(self._adopted(*one) for one in described))
        self._parts = Packed(Part(index, spec) for index, spec in specs)
        if not self._parts:
            raise ModalityError(f"The pool is empty: the embeddings of {self._root.url!r} have no rows.")

    @property
    def dim(self) -> int:
        """Length of an embedding."""
        return self._dim

    @property
    def dtype(self) -> np.dtype[Any]:
        """float16 where all files store it, else float32."""
        return self._dtype

    def parts(self, mapper: Mapper = threads) -> Sequence[Part]:
        """Return runs of at most `part_rows` rows and `PART_BYTES` bytes."""
        return self._parts

    def read(self, part: Part) -> Iterator[Record]:
        """Not available: the pool holds embeddings, not samples."""
        raise ModalityError(f"The pool {self._root.url!r} holds embeddings; it has no samples to read.")

    def read_vectors(self, part: Part) -> tuple[list[str], list[str], Vectors, Reasons]:
        """Read the rows of a part as they are stored.

        Returns:
            The ids, the uris, the embeddings (n, dim) in `dtype`, and for each row None or the reason why it
            cannot be used: its id is null or not valid UTF-8 (then ``path#row`` stands for it), its
            embedding is null or of another length (then it is all NaN), or both, where it was not read in
            time.

        Raises:
            ModalityError: the file was damaged or removed since it was listed.
        """
        try:
            return self._read_table(part.spec) if "row_group" in part.spec else self._read_array(part.spec)
        except SlowError as error:
            return self.unread_vectors(part, str(error))

    def unread(self, part: Part, reason: str) -> Iterator[Record]:
        """Name the rows of a part by their numbers."""
        ids, uris, _, _ = self.unread_vectors(part, reason)
        for id, uri in zip(ids, uris, strict=True):
            yield Record(id, uri, None, reason)

    def unread_vectors(self, part: Part, reason: str) -> tuple[list[str], list[str], Vectors, Reasons]:
        """The rows of a part that nobody looks at: as many as there are, and none that can be used."""
        spec = part.spec
        first = spec.get("first", 0)
        rows = range(first + spec["start"], first + spec["stop"])
        vectors = np.full((len(rows), self._dim), np.nan, self._dtype)
        label, uri = f"{self._root.label(spec['file'])}#", self._root.uri(spec["file"])
        if "row_group" not in spec and not self._several:
            label = ""
        return (
            [f"{label}{row}" for row in rows],
            [f"{uri}#{row}" for row in rows],
            vectors,
            [reason] * len(rows),
        )

    def _adopted(self, name: str, dim: int, dtype: np.dtype[Any], specs: Specs) -> Specs:
        """The parts of a file, whose embeddings are like those before."""
        if not dim:
            return []  # a table without rows
        if self._dim and dim != self._dim:
            raise ModalityError(f"{name} has embeddings of {dim} dimensions, those before it of {self._dim}.")
        self._dim = dim
        if dtype != np.float16:
            self._dtype = np.dtype(np.float32)
        return specs

    def _array(self, name: str) -> tuple[str, int, np.dtype[Any], Specs]:
        """Of a file its name, the length and type of its embeddings, and specs of its parts."""
        (rows, dim), dtype, offset = _array_header(self._root, name)
        step = max(1, min(self._part_rows, PART_BYTES // (dim * dtype.itemsize)))
        one = {"file": name, "offset": offset, "dtype": dtype.str}
        runs = ((start, min(start + step, rows)) for start in range(0, rows, step))
        return name, dim, dtype, [one | {"start": start, "stop": stop} for start, stop in runs]

    def _read_array(self, spec: dict[str, Any]) -> tuple[list[str], list[str], Vectors, Reasons]:
        name, start, stop = spec["file"], spec["start"], spec["stop"]
        dtype = np.dtype(spec["dtype"])
        size = (stop - start) * self._dim * dtype.itemsize
        offset = spec["offset"] + start * self._dim * dtype.itemsize
        try:
            data = self._root.in_time(lambda: _stretch(self._root, name, offset, size))
        except READ_ERRORS as error:
            raise ModalityError(f"{self._root.uri(name)} cannot be read: {error}.") from error
        if len(data) != size:
            raise ModalityError(f"{self._root.uri(name)} is shorter than its header says.")
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is rejected
            vectors = np.frombuffer(data, dtype).reshape(stop - start, self._dim).astype(self._dtype)
        uri = self._root.uri(name)
        label = f"{self._root.label(name)}#" if self._several else ""
        rows = range(start, stop)
        return (
            [f"{label}{row}" for row in rows],
            [f"{uri}#{row}" for row in rows],
            vectors,
            [None] * len(rows),
        )

    def _table(self, name: str) -> tuple[str, int, np.dtype[Any], Specs]:
        """As `_array`; a length of 0 where there are no rows."""
        file = open_parquet(self._root, name)
        schema = file.schema_arrow
        require_column(schema, self._column, "source.column", name)
        require_column(schema, self._id_column, "source.id_column", name)
        check_ids(schema.field(self._id_column), name)
        kind = schema.field(self._column).type
        kind = kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind
        lists = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
        if not lists or not pa.types.is_floating(kind.value_type):
            raise ModalityError(f"{name}: column {self._column!r} is of type {kind}, not a list of floats.")
        dim = kind.list_size if pa.types.is_fixed_size_list(kind) else self._first_length(name, file)
        part_rows = max(1, min(self._part_rows, PART_BYTES // (4 * max(dim, 1))))
        dtype = np.dtype(kind.value_type.to_pandas_dtype())
        return name, dim, dtype, list(slices(file.metadata, name, part_rows))

    def _first_length(self, name: str, file: Any) -> int:
        """Return the length of a file's first embedding, 0 for a file without rows."""
        try:
            for batch in file.iter_batches(1024, columns=[self._column]):
                lengths = batch.column(0).value_lengths().drop_null()
                if len(lengths) and lengths[0].as_py():
                    return int(lengths[0].as_py())
        except PARQUET_ERRORS as error:
            raise unreadable(name, error) from error
        if file.metadata.num_rows:
            raise ModalityError(f"{name}: column {self._column!r} holds no embedding, only nulls.")
        return 0

    def _read_table(self, spec: dict[str, Any]) -> tuple[list[str], list[str], Vectors, Reasons]:
        name = spec["file"]
        try:
            table = read_slice(self._root, spec, [self._id_column, self._column])
        except PARQUET_ERRORS as error:
            raise ModalityError(f"{self._root.uri(name)} cannot be read: {error}.") from error
        first = spec["first"] + spec["start"]
        uri, label = self._root.uri(name), self._root.label(name)
        vectors, reasons = self._matrix(table.column(self._column))
        ids: list[str] = []
        for i, (id, wrong) in enumerate(read_ids(table, self._id_column)):
            ids.append(f"{label}#{first + i}" if id is None else id)
            reasons[i] = wrong or reasons[i]
        return ids, [f"{uri}#{first + i}" for i in range(len(ids))], vectors, reasons

    def _matrix(self, column: pa.ChunkedArray) -> tuple[Vectors, Reasons]:
        array = column.combine_chunks()
        if isinstance(array, pa.ChunkedArray):
            array = pa.concat_arrays(array.chunks)
        if isinstance(array, pa.ExtensionArray):
            array = array.storage
        matrix: Vectors = np.full((len(array), self._dim), np.nan, dtype=self._dtype)
        lengths = array.value_lengths().fill_null(-1).to_numpy(zero_copy_only=False)
        lengths = np.where(array.is_valid().to_numpy(zero_copy_only=False), lengths, -1)
        whole = lengths == self._dim
        # flatten() leaves out nulls, so the values of the whole rows are consecutive.
        kept = array.filter(pa.array(whole))
        values = kept.flatten().to_numpy(zero_copy_only=False)
        matrix[whole] = values.reshape(-1, self._dim)
        reasons: Reasons = [None] * len(array)
        for row in np.flatnonzero(~whole):
            length = int(lengths[row])
            reasons[row] = (
                "The embedding is null."
                if length < 0
                else f"The embedding has {length} dimensions, not {self._dim}."
            )
        return matrix, reasons


def _stretch(root: Root, name: str, offset: int, size: int) -> bytes:
    fs, path = root.join(name)
    with fs.open(path, "rb") as stream:
        stream.seek(offset)
        data: bytes = stream.read(size)
    return data


def _is_array(root: Root, file: File) -> bool:
    if file.suffix == ".npy" or not file.named:
        return file.suffix == ".npy"  # and if it is none after all, its header says what is wrong
    fs, path = root.join(file.name)
    try:
        with fs.open(path, "rb") as stream:
            return bool(stream.read(6) == b"\x93NUMPY")
    except READ_ERRORS as error:
        raise ModalityError(f"{root.uri(file.name)} cannot be read: {error}.") from error


def _array_header(root: Root, name: str) -> tuple[tuple[int, int], np.dtype[Any], int]:
    """Return shape, dtype and the offset of the data of a ``.npy`` file; pickled objects are refused."""
    uri = root.uri(name)
    fs, path = root.join(name)
    try:
        size = fs.size(path)
        if size == 0:
            raise ModalityError(f"{uri} is empty: it has 0 bytes.")
        with fs.open(path, "rb") as stream:
            version = np.lib.format.read_magic(stream)
            header = np.lib.format.read_array_header_1_0 if version == (1, 0) else (
                np.lib.format.read_array_header_2_0
            )  # fmt: skip
            shape, fortran, dtype = header(stream)
            offset = stream.tell()
    except (*READ_ERRORS, ValueError, SyntaxError, TokenError, RecursionError, MemoryError) as error:
        raise ModalityError(f"{uri} cannot be read as .npy: {error}.") from error
    if len(shape) != 2 or not shape[1]:
        raise ModalityError(f"{uri} has the shape {shape}; embeddings are (n, d).")
    if not np.issubdtype(dtype, np.floating):
        raise ModalityError(f"{uri} holds {dtype}; embeddings are float16, float32 or float64.")
    if fortran and min(shape) > 1:
        raise ModalityError(f"{uri} is stored column by column: save numpy.ascontiguousarray of it.")
    if size is not None and size < offset + shape[0] * shape[1] * dtype.itemsize:
        raise ModalityError(f"{uri} is shorter than its header says: it was cut off.")
    return (int(shape[0]), int(shape[1])), dtype, int(offset)
