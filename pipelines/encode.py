"""The four steps that a part of the pool takes to become embeddings: read, prepare, encode, write.

Each takes and returns a block with one part in it (`pipelines.blocks`). A sample that fails at a step
stays in its part with the reason, so that at the end a part has as many rows as it came with.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from curation.chance import digests
from modalities.base import Modality, Record, Rejected, Source
from modalities.encoders.base import Encoder, OutOfMemory
from modalities.sources.embeddings import EmbeddingsSource
from modalities.sources.paths import printable
from pipelines.blocks import entered, pack, part_name, unpack
from pipelines.errors import BatchError, RunError
from pipelines.form import Form
from pipelines.secrets import hidden
from pipelines.steps import telling
from pipelines.store import Store
from pipelines.watchdog import watchdog

EMBEDDINGS = "embeddings"
REJECTED = "rejected/embed"
DIGEST = b"evenset.digest"
"""Key in the Parquet metadata of a part of embeddings: hash of its ids and embeddings."""

TRUNCATED = "truncated"
"""Column: whether the encoder read a part of the sample alone."""

CUT = b"evenset.truncated"
"""Key beside it, where the encoder may truncate: how many samples of the part it did."""

READ = ("id", "uri", "payload", "reason")
"""Columns of every sample that was read; any other is one that is kept."""

UNREAD = "It could not be read."
NOT_FINITE = "The embedding has NaN or infinite values."
ALL_ZERO = "The embedding is all zero: it has no direction."


def read(block: pa.Table, *, source: Source) -> pa.Table:
    """Read the samples of a part as ``id, uri, payload, reason``."""
    part = entered(block)
    return pack(part.index, tabled(source.read(part), source.kept))


def tabled(found: Iterable[Record], kept: Mapping[str, pa.DataType]) -> pa.Table:
    """Records as a table ``id, uri, payload, reason`` and the columns that are kept, of their types."""
    records = [nameable(record) for record in found]
    columns = {
        "id": pa.array([r.id for r in records], pa.string()),
        "uri": pa.array([r.uri for r in records], pa.string()),
        "payload": pa.array([r.payload for r in records], pa.large_binary()),
        "reason": pa.array([r.reason for r in records], pa.string()),
    }
    for name, kind in kept.items():
        columns[name] = pa.array([r.kept and r.kept.get(name) for r in records], kind)
    return pa.table(columns)


def nameable(record: Record) -> Record:
    """``record``, or a reject in its place where no table can hold its id."""
    if printable(record.id) == record.id:
        return record
    return Record(printable(record.id), printable(record.uri), None, "The id is not valid Unicode.")


def prepare(
    block: pa.Table, *, modality: Modality, encoder: Encoder, timeout: float | None = None
) -> pa.Table:
    """Decode each payload and bring it into the encoder's input format; the payloads end here.

    A process that takes longer than ``timeout`` seconds for one of them ends.
    """
    part, samples = unpack(block)
    return pack(part, prepared(samples, modality, encoder, timeout))


def prepared(
    samples: pa.Table, modality: Modality, encoder: Encoder, timeout: float | None = None
) -> pa.Table:
    """Records of a table, prepared, with what `Modality.describe` says of them; see `prepare`."""
    encoder.open()
    all_ready: list[bytes | str | None] = []
    reasons: list[str | None] = []
    kinds = modality.columns | ({TRUNCATED: pa.bool_()} if encoder.truncates else {})
    described: dict[str, list[Any]] = {name: [] for name in kinds}
    with watchdog(timeout) as alive:
        columns = samples["id"].to_pylist(), samples["payload"], samples["reason"].to_pylist()
        for id, payload, reason in zip(*columns, strict=True):
            ready: bytes | str | None = None
            about: dict[str, Any] = {}
            alive()
            if payload.is_valid:
                try:
                    ready, about = _prepared(id, payload.as_py(), modality, encoder)
                except Exception as error:  # hostile bytes reach libraries that raise anything
                    reason = verdict(error)
            else:
                reason = reason or UNREAD
            all_ready.append(ready)
            reasons.append(reason)
            for name, values in described.items():
                values.append(about.get(name))
    kind = pa.large_string() if encoder.input_shape is None else pa.large_binary()
    table = {
        "id": samples["id"],
        "uri": samples["uri"],
        "reason": pa.array(reasons, pa.string()),
        "prepared": pa.array(all_ready, kind),
        **{name: samples[name] for name in samples.column_names if name not in READ},
        **{name: pa.array(values, kinds[name]) for name, values in described.items()},
    }
    return pa.table(table)


def verdict(error: Exception) -> str:
    """Why a sample is rejected that raised ``error`` when it was decoded or prepared."""
    return (
        str(error)
        if isinstance(error, Rejected)
        else f"It cannot be decoded ({type(error).__name__}: {error})."
    )


def _prepared(
    id: str, payload: bytes, modality: Modality, encoder: Encoder
) -> tuple[bytes | str, dict[str, Any]]:
    sample = modality.decode(payload)
    ready, about = encoder.prepare(sample), modality.completed(modality.describe(sample, payload), id)
    for name, kind in modality.columns.items():
        pa.scalar(about.get(name), kind)  # raises here, where it costs the one sample
    if encoder.truncates:
        about = about | {TRUNCATED: encoder.is_truncated(sample, ready)}
    if isinstance(ready, np.ndarray):
        if not _fits(ready.shape, encoder.input_shape) or ready.dtype != encoder.input_dtype:
            raise Rejected(
                f"The encoder {encoder.spec} prepared {ready.dtype} {ready.shape} instead of its own"
                f" {encoder.input_dtype} {encoder.input_shape}."
            )
        return ready.tobytes(), about
    return ready, about


def _fits(shape: tuple[int, ...], wanted: tuple[int, ...] | None) -> bool:
    """Whether an array has a shape in which -1 stands for any length."""
    wanted = wanted or ()
    return len(shape) == len(wanted) and all(w in (-1, s) for s, w in zip(shape, wanted, strict=True))


class Encode:
    """The model in an actor: loaded once, then a part at a time.

    Args:
        encoder: Not loaded yet; one that learns from the pool has its state already.
    """

    @telling
    def __init__(self, encoder: Encoder) -> None:
        encoder.load()
        self._encoder = encoder

    def __call__(self, block: pa.Table) -> pa.Table:
        """Replace ``prepared`` by ``embedding``, float32, null for a sample that has a reason."""
        part, samples = unpack(block)
        good = np.flatnonzero(samples["reason"].is_null().to_numpy())
        try:
            embeddings, reasons = self._encoder.encode_all(inputs(self._encoder, samples, good))
        except RuntimeError as error:
            raise failed(f"part {part}", error) from error
        return pack(part, embedded(samples, good, embeddings, reasons))


def failed(what: str, error: RuntimeError) -> RunError:
    """What ends the run where an encoder cannot go on; see `Encoder.encode_all`."""
    kind = BatchError if isinstance(error, OutOfMemory) else RunError
    return kind(f"{what} cannot be encoded: {error}")


def inputs(encoder: Encoder, samples: pa.Table, rows: Sequence[int] | NDArray[np.int64]) -> list[Any]:
    """Prepared samples as the encoder takes them."""
    column = samples["prepared"].take(pa.array(rows, pa.int64()))
    if encoder.input_shape is None:
        return list(column.to_pylist())
    shape, dtype = encoder.input_shape, encoder.input_dtype
    return [np.frombuffer(value.as_buffer(), dtype).reshape(shape) for value in column]


def embedded(
    samples: pa.Table, rows: NDArray[np.int64], embeddings: NDArray[np.float32], failures: list[str | None]
) -> pa.Table:
    """``samples`` with ``embedding`` in the place of ``prepared``.

    Args:
        samples: Prepared samples.
        rows: Which of them were encoded; the others have a reason.
        embeddings: Theirs (len(rows), d).
        failures: For each of these rows a reason, or None.
    """
    reasons = samples["reason"].to_pylist()
    for row, failure in zip(rows, failures, strict=True):
        reasons[row] = failure
    encoded = np.zeros((len(samples), embeddings.shape[1]), np.float32)
    encoded[rows] = embeddings
    samples = samples.set_column(
        samples.column_names.index("reason"), "reason", pa.array(reasons, pa.string())
    )
    return samples.set_column(samples.column_names.index("prepared"), "embedding", fixed_lists(encoded))


def write(block: pa.Table, *, store: Store, form: Form) -> pa.Table:
    """Write the embeddings of a part in their form, with its rejects beside them."""
    part, samples = unpack(block)
    embeddings = form.shifted(matrix(samples["embedding"]))
    samples = samples.drop_columns(["embedding"])
    return _write(store, part, samples, embeddings, form)


def ingest(block: pa.Table, *, source: EmbeddingsSource, store: Store, cosine: bool) -> pa.Table:
    """Write a part of a pool that is embedded already, in the precision that it came in."""
    part = entered(block)
    return write_rows(part.index, source.read_vectors(part), source=source, store=store, cosine=cosine)


def write_rows(
    part: int,
    rows: tuple[list[str], list[str], NDArray[Any], list[str | None]],
    *,
    source: EmbeddingsSource,
    store: Store,
    cosine: bool,
) -> pa.Table:
    """Write what `EmbeddingsSource.read_vectors` returned for a part."""
    ids, uris, vectors, reasons = rows
    columns = {"id": ids, "uri": uris, "reason": reasons}
    samples = pa.table({name: pa.array(column, pa.string()) for name, column in columns.items()})
    return _write(store, part, samples, vectors, Form(cosine, np.dtype(source.dtype)))


def _write(
    store: Store,
    part: int,
    samples: pa.Table,
    embeddings: NDArray[Any],
    form: Form,
) -> pa.Table:
    reasons = samples["reason"].to_pylist()
    for row in np.flatnonzero(~np.isfinite(embeddings).all(axis=1)):
        reasons[row] = reasons[row] or NOT_FINITE
    if form.unit:
        for row in np.flatnonzero(~embeddings.any(axis=1)):
            reasons[row] = reasons[row] or ALL_ZERO
    known = {reason: hidden(reason) for reason in set(reasons)}  # a library's message may quote a uri
    reasons = [known[reason] for reason in reasons]
    samples = samples.drop_columns(["reason"])
    good = np.array([reason is None for reason in reasons], dtype=bool)
    kept = form.scaled(embeddings[good])
    table = samples.filter(pa.array(good))
    keys = digests(table["id"].to_pylist())
    table = table.add_column(2, "key", pa.array(keys, pa.binary(16))).add_column(
        3, "embedding", fixed_lists(kept)
    )
    content = hashlib.blake2b(b"".join(keys) + kept.tobytes(), digest_size=16).hexdigest()
    # the rejects come first: a part is done when its embeddings are there
    if not good.all():
        rejects = samples.select(["id", "uri"]).append_column("reason", pa.array(reasons, pa.string()))
        store.write_table(part_name(REJECTED, part), rejects.filter(pa.array(~good)))
    about = {DIGEST: content}
    if TRUNCATED in table.column_names:
        about[CUT] = str(pc.sum(table[TRUNCATED]).as_py() or 0)
    store.write_table(part_name(EMBEDDINGS, part), table.replace_schema_metadata(about))
    counted = json.dumps(Counter(reason for reason in reasons if reason))
    return pa.table({"embedded": [int(good.sum())], "rejected": [int((~good).sum())], "reasons": [counted]})


def fixed_lists(rows: NDArray[Any]) -> pa.FixedSizeListArray:
    """Rows (n, d) as an Arrow array of fixed-size lists."""
    return pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), rows.shape[1])


def matrix(column: pa.ChunkedArray) -> NDArray[Any]:
    """A column of fixed-size lists without nulls as rows (n, d)."""
    width = column.type.list_size
    flat = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in column.chunks]
    kind = column.type.value_type.to_pandas_dtype()
    rows: NDArray[Any] = np.concatenate([np.empty(0, kind), *flat]).reshape(-1, width)
    return rows
