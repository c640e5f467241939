"""A part that killed its process is done again in one of its own: what kills is rejected, the rest is kept.

Each step is tried with all samples, and where the process dies, with halves of them (`pipelines.isolate`). A
batch keeps its shape, and a sample its place in it, so that an embedding is what it would have been.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray

from modalities.base import Part
from modalities.sources.embeddings import EmbeddingsSource
from pipelines import encode
from pipelines.blocks import pack
from pipelines.errors import RunError
from pipelines.form import Form
from pipelines.isolate import TRIES, Hopeless, isolate
from pipelines.lone import Lone, Work
from pipelines.steps import RETRIES, alike
from pipelines.store import Store

READ = f"It killed the process that read it, {TRIES} times."
READ_TOGETHER = f"What it is read together with killed the process that read it, {TRIES} times."
ENCODED = f"It killed the process that encoded it, {TRIES} times."

T = TypeVar("T")


def decoded(work: Work) -> str:
    """The reason for a sample that cannot even be decoded."""
    return (
        f"It killed the process that decoded it, or took longer than {work.timeout:g} seconds"
        f" (limits.timeout), {TRIES} times."
    )


def rescue_all(
    parts: Sequence[Part], rescue: Callable[..., T], work: Work, *args: Any, at_once: int
) -> Generator[T, None, None]:
    """The results of ``rescue(part, work, *args)`` as they are ready, ``at_once`` of them at work."""
    task = ray.remote(num_cpus=0, max_retries=RETRIES)(alike(rescue))
    waiting = list(parts)
    at_work: list[ray.ObjectRef] = []
    try:
        while waiting or at_work:
            while waiting and len(at_work) < at_once:
                at_work.append(task.remote(waiting.pop(0), work, *args))
            (ready,), at_work = ray.wait(at_work, num_returns=1)
            yield ray.get(ready)
    finally:
        for other in at_work:
            ray.cancel(other, force=True)  # its process ends with it


def rescue(part: Part, work: Work, store: Store, form: Form) -> dict[str, Any]:
    """Read, decode, encode and write a part.

    Returns:
        ``embedded``, ``rejected`` and ``reasons`` as `encode.write` counts them; ``restarts``, how many
        processes died; ``reshaped``, the ids of samples whose batches are others than if nothing had died.

    Raises:
        RunError: Processes die whatever they are given, or the encoder fails.
    """
    assert work.encoder is not None
    lone = Lone(work)
    try:
        samples = _prepared(_read(part, lone, work), lone, work)
        lone.load()
        samples, reshaped = _encoded(samples, lone, work.encoder.dim)
    except Hopeless as why:
        raise hopeless(part, why) from why
    finally:
        lone.close()
    (counts,) = encode.write(pack(part.index, samples), store=store, form=form).to_pylist()
    return {**counts, "restarts": lone.deaths, "reshaped": reshaped}


def reread(part: Part, work: Work, store: Store, cosine: bool) -> dict[str, Any]:
    """As `rescue`, of a pool that is embedded already."""
    source = work.source
    assert isinstance(source, EmbeddingsSource)
    lone = Lone(work)
    try:
        done, lost = isolate([part.index], lambda _: lone.run("vectors", part))
    finally:
        lone.close()
    rows = source.unread_vectors(part, READ_TOGETHER) if lost else done[0][1]
    (counts,) = encode.write_rows(part.index, rows, source=source, store=store, cosine=cosine).to_pylist()
    return {**counts, "restarts": lone.deaths, "reshaped": []}


def sound(part: Part, work: Work) -> pa.Table:
    """The records of a part as `encode.tabled` has them; what kills its process has a reason, and no payload.

    Raises:
        RunError: Processes die whatever they are given.
    """
    lone = Lone(work)
    try:
        samples = _read(part, lone, work)
        _, lost = isolate(
            range(len(samples)), lambda rows: lone.run("decode", samples.slice(rows[0], len(rows)))
        )
    except Hopeless as why:
        raise hopeless(part, why) from why
    finally:
        lone.close()
    return _without(samples, lost, decoded(work))


def hopeless(part: Part, why: Hopeless) -> RunError:
    """The sentence for a part of which no half can be done."""
    return RunError(
        f"part {part.index} of the pool kills its process whatever is left out of it ({why}), so it is not"
        " single samples that are at fault: if memory ran out, lower encoder.batch_size or encoder.actors;"
        " run the same command again to go on from here"
    )


def _read(part: Part, lone: Lone, work: Work) -> pa.Table:
    """The records of a part. Only of a part that is a list of files can some be read without the others."""
    names: list[str] = part.spec.get("files", [])

    def piece(rows: Sequence[int]) -> Part:
        return Part(part.index, {**part.spec, "files": [names[i] for i in rows]}) if names else part

    done, lost = isolate(range(len(names) or 1), lambda rows: lone.run("read", piece(rows)))
    reason = READ if names else READ_TOGETHER
    source = work.source
    done += [([row], encode.tabled(source.unread(piece([row]), reason), source.kept)) for row in lost]
    return _in_order(done)


def _prepared(samples: pa.Table, lone: Lone, work: Work) -> pa.Table:
    assert work.encoder is not None
    done, lost = isolate(
        range(len(samples)), lambda rows: lone.run("prepare", samples.slice(rows[0], len(rows)))
    )
    samples = _without(samples, lost, decoded(work))
    for row in lost:
        done.append(([row], encode.prepared(samples.slice(row, 1), work.modality, work.encoder)))
    return _in_order(done)


def _encoded(samples: pa.Table, lone: Lone, dim: int) -> tuple[pa.Table, list[str]]:
    """The samples with their embeddings, and the ids of those whose batches had to be others."""
    shared = ray.put(samples)
    good: list[int] = np.flatnonzero(samples["reason"].is_null().to_numpy()).tolist()
    cut, lost = isolate(good, lambda rows: lone.run("batches", shared, rows))
    found: dict[int, Any] = {}
    failures: dict[int, str | None] = {}
    for batch in [batch for _, batches in cut for batch in batches]:
        step = partial(lone.run, "encode", shared, batch)
        done, dead = isolate(range(len(batch)), step)
        lost += [batch[place] for place in dead]
        for places, (vectors, reasons) in done:
            rows = [batch[place] for place in places]
            found.update(zip(rows, vectors, strict=True))
            failures.update(zip(rows, reasons, strict=True))
    failures.update(dict.fromkeys(lost, ENCODED))
    embeddings = np.full((len(good), dim), np.nan, np.float32)
    for i, row in enumerate(good):
        embeddings[i] = found.get(row, np.nan)
    reshaped = samples["id"].take(pa.array(sorted(found), pa.int64())).to_pylist() if len(cut) > 1 else []
    told = [failures[row] for row in good]
    return encode.embedded(samples, np.array(good, np.int64), embeddings, told), reshaped


def _in_order(pieces: list[tuple[Sequence[int], pa.Table]]) -> pa.Table:
    """Runs of rows, each with its table, as one table."""
    return pa.concat_tables([table for _, table in sorted(pieces, key=lambda piece: piece[0][0])])


def _without(samples: pa.Table, lost: list[int], reason: str) -> pa.Table:
    """The samples, those that are lost with a reason in the place of their payload."""
    bad = np.zeros(len(samples), dtype=bool)
    bad[lost] = True
    for name, value in (("payload", None), ("reason", reason)):
        place, kind = samples.column_names.index(name), samples.schema.field(name).type
        kept = pc.if_else(pa.array(bad), pa.scalar(value, kind), samples[name])
        samples = samples.set_column(place, name, kept)
    return samples
