"""A part of the pool on its way through Ray Data: one row of one block, whatever its size.

Ray Data may split and merge blocks of rows as it likes. A part must stay whole, because batches are
formed from it (docs/method.md, "The same answer everywhere") and because it is the unit of resuming; so a
part travels as a single row ``(part, rows)``, with its samples as an Arrow stream in ``rows``.
"""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from curation.chance import KEY_BYTES, keys_from_buffer
from modalities.base import Part


def enter(part: Part) -> pa.Table:
    """The block with which a part enters the stream: where to find it in the pool."""
    return pa.table({"part": pa.array([part.index], pa.int64()), "spec": [json.dumps(part.spec)]})


def entered(block: pa.Table) -> Part:
    """The part that `enter` wrote down."""
    return Part(int(block.column("part")[0].as_py()), json.loads(block.column("spec")[0].as_py()))


def pack(part: int, rows: pa.Table) -> pa.Table:
    """One part's samples as a table of one row."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as stream:
        stream.write_table(rows)
    data = sink.getvalue()
    ends = pa.py_buffer(np.array([0, data.size], dtype=np.int64))
    packed = pa.Array.from_buffers(pa.large_binary(), 1, [None, ends, data])  # no copy of the samples
    return pa.table({"part": pa.array([part], pa.int64()), "rows": packed})


def unpack(block: pa.Table) -> tuple[int, pa.Table]:
    """The part's index and its samples; what `pack` packed."""
    with pa.ipc.open_stream(block.column("rows")[0].as_buffer()) as stream:
        return int(block.column("part")[0].as_py()), stream.read_all()


def keys_in(column: pa.ChunkedArray) -> NDArray[np.uint64]:
    """A ``key`` column as keys (n, 2), uint64, as `curation.chance.keys_of` makes them."""
    flat = [
        memoryview(chunk.buffers()[1])[chunk.offset * KEY_BYTES :][: len(chunk) * KEY_BYTES]
        for chunk in column.chunks
    ]
    return keys_from_buffer(b"".join(flat))


def part_name(folder: str, index: int) -> str:
    """Where a stage writes one part: ``folder/part-00000.parquet``."""
    return f"{folder}/part-{index:05d}.parquet"


def part_index(rel: str) -> int:
    """The index in a path that `part_name` made."""
    return int(rel.rsplit("part-", 1)[1].removesuffix(".parquet"))
