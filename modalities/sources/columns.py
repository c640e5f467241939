"""Columns of a table: which one holds the samples, and what those may be that hold samples and ids."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import pyarrow as pa

from modalities.base import Modality, ModalityError
from modalities.sources.kept import plain_type
from modalities.sources.plain import unsafe_type


def find_column(schema: pa.Schema, modality: Modality, id_column: str | None, name: str) -> str:
    """Return the column that holds the samples: one with a usual name, or the only one that could.

    Raises:
        ModalityError: there is none, or several and none with a usual name.
    """
    fields = [field for field in schema if field.name != id_column]
    # Addresses are fetched only from a column that the user names.
    fits = is_text if modality.strings_are_samples else _is_payload
    candidates = [field.name for field in fields if fits(field.type)]
    for usual in modality.column_names:
        if usual in candidates:
            return usual
    if len(candidates) == 1:
        return str(candidates[0])
    found = "several columns that could be" if candidates else "no column of"
    raise ModalityError(
        f"{name} has {found} {modality.name} samples: set source.column to one of {', '.join(schema.names)}"
        " (or source.format=embeddings, if it holds embeddings)."
    )


def require_column(schema: pa.Schema, column: str, key: str, name: str) -> None:
    """Raise ModalityError where a column is missing."""
    if column not in schema.names:
        raise ModalityError(
            f"{name} has no column {column!r}: set {key} to one of {', '.join(schema.names)}."
        )


def check_ids(field: pa.Field, name: str) -> None:
    """Raise ModalityError where a column cannot name samples."""
    if not _holds_ids(field.type):
        raise ModalityError(
            f"{name}: source.id_column {field.name!r} is of type {field.type}; ids are strings or integers."
        )


def check_samples(field: pa.Field, name: str) -> None:
    """Raise ModalityError where a column cannot hold samples."""
    check_plain(field, name)
    if not _holds_samples(field.type):
        raise ModalityError(
            f"{name}: source.column {field.name!r} is of type {field.type}; samples are bytes,"
            " strings or structs with the fields bytes and path."
        )


def check_plain(field: pa.Field, name: str) -> None:
    """Raise ModalityError where the values of a column could be read only by running code of the file."""
    if kind := unsafe_type(field.type):
        raise ModalityError(
            f"{name}: column {field.name!r} is of the extension type {kind!r}, whose values are made by"
            " running what the file says: write the column as plain bytes, strings or numbers."
        )


def unlike(
    schema: pa.Schema, column: str, id_column: str | None, kept: Mapping[str, pa.DataType]
) -> str | None:
    """Say why a file does not have the columns that the first one has; None where it does.

    Args:
        schema: of the file.
        column: where the samples are.
        id_column: where the ids are, if anywhere.
        kept: types of the columns that stay with the samples.
    """
    wanted: list[tuple[str, Callable[[pa.DataType], bool]]] = [(column, _holds_samples)]
    wanted += [] if id_column is None else [(id_column, _holds_ids)]
    wanted += [(key, partial(_is_kept_as, wanted=kind)) for key, kind in kept.items()]
    for name, fits in wanted:
        if name not in schema.names:
            return f"The file has no column {name!r}."
        if not fits(kind := schema.field(name).type):
            return f"The column {name!r} of the file is of type {kind}, unlike that of the first file."
    return None


def _holds_ids(kind: pa.DataType) -> bool:
    return is_text(kind) or bool(pa.types.is_integer(kind))


def _holds_samples(kind: pa.DataType) -> bool:
    return unsafe_type(kind) is None and (is_text(kind) or _is_payload(kind))


def _is_kept_as(kind: pa.DataType, wanted: pa.DataType) -> bool:
    return bool(plain_type(kind) == wanted)


def is_text(kind: pa.DataType) -> bool:
    """Tell whether the values of a type are strings."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
                or (pa.types.is_dictionary(kind) and is_text(kind.value_type)))  # fmt: skip


def _is_payload(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        place = kind.get_field_index("bytes")
        held = kind.field(place).type if place >= 0 else kind
        return _is_binary(held) or is_text(held) or bool(pa.types.is_null(held))  # null: all are addresses
    return _is_binary(kind)


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))
