"""The export stage: ``curated/`` and the pool become files to train from, in ``export/``.

``parquet/part-*`` (the curated columns and the payload, or the embedding), ``geoparquet/part-*`` (the
curated columns and the footprint), ``files/`` (a folder of the samples), ``ids.txt`` and, for a pool of
embeddings, ``rows.npy``; and always ``index/part-*`` (id, key, file, row), which says where each sample went
and marks its part as done. Parts are those of the pool.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from numpy.typing import NDArray
from ray.data import Dataset

from modalities.base import Modality, Part, Record, Source
from modalities.sources.embeddings import EmbeddingsSource
from pipelines import stream, written
from pipelines.blocks import entered, keys_in, part_index, part_name
from pipelines.config import Config
from pipelines.encode import EMBEDDINGS, fixed_lists
from pipelines.errors import RequestError, RunError
from pipelines.naming import file_name
from pipelines.pool import Pool, is_embedded, open_pool, records
from pipelines.progress import Progress
from pipelines.resources import resources
from pipelines.store import Store

FOLDER = "export"
INDEX = f"{FOLDER}/index"
GEOPARQUET = f"{FOLDER}/geoparquet"


def export(config: Config, store: Store, progress: Progress, pool: Pool | None = None) -> dict[str, Any]:
    """Write the curated set in every form of ``export.formats``.

    Args:
        config: What was asked for.
        store: The run directory, with a curated set.
        progress: Advances by samples of the pool.
        pool: The pool where it is open already.

    Returns:
        ``samples`` (distinct ones) and ``formats``; with geoparquet ``without_place``, those without a
        footprint, and ``notes`` where there are any.

    Raises:
        RequestError: The pool has no files, or no places.
        RunError: A curated sample cannot be read any more.
    """
    pool = pool or open_pool(config)
    check_formats(config, pool)
    done = {part_index(rel) for rel in store.list(INDEX)}
    todo = pool.left(done)
    there = pool.size - int(pool.samples[todo].sum())
    progress.start("export", pool.size, "samples", done=there)
    curated = ray.remote(_sorted_curated).remote(store)
    firsts = np.concatenate([[0], np.cumsum(pool.samples)])

    def build_stream(parts: Dataset) -> Dataset:
        return stream.tasks(
            parts,
            _export_part,
            num_cpus=1.0,
            source=pool.source,
            modality=pool.modality,
            store=store,
            curated=[curated],
            firsts=firsts,
            formats=list(config.export.formats),
        )

    with closing(stream.rows_of(pool.chosen(todo), build_stream, resources(config.ray))) as rows:
        for row in rows:
            progress.advance(int(pool.samples[row["part"]]))
    parts, id_list = range(len(pool.parts)), "ids" in config.export.formats
    samples = ray.get(ray.remote(_finish).remote(store, parts, id_list, is_embedded(pool)))
    progress.finish()
    counts: dict[str, Any] = {"samples": samples, "formats": list(config.export.formats)}
    if "geoparquet" in config.export.formats:
        counts["without_place"] = ray.get(ray.remote(_without_place).remote(store, parts))
        if counts["without_place"]:
            note = (
                f"{counts['without_place']:,} of the {samples:,} curated samples have no footprint in"
                f" {GEOPARQUET}: they have no CRS, or reach beyond Earth"
            )
            progress.say(note)
            counts["notes"] = [note]
    return counts


def check_formats(config: Config, pool: Pool) -> None:
    """Refuse a form of export that the pool cannot take, before any work starts.

    Raises:
        RequestError: Files were asked for of a pool of embeddings, or footprints where samples have none.
    """
    if is_embedded(pool) and "files" in config.export.formats:
        raise RequestError("export.formats: a pool of embeddings has no files to write: use parquet, ids")
    if "geoparquet" in config.export.formats:
        _check_footprints(config, pool)


def _check_footprints(config: Config, pool: Pool) -> None:
    from pipelines.footprints import COLUMNS
    from pipelines.geoparquet import ADDED

    columns = pool.modality.columns
    if is_embedded(pool) or not columns.keys() >= {*COLUMNS}:
        what = "a pool of embeddings" if is_embedded(pool) else f"modality {pool.modality.name!r}"
        raise RequestError(
            f"export.formats: geoparquet needs places on Earth, which {what} has not: leave it out (modality"
            " 'satellite' has them)"
        )
    if taken := sorted({*ADDED} & {*config.source.keep, *columns}):
        raise RequestError(
            f"source.keep: {taken[0]!r} is a column of GeoParquet's own: leave it out, or geoparquet out of"
            " export.formats"
        )


def _sorted_curated(store: Store) -> tuple[pa.Table, NDArray[np.uint64]]:
    """The curated set in the order of its keys, and the keys (n, 2), so that a part finds its own."""
    table = pa.concat_tables([store.read_table(rel) for rel in written.parts(store, "curated")])
    keys = keys_in(table["key"])
    order = np.lexsort((keys[:, 1], keys[:, 0]))
    return table.take(pa.array(order)), keys[order]


def _places(keys: NDArray[np.uint64], among: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Place of each of ``keys`` (m, 2) in the sorted ``among`` (n, 2), or -1."""
    places = np.full(len(keys), -1, np.int64)
    place = np.searchsorted(among[:, 0], keys[:, 0])
    left = np.arange(len(keys))
    while len(left):  # one round, but for keys that share their first half with another
        left = left[place[left] < len(among)]
        left = left[among[place[left], 0] == keys[left, 0]]
        hit = among[place[left], 1] == keys[left, 1]
        places[left[hit]] = place[left[hit]]
        left = left[~hit]
        place[left] += 1
    return places


