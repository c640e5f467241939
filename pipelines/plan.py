"""``evenset plan CONFIG``: what a run will take, before it starts and without Ray."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from curation.cost import tree_work
from curation.errors import CurationError
from curation.levels import auto_reason
from curation.recipe import Recipe
from modalities.base import ModalityError
from modalities.sources.embeddings import EmbeddingsSource
from pipelines import blas, written
from pipelines.calibration import Machine, disk_rates, existing, machine, measure
from pipelines.cluster import recipe_of
from pipelines.config import Config
from pipelines.errors import RequestError
from pipelines.estimate import (
    actor_bytes,
    allowed,
    crew,
    footing,
    greedy_refusal,
    least_bytes,
    shared_out,
    stage_bytes,
    stage_seconds,
    streamed_bytes,
)
from pipelines.gpus import GPUS, gpu_seconds, streams
from pipelines.manifest import read_manifest
from pipelines.owner import settled_paths
from pipelines.pool import Pool, check_numbers, is_embedded, open_pool
from pipelines.quantities import duration, scaled
from pipelines.secrets import told
from pipelines.settle import build
from pipelines.sharding import most_that_fit, shards
from pipelines.startup import ONE_THREAD
from pipelines.store import Store

ID_BYTES = 60
"""Of the names and the key of a sample in a file, compressed."""
ASSIGNED_BYTES = 50
"""Of a row of assignments."""
CURATED_BYTES = 60
"""Of a row of the curated set."""
COLUMN_BYTES = 12
"""Of one value more that a modality, or ``source.keep``, adds to a row."""
FOOTPRINT_BYTES = 200
"""Of a row of GeoParquet: its polygon, and the box around it."""


@dataclass(frozen=True)
class LevelPlan:
    """One level: its inputs and clusters, and what it takes where the dimensions are known.

    Attributes:
        level: From the leaves up, from 1.
        inputs: Points that it clusters.
        clusters: Into how many.
        fits: k-means fits, resampling steps and the division of a split level included.
        operations: Floating-point operations.
        bytes: Of rows that pass through the processors.
        seconds: On this machine.
    """

    level: int
    inputs: int
    clusters: int
    fits: int
    operations: float | None = None
    bytes: float | None = None
    seconds: float | None = None


@dataclass
class Plan:
    """What a run will take; None is what cannot be told. Bytes, seconds, and rates a second.

    Attributes:
        samples: In the pool, those included that will be rejected.
        kind: What they are.
        decided: Why the pool is read as it is, where `source.format` is auto.
        dimensions: Of an embedding, and `dimensions_of` says who told.
        levels: From the leaves up; `levels_reason` where they are auto.
        shards: Point shards, of a thread each; there are no more than parts of the pool to share out.
        actor_memory: Of the one that holds most points; `streamed` where it reads them in passes.
        memory: Of all processes and Ray's object store on this machine.
        disk: What each stage leaves in the run directory, and ``unfinished``, which is there while points
            are read in passes; `disk_free` where it is on a local disk.
        machine: CPU, CPUs, memory, BLAS kernels, and measured rates.
        cluster_seconds: Of the cluster stage on this machine.
        gpu_seconds: Of the same arithmetic on one GPU of each kind.
        notes: What the numbers leave out.
        warnings: What will go wrong, or slowly.
    """

    samples: int
    kind: str
    decided: str | None = None
    dimensions: int | None = None
    dimensions_of: str = ""
    levels: list[LevelPlan] = field(default_factory=list)
    levels_reason: str | None = None
    shards: int = 1
    actor_memory: int | None = None
    streamed: bool = False
    memory: int | None = None
    disk: dict[str, int | None] = field(default_factory=dict)
    disk_free: int | None = None
    machine: dict[str, Any] = field(default_factory=dict)
    cluster_seconds: float | None = None
    gpu_seconds: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def plan(config: Config, dimensions: int | None = None) -> Plan:
    """Count the pool, and estimate what its run will take on this machine.

    Args:
        config: What would be run.
        dimensions: Of an embedding, where that is known better than the pool or the encoder tell.

    Raises:
        ModalityError: The pool is empty or not there.
        RequestError: The run directory lies in the pool, or there are no dimensions below 1.
    """
    if dimensions is not None and dimensions < 1:
        raise RequestError(f"--dimensions {dimensions} is no length of an embedding: give a number from 1 on")
    config = settled_paths(config)
    store, pool, here = Store(config.output or ""), open_pool(config), machine()
    rows, known, whose = _embedded(config, store, pool)
    n = int(rows.sum())
    d, whose = (dimensions, "--dimensions") if dimensions else (known, whose)
    kind = "embeddings" if is_embedded(pool) else f"{pool.modality.name} samples"
    found = Plan(n, kind, pool.source.decided, d, whose)
    _warn_of_numbers(config, found)
    recipe = _recipe(config, n)
    if config.cluster.n_clusters == "auto":
        found.levels_reason = auto_reason(n)
    cpus = here.cpus if config.ray.cpus == "auto" else max(1, min(here.cpus, int(config.ray.cpus)))
    count = shards(config, n, cpus)
    if d is not None:
        count = most_that_fit(config, recipe, rows, count, d, lambda m: allowed(config, m, here.memory))
    held = shared_out(rows, count)
    found.shards = len(held)
    inputs = [n, *recipe.n_clusters]
    for number, k in enumerate(recipe.n_clusters, start=1):
        points = inputs[number - 1]
        found.levels.append(LevelPlan(number, points, k, recipe.fits_of(number, points)))
    found.machine = {"cpu": here.cpu, "cpus": here.cpus, "memory": here.memory}
    found.machine["blas"] = [f"openblas {kernel}" for kernel in here.kernels]
    if d is None:
        found.notes.append(
            f"how long an embedding is cannot be told ({whose}), so nothing that hangs on it is estimated:"
            " name it with --dimensions"
        )
    else:
        _plan_work(found, recipe, cpus, d, held)
        _plan_memory(config, found, recipe, here, d, max(held))
        _plan_disk(config, store, pool, found, recipe, d)
        _note_the_page_cache(found, here)
    _warn_of_threads(found, here)
    _note_what_is_left_out(config, pool, found)
    return found


def _embedded(config: Config, store: Store, pool: Pool) -> tuple[NDArray[np.int64], int | None, str]:
    """Samples to cluster, part by part, their dimensions if they can be told, and who told."""
    done = read_manifest(store, "embeddings")
    if done and done.basis.inputs.get("pool") == pool.fingerprint:
        rows = {part: count for part in written.parts(store, "embeddings") if (count := store.rows(part))}
        if rows:
            counts = np.fromiter(rows.values(), np.int64)
            return counts, store.dimensions(next(iter(rows))), "the run's embeddings"
    if isinstance(pool.source, EmbeddingsSource):
        return pool.samples, pool.source.dim, "the pool"
    try:
        encoder = build(config, pool.modality)
    except ModalityError as error:
        return pool.samples, None, str(error)
    return pool.samples, encoder.dim, f"the encoder {encoder.spec}"


def _recipe(config: Config, n: int) -> Recipe:
    """What will be grown; levels of more clusters than there are inputs are cut, which is warned of."""
    recipe = recipe_of(config, n)
    levels: list[int] = []
    split: list[int] = []
    for level, k in enumerate(recipe.n_clusters, start=1):
        if (cut := min(k, levels[-1] - 1 if levels else n)) > 0:
            split.append(recipe.split_of(level) if recipe.split_of(level) <= cut else 1)
            levels.append(cut - cut % split[-1])  # it has to be coarse clusters of so many each
    points = recipe.resample_points
    return replace(
        recipe,
        n_clusters=levels,
        split=split,
        resample_points=points if points == "auto" else points[: len(levels)],
    )


def _plan_work(found: Plan, recipe: Recipe, cpus: int, d: int, held: Sequence[int]) -> None:
    """Operations, bytes and times of shards that hold so many points."""
    n, k = found.samples, recipe.n_clusters[0]
    rates = measure(n, d, k, min(found.shards, cpus))
    found.machine |= {"gemm": rates.gemm, "copy": rates.memory}
    works = tree_work(recipe, n, d)
    times = stage_seconds(recipe, n, d, rates, crew(held, cpus))
    found.levels = [
        replace(level, operations=work.operations(d), bytes=work.row_bytes(d), seconds=seconds)
        for level, work, seconds in zip(found.levels, works, times, strict=True)
    ]
    found.cluster_seconds = sum(times)
    for gpu in GPUS:
        name = f"{gpu.name} (streamed)" if streams(gpu, n, d, k) else gpu.name
        found.gpu_seconds[name] = gpu_seconds(gpu, works, n, d, k)


def _plan_memory(config: Config, found: Plan, recipe: Recipe, here: Machine, d: int, most: int) -> None:
    """What shards of up to so many points hold, and whether that fits."""
    memory, n = allowed(config, found.shards, here.memory), found.samples
    try:
        shard = footing(recipe, memory, most, n, d)
        refusal = greedy_refusal(recipe, shard)
    except CurationError as error:
        shard, refusal = footing(recipe, least_bytes(recipe, most, n, d), most, n, d), str(error)
    if refusal:
        found.warnings.append(f"{refusal} (the run would end so)")
    found.streamed = not shard.resident
    found.actor_memory = actor_bytes(shard)
    found.memory = stage_bytes(shard, found.shards)
    if found.memory > here.memory:
        needs, has = scaled(found.memory, "B"), scaled(here.memory, "B")
        found.warnings.append(
            f"clustering needs about {needs} of memory, and this machine has {has}: it may be killed; lower"
            " cluster.memory, ask for fewer clusters or fewer cluster.shards, or take a larger machine"
        )


def _plan_disk(config: Config, store: Store, pool: Pool, found: Plan, recipe: Recipe, d: int) -> None:
    """What the stages leave in the run directory, and whether there is room for it."""
    n, copies = found.samples, config.sample.count(found.samples)
    halves = config.encoder.normalize != "none"  # as in `pipelines.centring`
    if isinstance(pool.source, EmbeddingsSource):
        halves = pool.source.dtype == np.float16
    item = 2 if halves else 4
    centroids = sum(level.clusters for level in found.levels) * (4 * d + 24)
    columns = 0 if is_embedded(pool) else len(pool.modality.columns) + len(pool.source.kept)
    curated = CURATED_BYTES + columns * COLUMN_BYTES
    found.disk = {
        "embeddings": n * (item * d + ID_BYTES + columns * COLUMN_BYTES),
        "tree": n * ASSIGNED_BYTES + centroids,
        "curated": copies * curated,
    }
    if found.streamed:  # what is brought to unit norm anew, in float32, is in float16 no more
        halves &= recipe.distance == "euclidean"
        found.disk["unfinished"] = streamed_bytes(recipe, n, d, halves)
    payloads = sum(form in ("parquet", "files") for form in config.export.formats)
    if is_embedded(pool):
        found.disk["export"] = payloads * copies * (item * d + ID_BYTES)
    else:  # as large as they are in the pool, in the mean
        found.disk["export"] = (
            payloads * pool.bytes * copies // max(1, n) if pool.bytes or not payloads else None
        )
    if "geoparquet" in config.export.formats and found.disk["export"] is not None:
        found.disk["export"] += copies * (curated + FOOTPRINT_BYTES)
    if store.local is not None:
        _look_at_the_disk(store, store.local, found)


def _look_at_the_disk(store: Store, folder: Path, found: Plan) -> None:
    """What the disk of the run directory has room for, and how fast it is."""
    found.disk_free = shutil.disk_usage(existing(folder)).free
    needed = sum(part or 0 for part in found.disk.values()) - _there(folder)
    if needed > found.disk_free:
        found.warnings.append(
            f"the run needs about {scaled(needed, 'B')} on the disk of {store.url}, which has"
            f" {scaled(found.disk_free, 'B')} left: make room, or choose another output"
        )
    try:
        written, read = disk_rates(folder)
    except OSError as error:
        found.warnings.append(
            f"output {store.url} cannot be written to ({error.strerror}): choose another output"
        )
        return
    found.machine |= {"disk_write": written, "disk_read": read}


def _there(folder: Path) -> int:
    """Bytes of an earlier attempt, which a run writes again or keeps."""
    stages = ("embeddings", "tree", "unfinished", "curated", "export")
    files = (file for stage in stages for file in (folder / stage).rglob("*"))
    return sum(file.stat().st_size for file in files if file.is_file())


def _warn_of_numbers(config: Config, found: Plan) -> None:
    try:
        check_numbers(config, found.samples, "samples in the pool")
    except RequestError as error:
        found.warnings.append(f"{error} (the run would be refused)")


def _warn_of_threads(found: Plan, here: Machine) -> None:
    """What slows arithmetic down without a word."""
    if old := blas.warning(here.kernels, here.flags):
        found.warnings.append(old)
    for name in ONE_THREAD:
        asked = os.environ.get(name, "").split(",")[0]
        if asked.isdigit() and int(asked) * min(found.shards, here.cpus) > here.cpus:
            found.warnings.append(
                f"{name} is {asked}, and {found.shards} shards with that many threads each fight for"
                f" {here.cpus} CPUs: unset it, or set it to 1"
            )
    if found.shards > here.cpus:
        found.notes.append(f"{found.shards} shards take turns on the {here.cpus} CPUs of this machine")


def _note_the_page_cache(found: Plan, here: Machine) -> None:
    if found.streamed and (found.disk["unfinished"] or 0) > max(0, here.memory - (found.memory or 0)):
        found.notes.append(
            "the points do not stay in the page cache, so every pass reads them from the disk, which the time"
            " leaves out"
        )


def _note_what_is_left_out(config: Config, pool: Pool, found: Plan) -> None:
    if not is_embedded(pool):
        found.notes.append("embedding is not estimated: it hangs on the encoder and the device")
    if config.ray.address or os.environ.get("RAY_ADDRESS"):
        found.notes.append("a Ray cluster is named, but memory and times are for this machine alone")
    if found.cluster_seconds is not None:
        found.notes.append(
            "the time is of a pool that has clusters; where it has none, candidates do not narrow down and it"
            " takes several times as long"
        )


def show(found: Plan, console: Console) -> None:
    """Print a plan for a person."""
    wide = f" of {found.dimensions:,} dimensions ({found.dimensions_of})" if found.dimensions else ""
    facts = Table.grid("", "", padding=(0, 2, 0, 0))
    facts.add_row("pool", told(f"{found.samples:,} {found.kind}{wide}"))
    if found.decided:
        facts.add_row("format", told(found.decided))
    if found.levels_reason:
        facts.add_row("levels", found.levels_reason)
    here = found.machine
    kernels = f" ({', '.join(here['blas'])})" if here["blas"] else ""
    rates = [f"{here['cpu']}, {here['cpus']} CPUs{kernels}"]
    if "gemm" in here:
        rates += [f"{scaled(here['gemm'], 'flop/s')} float32", f"memory {scaled(here['copy'], 'B/s')}"]
    if "disk_write" in here:
        rates.append(f"disk {scaled(here['disk_write'], 'B/s')}")
    facts.add_row("machine", ", ".join(rates))
    if found.memory is not None and found.actor_memory is not None:
        streamed = ", points read in passes" if found.streamed else ""
        facts.add_row(
            "memory",
            f"{scaled(found.memory, 'B')} of {scaled(here['memory'], 'B')}: {found.shards} point shards of"
            f" {scaled(found.actor_memory, 'B')}{streamed}",
        )
    if found.disk:
        parts = [f"{name} {'?' if size is None else scaled(size, 'B')}" for name, size in found.disk.items()]
        free = "" if found.disk_free is None else f"; {scaled(found.disk_free, 'B')} free"
        facts.add_row("disk", ", ".join(parts) + free)
    if found.cluster_seconds is not None:
        facts.add_row("time", f"clustering {duration(found.cluster_seconds)} on this machine")
        kinds = [f"{name} {duration(seconds)}" for name, seconds in found.gpu_seconds.items()]
        facts.add_row("one GPU", "by data sheets: " + ", ".join(kinds))
    console.print(facts, markup=False)
    console.print()
    console.print(_level_table(found))
    for name, sentences in (("note", found.notes), ("warning", found.warnings)):
        for sentence in sentences:
            console.print(told(f"{name}: {sentence}"), markup=False, soft_wrap=True)


def _level_table(found: Plan) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("level", "points", "clusters", "fits", "operations", "bytes read", "time"):
        table.add_column(column, justify="right")
    for level in found.levels:
        cost = ("?", "?", "?")
        if level.operations is not None and level.bytes is not None:
            cost = (scaled(level.operations, "flop"), scaled(level.bytes, "B"), duration(level.seconds))
        table.add_row(str(level.level), f"{level.inputs:,}", f"{level.clusters:,}", f"{level.fits:,}", *cost)
    return table
