"""The embed stage: the pool streams through Ray Data and becomes parts of embeddings.

One task reads and prepares a part, an actor of an autoscaling pool encodes it, a task writes it. What
comes back to the driver are counts. A part is done when its file is there, so a rerun takes the rest.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from contextlib import closing, suppress
from typing import Any

import ray
from ray.data import Dataset

from modalities.base import FittedEncoder, Part
from modalities.sources.embeddings import EmbeddingsSource
from pipelines import encode, fitting, stream, written
from pipelines.blocks import part_index, part_name
from pipelines.config import Config
from pipelines.errors import RequestError, RunError
from pipelines.manifest import digest
from pipelines.pool import Pool, open_pool, samples_of
from pipelines.progress import Progress
from pipelines.resources import resources
from pipelines.settle import build
from pipelines.sizing import sizing, task_cpus
from pipelines.store import Store
from pipelines.tally import Tally
from pipelines.unique import find_duplicate

ENOUGH_TO_JUDGE = 20_000
"""Samples after which a run with too many rejects stops early, rather than at the end of the pool."""

PARTS_A_TASK = 256


def embed(config: Config, store: Store, progress: Progress, pool: Pool | None = None) -> dict[str, Any]:
    """Embed the pool; what ``auto`` means in ``config.encoder`` is settled.

    Args:
        config: The settled config.
        store: The run directory.
        progress: Advances by samples.
        pool: The pool where it is open already.

    Returns:
        ``samples``, ``embedded``, ``rejected``, ``reasons``, ``parts``, ``dimensions``, ``digest`` (of all
        embeddings in order) and ``files`` (`pipelines.written`); for an encoder that learns from the pool
        also ``state``.

    Raises:
        RunError: Too many samples were rejected, or the pool changed while it was read.
        RequestError: Two samples have one id.
    """
    pool = pool or open_pool(config)
    counts: dict[str, Any] = {"samples": pool.size, "parts": len(pool.parts)}
    done = {part_index(rel) for rel in store.list(encode.EMBEDDINGS)}  # one too few is read again
    there = sum(samples_of(part) for part in pool.parts if part.index in done)
    progress.start("embed", pool.size, "samples", done=there)
    todo = [part for part in pool.parts if part.index not in done]
    if isinstance(pool.source, EmbeddingsSource):
        build_stream = _ingesting(config, store, pool.source)
    else:
        encoder = build(config, pool.modality)
        if isinstance(encoder, FittedEncoder):
            progress.advance(0, f"fitting the encoder {encoder.spec}")
            counts["state"] = fitting.fit(encoder, pool, config.seed, store)
        build_stream = _encoding(config, store, progress, pool, encoder, todo)
    seen = Tally()
    with closing(stream.rows_of(todo, build_stream, resources(config.ray))) as rows:
        for row in rows:
            seen.add(Tally(row["embedded"], row["rejected"], Counter(json.loads(row["reasons"]))))
            progress.advance(
                row["embedded"] + row["rejected"], f"{seen.rejected:,} rejected" if seen.rejected else ""
            )
            if seen.embedded + seen.rejected >= ENOUGH_TO_JUDGE:
                _check_rejects(seen, config.limits.rejected, " so far")
    progress.finish()
    tally = _recount(store, pool)
    _check_rejects(tally, config.limits.rejected)
    if tally.rejected:
        progress.say(f"embed: {tally.rejected:,} of {pool.size:,} samples rejected: {tally.told()}")
    names = [part_name(encode.EMBEDDINGS, part.index) for part in pool.parts]
    duplicate = find_duplicate(store, names, tally.embedded)
    if duplicate:
        name, uris = duplicate
        raise RequestError(
            f"two samples have the id {name!r}: {uris[0]} and {uris[1]}: ids must be unique; name them by"
            " another source.id_column, or remove one, and give the run a new output"
        )
    return counts | {
        "embedded": tally.embedded,
        "rejected": tally.rejected,
        "reasons": dict(tally.reasons.most_common(100)),
        "dimensions": store.dimensions(names[0]),
        "digest": digest(tally.digests),
        "files": {
            encode.EMBEDDINGS: written.runs(part.index for part in pool.parts),
            encode.REJECTED: written.runs(tally.spoiled),
        },
    }


def _ingesting(config: Config, store: Store, source: EmbeddingsSource) -> Callable[[Dataset], Dataset]:
    cosine, cpus = config.cluster.distance == "cosine", task_cpus(resources(config.ray))

    def build_stream(parts: Dataset) -> Dataset:
        return stream.tasks(parts, encode.ingest, num_cpus=cpus, source=source, store=store, cosine=cosine)

    return build_stream


def _encoding(
    config: Config, store: Store, progress: Progress, pool: Pool, encoder: Any, todo: list[Part]
) -> Callable[[Dataset], Dataset]:
    size = sizing(config, resources(config.ray), len(todo), sum(map(samples_of, todo)))
    if todo and size.first > size.fitting:
        progress.say(
            f"embed: asks for {size.first} encoder actors with {size.gpus:g} GPUs each; the machines that are"
            f" there have room for {size.fitting}, the others wait for machines to come"
        )

    def build_stream(parts: Dataset) -> Dataset:
        cpus = size.task_cpus
        parts = stream.tasks(parts, encode.read, num_cpus=cpus, source=pool.source)
        parts = stream.tasks(parts, encode.prepare, num_cpus=cpus, modality=pool.modality, encoder=encoder)
        parts = stream.actors(parts, encode.Encode, size=size, encoder=encoder)
        return stream.tasks(parts, encode.write, num_cpus=cpus, store=store)

    return build_stream


def _recount(store: Store, pool: Pool) -> Tally:
    """Count what is on disk, and check part by part that input = embedded + rejected."""
    count = ray.remote(_count_parts)
    groups = [pool.parts[i : i + PARTS_A_TASK] for i in range(0, len(pool.parts), PARTS_A_TASK)]
    tally = Tally()
    for answer in ray.get([count.remote(store, group) for group in groups]):
        tally.add(answer)
    return tally


def _count_parts(store: Store, parts: list[Part]) -> Tally:
    tally = Tally()
    broken: list[str] = []
    for part in parts:
        embedded, content = _footer(store, part_name(encode.EMBEDDINGS, part.index))
        reasons: list[str] = []
        rejects = part_name(encode.REJECTED, part.index)
        if embedded < samples_of(part):
            with suppress(FileNotFoundError):
                reasons = store.read_table(rejects, ["reason"])["reason"].to_pylist()
        if samples_of(part) != embedded + len(reasons):
            broken.append(
                f"part {part.index} of the pool has {samples_of(part):,} samples, but {embedded:,} were"
                f" embedded and {len(reasons):,} rejected"
            )
            store.delete(part_name(encode.EMBEDDINGS, part.index))  # first: while it is there, it is done
            store.delete(rejects)
        spoiled = [part.index] if reasons else []
        tally.add(Tally(embedded, len(reasons), Counter(reasons), [content], spoiled))
    if broken:
        raise RunError(
            f"{broken[0]}: the pool changed while it was read; run the same command again to read"
            f" {'that part' if len(broken) == 1 else f'{len(broken):,} such parts'} anew"
        )
    return tally


def _footer(store: Store, rel: str) -> tuple[int, str]:
    metadata = store.metadata(rel)
    content = (metadata.metadata or {}).get(encode.DIGEST)
    if content is None:
        raise RunError(
            f"{store.url}/{rel} was not written by a run: delete {encode.EMBEDDINGS} there, and run again"
        )
    return int(metadata.num_rows), content.decode()


def _check_rejects(tally: Tally, limit: float, when: str = "") -> None:
    """Stop a run that loses more than it may.

    Raises:
        RunError: Everything was rejected, or a larger share than ``limits.rejected``.
    """
    samples = tally.embedded + tally.rejected
    if not tally.embedded:
        raise RunError(f"all {samples:,} samples{when} were rejected: {tally.told()}")
    if tally.rejected > limit * samples:
        raise RunError(
            f"{tally.rejected:,} of {samples:,} samples{when} were rejected, more than"
            f" limits.rejected={limit:g} allows: {tally.told()}; mend the pool, or raise the limit"
        )
