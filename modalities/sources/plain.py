"""Which types of a table are data and nothing else? Those whose values no Python class makes.

Arrow gives the values of an extension type to the class that is registered under its name, and a file may
claim any name. Ray Data registers one whose values are pickles ("ray.data.arrow_pickled_object"), in every
process that runs a pipeline: reading such a value runs what the file says. So no value of a type that a
Python class makes is ever looked at, however deep in a column the type sits.
"""

from __future__ import annotations

import pyarrow as pa


def unsafe_type(kind: pa.DataType) -> str | None:
    """Name the extension type in `kind` whose values a Python class makes, or return None.

    A tensor (an extension of a list of floats, as Ray and others write embeddings) is safe: it is read as the
    list that it is stored as.
    """
    if isinstance(kind, pa.ExtensionType):
        return None if _is_vector(kind.storage_type) else str(kind.extension_name)
    if isinstance(kind, pa.BaseExtensionType):  # Arrow's own: uuid, json, fixed-shape tensors
        return unsafe_type(kind.storage_type)
    if pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
        return unsafe_type(kind.value_type)
    inside = (unsafe_type(kind.field(i).type) for i in range(kind.num_fields))
    return next((name for name in inside if name), None)


def _is_vector(kind: pa.DataType) -> bool:
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return bool(lists and pa.types.is_floating(kind.value_type))


def unsafe_column(schema: pa.Schema) -> tuple[str, str] | None:
    """Return the name and the type of the first column with an `unsafe_type`, or None."""
    for field in schema:
        if name := unsafe_type(field.type):
            return str(field.name), name
    return None
