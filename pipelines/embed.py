"""The embed stage: the pool streams through Ray Data and becomes parts of embeddings.

One task reads and prepares a part, an actor of an autoscaling pool encodes it, a task writes it. What
comes back to the driver are counts. A part is done when its file is there, so a rerun takes the rest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray
from ray.data import Dataset

from modalities.base import FittedModality
from modalities.encoders.base import Encoder, FittedEncoder
from modalities.sources.embeddings import EmbeddingsSource
from pipelines import centring, encode, fitting, rescue, stream, written
from pipelines.attempts import ATTEMPTS, Attempts
from pipelines.blocks import part_index, part_name
from pipelines.config import Config
from pipelines.errors import RequestError, RunError
from pipelines.form import Form
from pipelines.groups import groups
from pipelines.limits import Judge, check_lost, check_rejects, parts_told
from pipelines.lone import Work
from pipelines.manifest import digest
from pipelines.pool import Pool, open_pool
from pipelines.progress import Progress
from pipelines.resources import resources
from pipelines.settle import build
from pipelines.sizing import sizing, task_cpus
from pipelines.startup import identity
from pipelines.store import Store
from pipelines.tally import Tally
from pipelines.unique import find_duplicate


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
        also ``state``, for such a modality ``learned``; ``centre`` where embeddings are centred; where texts
        were too long ``truncated`` and ``notes``; where processes died at work ``restarts`` and
        ``isolated_parts``.

    Raises:
        RunError: Too many samples were rejected, or the pool changed while it was read.
        RequestError: Two samples have one id.
    """
    pool = pool or open_pool(config)
    counts: dict[str, Any] = {"samples": pool.size, "parts": len(pool.parts)}
    done = {part_index(rel) for rel in store.list(encode.EMBEDDINGS)}  # one too few is read again
    todo = pool.left(done)
    there = pool.size - int(pool.samples[todo].sum())
    progress.start("embed", pool.size, "samples", done=there)
    counts |= _embed_parts(config, store, progress, pool, todo)
    progress.finish()
    tally = _recount(store, pool)
    check_rejects(tally, config.limits.rejected)
    if tally.rejected:
        progress.say(f"embed: {tally.rejected:,} of {pool.size:,} samples rejected: {tally.told()}")
    if tally.truncated:
        note = truncated_told(tally, build(config, pool.modality))
        progress.say(f"embed: {note}")
        counts |= {"truncated": tally.truncated, "notes": [note]}
    names = [part_name(encode.EMBEDDINGS, index) for index in range(len(pool.parts))]
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
            encode.EMBEDDINGS: written.runs(range(len(pool.parts))),
            encode.REJECTED: written.runs(tally.spoiled),
        },
    }


def truncated_told(tally: Tally, encoder: Encoder) -> str:
    """How many samples were read in part, and what can be done about it, for a person."""
    more = f"; {encoder.more}" if encoder.more else ""
    return (
        f"{tally.truncated:,} of {tally.embedded:,} embedded samples are longer than the encoder reads, which"
        f" saw their beginning alone (the column truncated{more})"
    )


@dataclass(frozen=True)
class _Stage:
    """How parts are embedded.

    Attributes:
        stream: Of all parts; one that kills its process comes out of it as `stream.LOST`.
        rescue: Of one such part, with the arguments that it takes beside it.
        at_once: Of them are at work.
    """

    stream: Callable[[Dataset], Dataset]
    rescue: Callable[..., dict[str, Any]]
    arguments: tuple[Any, ...]
    at_once: int


def _embed_parts(
    config: Config, store: Store, progress: Progress, pool: Pool, todo: NDArray[np.int64]
) -> dict[str, Any]:
    """Embed the parts ``todo``, by their indices, and return what `embed` says about that."""
    counts: dict[str, Any] = {}
    attempts = Attempts()
    try:
        if isinstance(pool.source, EmbeddingsSource):
            stage = _ingesting(config, store, pool, attempts)
        else:
            if isinstance(pool.modality, FittedModality) and pool.modality.learns:
                progress.advance(0, "learning the range of the values")
                counts["learned"] = fitting.fit_modality(pool.modality, pool, config, store)
            encoder = build(config, pool.modality)
            if isinstance(encoder, FittedEncoder):
                progress.advance(0, f"fitting the encoder {encoder.spec}")
                counts["state"] = fitting.fit(encoder, pool, config, store)
            stored = centring.form(encoder, pool, config, store)
            counts |= centring.told(stored)
            stage = _encoding(config, store, progress, pool, encoder, stored, attempts, todo)
        alone, isolated = _stream_and_rescue(config, progress, pool, todo, stage)
        died = {"restarts": attempts.restarts + alone, "isolated_parts": isolated}
        return counts | {name: count for name, count in died.items() if count}
    finally:
        attempts.close()


