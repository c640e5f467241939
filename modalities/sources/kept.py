"""Which columns of a table, beside the sample, stay with it (``source.keep``), and as what.

A string is freed of the secrets of uris, as uris are. JSON has no types: a string stays one, everything
else is kept as the JSON that it was. A member of a tar has none either: it is kept as the text that it holds.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from modalities.base import Modality, ModalityError
from modalities.registry import TAKEN
from modalities.sources.paths import printable
from modalities.sources.secrets import redacted


def check_keep(keep: Sequence[str], modality: Modality) -> None:
    """Refuse columns that would meet others of their name in the results.

    Raises:
        ModalityError: a name is taken, or there twice.
    """
    for name in keep:
        if name in TAKEN or name in modality.columns:
            raise ModalityError(
                f"source.keep: the results have a column {name!r} of their own: rename that of the pool, or"
                " leave it out."
            )
    if len(set(keep)) < len(keep):
        raise ModalityError(f"source.keep {', '.join(keep)} names a column twice.")


def kept_types(schema: pa.Schema, keep: Sequence[str], name: str) -> dict[str, pa.DataType]:
    """Return the types in which columns of a Parquet file are kept; of a dictionary, that of its values.

    Raises:
        ModalityError: there is no such column, or it is of an extension type.
    """
    types = {}
    for column in keep:
        if column not in schema.names:
            raise ModalityError(
                f"{name} has no column {column!r}: set source.keep to some of {', '.join(schema.names)}."
            )
        kind = plain_type(schema.field(column).type)
        if _extended(kind):
            raise ModalityError(
                f"{name}: source.keep {column!r} is of the extension type {kind}: write the column as plain"
                " strings, numbers or bytes."
            )
        types[column] = kind
    return types


def plain_type(kind: pa.DataType) -> pa.DataType:
    """Return the type of a column's values, which a dictionary may hold."""
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _extended(kind: pa.DataType) -> bool:
    inside = [kind.value_type] if pa.types.is_dictionary(kind) else []
    inside += [kind.field(i).type for i in range(kind.num_fields)]
    return isinstance(kind, pa.BaseExtensionType) or any(map(_extended, inside))


def kept_value(scalar: pa.Scalar) -> Any:
    """Return a value of a Parquet column as it is kept; one that is not valid Unicode is null."""
    try:
        return _clean(scalar.as_py())
    except (UnicodeDecodeError, ValueError, OverflowError):
        return None


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return redacted(printable(value))
    if isinstance(value, list | tuple):
        return type(value)(map(_clean, value))
    if isinstance(value, dict):
        return {key: _clean(inside) for key, inside in value.items()}
    return value


def kept_of(value: Mapping[str, Any], keep: Iterable[str]) -> dict[str, str | None]:
    """Return what is kept of a JSON object: strings, all else as JSON, null where it is missing."""
    return {name: _as_text(value.get(name)) for name in keep}


def _as_text(value: Any) -> str | None:
    if value is None:
        return None
    return redacted(printable(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)))


def check_keys(
    objects: Iterable[Mapping[str, Any]],
    keep: Sequence[str],
    name: str,
    what: str = "objects",
    has: str = "the key",
) -> None:
    """Refuse keys that none of the first objects of a pool has.

    Args:
        objects: the first ones.
        keep: the keys.
        name: of the file, for the message.
        what: the objects are, there.
        has: what none of them has.

    Raises:
        ModalityError: there is such a key.
    """
    found = list(objects)
    known = sorted(set().union(*found))
    for key in keep:
        if found and key not in known:
            raise ModalityError(
                f"source.keep: none of the first {len(found):,} {what} of {name} has {has} {key!r}; they have"
                f" {', '.join(known) or 'none at all'}."
            )