def _export_part(
    block: pa.Table,
    *,
    source: Source,
    modality: Modality,
    store: Store,
    curated: list[ray.ObjectRef],
    firsts: NDArray[np.int64],
    formats: list[str],
) -> pa.Table:
    """Write the curated samples of one part of the pool in all forms, then its index."""
    part = entered(block)
    chosen = _chosen(store, part, *ray.get(curated[0]))
    ids = chosen["id"].to_pylist()
    files: list[str | None] = [None] * len(ids)
    rows: list[int | None] = [None] * len(ids)
    if not ids:
        content = pa.nulls(0, pa.binary())
    elif isinstance(source, EmbeddingsSource):
        content, found = _vectors(source, part, ids)
        rows = [int(firsts[part.index]) + row for row in found]
    else:
        content = pa.array(_payloads(source, part, ids), pa.large_binary())
        if "files" in formats:
            files = list(_write_files(store, modality, ids, content))
    if ids and "parquet" in formats:
        name = "embedding" if isinstance(source, EmbeddingsSource) else "payload"
        store.write_table(part_name(f"{FOLDER}/parquet", part.index), chosen.append_column(name, content))
    if ids and "geoparquet" in formats:
        from pipelines.geoparquet import geoparquet

        store.write_table(part_name(GEOPARQUET, part.index), geoparquet(chosen))
    went = {"file": pa.array(files, pa.string()), "row": pa.array(rows, pa.int64())}
    names = {"id": chosen["id"], "key": chosen["key"]}
    store.write_table(part_name(INDEX, part.index), pa.table(names | went))
    return pa.table({"part": [part.index]})


def _chosen(store: Store, part: Part, curated: pa.Table, keys: NDArray[np.uint64]) -> pa.Table:
    """The rows of ``curated`` (with sorted ``keys``) that lie in ``part``, in the order of the pool."""
    places = _places(keys_in(store.read_table(part_name(EMBEDDINGS, part.index), ["key"])["key"]), keys)
    return curated.take(pa.array(places[places >= 0]))


def _payloads(source: Source, part: Part, ids: list[str]) -> list[bytes]:
    found = {record.id: record for record in records(source, part, set(ids))}
    payloads, lost = [], []
    for id in ids:
        record = found.get(id) or Record(id, "", None, "It is not in the pool any more.")
        if record.payload is None:
            lost.append(f"{id}: {record.reason or 'it cannot be read'}")
        else:
            payloads.append(record.payload)
    _none(lost)
    return payloads


def _vectors(source: EmbeddingsSource, part: Part, ids: list[str]) -> tuple[pa.Array, list[int]]:
    """Embeddings as they lie in the pool, and their rows in the part."""
    known, _, vectors, reasons = source.read_vectors(part)
    row_of = {id: row for row, id in enumerate(known) if reasons[row] is None}
    _none([f"{id}: It is not in the pool any more." for id in ids if id not in row_of])
    rows = [row_of[id] for id in ids]
    return fixed_lists(vectors[rows]), rows


def _none(lost: list[str]) -> None:
    if lost:
        raise RunError(
            f"{len(lost):,} curated samples cannot be read again ({lost[0]}): put them back, or"
            " curate the pool as it is now, with a new output"
        )


def _write_files(store: Store, modality: Modality, ids: list[str], payloads: pa.Array) -> Iterator[str]:
    for id, payload in zip(ids, payloads, strict=True):
        content = payload.as_py()
        name = file_name(id, modality.suffix(content), modality.suffixes)
        store.write_bytes(f"{FOLDER}/files/{name}", content)
        yield name


def _finish(store: Store, parts: Sequence[int], id_list: bool, embedded: bool) -> int:
    """Write the lists of ids and row numbers, a line a copy, in the order of ``curated/``; count samples."""
    index = pa.concat_tables([store.read_table(part_name(INDEX, i), ["key", "row"]) for i in parts])
    files = written.parts(store, "curated")
    curated = pa.concat_tables([store.read_table(file, ["id", "key", "repeats"]) for file in files])
    if index.num_rows != curated.num_rows:
        raise RunError(
            f"{curated.num_rows:,} samples are curated but {index.num_rows:,} were found in the pool"
        )
    repeats = curated["repeats"].to_numpy()
    if id_list:
        ids = np.repeat(np.array(curated["id"].to_pylist(), dtype=object), repeats)
        lines = "".join(f"{_one_line(id)}\n" for id in ids)
        store.write_bytes(f"{FOLDER}/ids.txt", lines.encode())
    if id_list and embedded:
        keys = keys_in(index["key"])
        order = np.lexsort((keys[:, 1], keys[:, 0]))
        places = order[_places(keys_in(curated["key"]), keys[order])]
        buffer = io.BytesIO()
        np.save(buffer, np.repeat(index["row"].to_numpy()[places], repeats))
        store.write_bytes(f"{FOLDER}/rows.npy", buffer.getvalue())
    return int(index.num_rows)


def _without_place(store: Store, parts: Sequence[int]) -> int:
    """How many rows of GeoParquet have no footprint; parts without a curated sample have no file."""
    files = [part_name(GEOPARQUET, i) for i in parts if store.rows(part_name(INDEX, i))]
    return sum(store.read_table(file, ["geometry"])["geometry"].null_count for file in files)


def _one_line(id: str) -> str:
    return (
        id.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r") if "\n" in id or "\r" in id else id
    )
