"""Do two samples of the pool share an id? Found by a hash partition of the stored keys."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
from numpy.typing import NDArray

from pipelines.blocks import keys_in
from pipelines.groups import groups
from pipelines.store import Store

KEYS_A_BUCKET = 8_000_000
"""Keys that one task sorts; 16 bytes each."""


def find_duplicate(store: Store, files: Sequence[str], rows: int) -> tuple[str, list[str]] | None:
    """An id that two of the ``rows`` samples in ``files`` share, and the uris of all that have it; or None.

    The keys stay in the object store: tasks spread those of some parts over buckets by their first
    bits, and one task a bucket looks for equal ones.
    """
    buckets = max(1, -(-rows // KEYS_A_BUCKET))
    spread = ray.remote(num_returns=buckets)(_spread)
    grouped = groups(files)
    pieces = [spread.remote(store, group, buckets) for group in grouped]
    columns = [[piece[b] for piece in pieces] for b in range(buckets)] if buckets > 1 else [pieces]
    twice = ray.remote(_twice)
    found = [key for key in ray.get([twice.remote(*column) for column in columns]) if key is not None]
    if not found:
        return None
    key = min(found)
    look = ray.remote(_look_up)
    rows_with_it = [
        row for answer in ray.get([look.remote(store, g, key) for g in grouped]) for row in answer
    ]
    return rows_with_it[0][0], [uri for _, uri in rows_with_it]


def _spread(
    store: Store, files: Sequence[str], buckets: int
) -> list[NDArray[np.uint64]] | NDArray[np.uint64]:
    keys = np.concatenate([keys_in(store.read_table(file, ["key"])["key"]) for file in files])
    if buckets == 1:
        return keys
    bucket = keys[:, 0] % np.uint64(buckets)
    return [keys[bucket == b] for b in range(buckets)]


def _twice(*pieces: NDArray[np.uint64]) -> bytes | None:
    """The smallest key that occurs twice, as its 16 bytes."""
    keys = np.concatenate(pieces)
    keys = keys[np.lexsort((keys[:, 1], keys[:, 0]))]
    same = np.flatnonzero((keys[1:] == keys[:-1]).all(axis=1))
    return keys[same[0]].astype(">u8").tobytes() if len(same) else None


def _look_up(store: Store, files: Sequence[str], key: bytes) -> list[tuple[str, str]]:
    found = []
    for file in files:
        table = store.read_table(file, ["id", "uri", "key"])
        hits = table.filter(pc.equal(table["key"], pa.scalar(key, pa.binary(16))))
        found += list(zip(hits["id"].to_pylist(), hits["uri"].to_pylist(), strict=True))
    return found