def _stream_and_rescue(
    config: Config, progress: Progress, pool: Pool, todo: NDArray[np.int64], stage: _Stage
) -> tuple[int, int]:
    """Embed the parts ``todo``.

    Returns:
        How many processes died over parts that were done alone, and how many such parts there were.

    Raises:
        RunError: Too many samples were rejected, or too many parts killed their process.
    """
    judge = Judge(config.limits.rejected, pool.size)
    lost: dict[int, str] = {}
    with closing(stream.rows_of(pool.chosen(todo), stage.stream, resources(config.ray))) as rows:
        for row in rows:
            if row.get(stream.LOST):  # null where Ray Data put rows of both kinds into one block
                lost[row["part"]] = row[stream.LOST]
                check_lost(lost, config.limits.deadly_parts)
            else:
                judge.add(row)
                progress.advance(row["embedded"] + row["rejected"], judge.told)
    if not lost:
        return 0, 0
    progress.say(
        f"embed: {parts_told(lost)} of the pool killed the process at work {ATTEMPTS} times: done alone now,"
        " to reject the samples that kill and to keep the rest",
        parts=sorted(lost),
    )
    restarts = 0
    parts = list(pool.chosen(sorted(lost)))
    with closing(rescue.rescue_all(parts, stage.rescue, *stage.arguments, at_once=stage.at_once)) as rows:
        for row in rows:
            restarts += row["restarts"]
            if row["reshaped"]:
                progress.say(
                    f"embed: {len(row['reshaped']):,} samples were encoded in other batches than they would"
                    " have been, because cutting the batches killed the process; log.jsonl names them",
                    ids=row["reshaped"],
                )
            judge.add(row)
            progress.advance(row["embedded"] + row["rejected"], judge.told)
    return restarts, len(lost)


def _ingesting(config: Config, store: Store, pool: Pool, attempts: Attempts) -> _Stage:
    cosine, cpus, source = config.cluster.distance == "cosine", task_cpus(resources(config.ray)), pool.source

    def build_stream(parts: Dataset) -> Dataset:
        return stream.tasks(
            parts,
            encode.ingest,
            num_cpus=cpus,
            attempts=attempts,
            source=source,
            store=store,
            cosine=cosine,
        )

    work = Work(source, pool.modality, None, config.limits.timeout, cpus, None, identity())
    return _Stage(build_stream, rescue.reread, (work, store, cosine), 1)


def _encoding(
    config: Config,
    store: Store,
    progress: Progress,
    pool: Pool,
    encoder: Encoder,
    stored: Form,
    attempts: Attempts,
    todo: NDArray[np.int64],
) -> _Stage:
    size = sizing(config, resources(config.ray), len(todo), int(pool.samples[todo].sum()))
    seconds = config.limits.timeout
    if len(todo) and size.first > size.fitting:
        progress.say(
            f"embed: asks for {size.first} encoder actors with {size.gpus:g} GPUs each; the machines that are"
            f" there have room for {size.fitting}, the others wait for machines to come"
        )

    def build_stream(parts: Dataset) -> Dataset:
        cpus = size.task_cpus
        parts = stream.tasks(parts, encode.read, num_cpus=cpus, attempts=attempts, source=pool.source)
        parts = stream.tasks(
            parts,
            encode.prepare,
            num_cpus=cpus,
            attempts=attempts,
            modality=pool.modality,
            encoder=encoder,
            timeout=seconds,
        )
        parts = stream.actors(parts, encode.Encode, size=size, attempts=attempts, encoder=encoder)
        return stream.tasks(parts, encode.write, num_cpus=cpus, store=store, form=stored)

    work = Work(pool.source, pool.modality, encoder, seconds, size.cpus, size.gpus, identity())
    return _Stage(build_stream, rescue.rescue, (work, store, stored), size.most)


def _recount(store: Store, pool: Pool) -> Tally:
    """Count what is on disk, and check part by part that input = embedded + rejected."""
    count = ray.remote(_count_parts)
    tally = Tally()
    shares = groups(range(len(pool.parts)))
    for answer in ray.get([count.remote(store, share[0], pool.samples[share]) for share in shares]):
        tally.add(answer)
    return tally


def _count_parts(store: Store, first: int, samples: NDArray[np.int64]) -> Tally:
    """Of the parts from the ``first`` on, which have so many samples."""
    tally = Tally()
    broken: list[str] = []
    for index, there in enumerate(samples.tolist(), start=first):
        embedded, content, truncated = _footer(store, part_name(encode.EMBEDDINGS, index))
        reasons: list[str] = []
        rejects = part_name(encode.REJECTED, index)
        if embedded < there:
            with suppress(FileNotFoundError):
                reasons = store.read_table(rejects, ["reason"])["reason"].to_pylist()
        if there != embedded + len(reasons):
            broken.append(
                f"part {index} of the pool has {there:,} samples, but {embedded:,} were embedded and"
                f" {len(reasons):,} rejected"
            )
            store.delete(part_name(encode.EMBEDDINGS, index))  # first: while it is there, it is done
            store.delete(rejects)
        spoiled = [index] if reasons else []
        tally.add(Tally(embedded, len(reasons), Counter(reasons), [content], spoiled, truncated))
    if broken:
        raise RunError(
            f"{broken[0]}: the pool changed while it was read; run the same command again to read"
            f" {'that part' if len(broken) == 1 else f'{len(broken):,} such parts'} anew"
        )
    return tally


def _footer(store: Store, rel: str) -> tuple[int, str, int]:
    """Of a part its number of samples, their hash, and how many of them were truncated."""
    metadata = store.metadata(rel)
    about = metadata.metadata or {}
    content = about.get(encode.DIGEST)
    if content is None:
        raise RunError(
            f"{store.url}/{rel} was not written by a run: delete {encode.EMBEDDINGS} there, and run again"
        )
    return int(metadata.num_rows), content.decode(), int(about.get(encode.CUT, 0))
