"""The cluster stage: ``embeddings/`` becomes ``tree/``, on point shards and centroid shards.

Writes ``tree/level-1/assignments/part-*.parquet`` (id, key, cluster, distance; the rows and the order of
``embeddings/part-*``) and for every level ``tree/level-<l>/centroids/part-*.parquet`` (cluster, centroid,
size, parent). The driver sees references, and a few numbers a cluster. What a run that was killed goes on
from, and the rows of shards that do not hold theirs in memory, lie in ``unfinished/`` until it is done.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from numpy.typing import NDArray

from curation import exact
from curation.checkpoint import Checkpoint
from curation.errors import CurationError, RegroupError
from curation.hierarchy import Grown, grow
from curation.inputs import check_points
from curation.levels import auto_clusters, auto_reason
from curation.recipe import Recipe
from curation.shards import RayWorkers
from curation.workers import FIT_DONE
from pipelines import written
from pipelines.blocks import part_index, part_name
from pipelines.config import Config
from pipelines.encode import fixed_lists, matrix
from pipelines.errors import RequestError, RunError
from pipelines.estimate import footing, greedy_refusal, shared_out, shares, stage_estimate
from pipelines.groups import groups
from pipelines.manifest import digest, read_manifest
from pipelines.points import Assignments, PoolRows
from pipelines.progress import Progress
from pipelines.resources import Resources, asked, resources
from pipelines.scratch import UNFINISHED, clear, cleared, delete_here, scratch_of
from pipelines.sharding import (
    check_places,
    gpus_of,
    memory_of,
    most_that_fit,
    requested,
    shards_now,
    useful,
)
from pipelines.startup import identity
from pipelines.store import Store

_REGROUPS = 1000  # times that machines may come or go


def cluster(config: Config, store: Store, progress: Progress) -> dict[str, Any]:
    """Grows the tree; returns what the manifest counts.

    Raises:
        RequestError: The embeddings are so long, or so short, that they leave float32, or no machine has, or
            will have, the GPUs of a shard.
        RunError: Nothing is embedded, or the pool cannot be clustered as asked.
    """
    began = time.monotonic()
    parts, rows, exponent = _looked_into(config, store)
    total = sum(rows)
    if not total:
        raise RunError("no sample is embedded, so there is nothing to cluster; see what was rejected and why")
    recipe = recipe_of(config, total)
    reasons = [auto_reason(total)] if config.cluster.n_clusters == "auto" else []
    for reason in reasons:
        progress.say(reason)
    basis = _basis(config, store, recipe, exponent, dict(zip(parts, rows, strict=True)))
    every = config.cluster.checkpoint
    checkpoint = Checkpoint(store, f"{UNFINISHED}/checkpoint", basis, every, progress.say) if every else None
    dimensions = store.dimensions(parts[0])
    work = _Work(config, store, progress, recipe, parts, rows, dimensions, exponent, digest(basis))
    there, regrouped = work.there(), 0
    with asked(there, *requested(config, there, total, len(parts))), cleared(store):
        estimate = work.estimate()
        while True:
            try:
                check_places(config, work.there(), len(parts))
                grown, n_shards = work.grow(checkpoint)
                break
            except RegroupError as error:
                regrouped += 1
                progress.say(f"cluster: {error}")
                if regrouped > _REGROUPS:
                    raise RunError(f"machines came and went {regrouped} times: {error}") from error
            except CurationError as error:
                raise RunError(str(error)) from error
            finally:
                progress.finish()
    store.delete(UNFINISHED)
    notes = [note for level in grown for note in level.notes]
    for note in notes:
        progress.say(note)
    return {
        "points": total,
        "clusters": [len(level.sizes) for level in grown],
        "asked": list(recipe.n_clusters),
        "inertia": grown[0].inertia / exact.SQUARE_UNIT * 4.0**exponent,
        "grid_exponent": exponent,
        "shards": n_shards,
        "regrouped": regrouped,
        "files": {
            "tree/level-1/assignments": written.runs(map(part_index, parts)),
            **{f"tree/level-{i}/centroids": [[0, len(lv.slices)]] for i, lv in enumerate(grown, start=1)},
        },
        "notes": reasons + notes,
        "estimated_s": round(estimate, 1),
        "took_s": round(time.monotonic() - began, 1),
    }


@dataclass(frozen=True)
class _Work:
    """What is to be grown, whoever does it."""

    config: Config
    store: Store
    progress: Progress
    recipe: Recipe
    parts: Sequence[str]
    rows: Sequence[int]
    dimensions: int
    exponent: int
    basis: str

    def there(self) -> Resources:
        """The cluster as it is now, as far as it is of use."""
        return useful(self.config, resources(self.config.ray), sum(self.rows))

    def wanted(self) -> int:
        """Point shards for which there is room now."""
        count = shards_now(self.config, self.there(), sum(self.rows))
        return most_that_fit(self.config, self.recipe, self.rows, count, self.dimensions, self._memory())

    def shards(self) -> int:
        """Point shards that can work now: there are no more of them than parts to share out."""
        return len(shares(self.rows, self.wanted()))

    def estimate(self) -> float:
        """Seconds that it will take those who can work now."""
        cpus = max(1, int(resources(self.config.ray).cpus))
        return stage_estimate(self.recipe, shared_out(self.rows, self.wanted()), self.dimensions, cpus)

    def grow(self, checkpoint: Checkpoint | None) -> tuple[list[Grown], int]:
        """Grows the tree on the machines that are there, and writes it; the levels, and the shards.

        Raises:
            CurationError: The pool cannot be clustered as asked.
            RegroupError: Machines have come or gone: the same again goes on from the checkpoint.
        """
        config, store = self.config, self.store
        readers = self.readers()
        self.progress.start("cluster", self.recipe.fits(sum(self.rows)), "fits")
        workers = RayWorkers(
            readers,
            len(readers),
            gpus=gpus_of(config, self.there(), len(readers)),
            reduce=config.cluster.reduce,
            wanted=self.shards if config.cluster.shards == "auto" else None,
        )
        workers.monitor = _monitor(self.progress)

        def save(leaves: Grown) -> None:
            numbers = ray.put(leaves.renumbered)
            writers = [Assignments(store, reader.parts, self.exponent) for reader in readers]

            def write() -> None:
                calls = zip(workers.point_shards, leaves.own, writers, strict=True)
                workers.get(
                    [
                        shard.call.remote("save", own, writer, numbers, *leaves.slices)
                        for shard, own, writer in calls
                    ]
                )

            workers.attempt(write, lambda: None)

        try:
            check_points(workers, self.exponent, config.cluster.distance, self._rounding)
            grown = grow(workers, self.recipe, save, checkpoint)
            levels = enumerate(grown, start=1)
            workers.get(
                [
                    _write_level.remote(
                        store, number, self.exponent, level.sizes, level.parents, *level.slices
                    )
                    for number, level in levels
                ]
            )
        finally:
            workers.close()
        return grown, len(readers)

    def readers(self) -> list[PoolRows]:
        """What each shard that can work now reads its points with.

        Raises:
            CurationError: `cluster.memory` is too little for a shard; the message says how much it takes.
            RunError: It is too little for greedy k-means++.
        """
        store, dealt = self.store, shares(self.rows, self.wanted())
        memory, dimensions = self._memory()(len(dealt)), self.dimensions
        cosine = self.config.cluster.distance == "cosine"
        scratch, here = scratch_of(store), identity()
        readers = []
        for share in dealt:
            mine, counts = [self.parts[i] for i in share], [self.rows[i] for i in share]
            held = footing(self.recipe, memory, sum(counts), sum(self.rows), dimensions)
            if refusal := greedy_refusal(self.recipe, held):
                raise RunError(refusal)
            folder = str(scratch / digest([self.basis, store.url, mine]))
            readers.append(PoolRows(store, mine, counts, self.exponent, cosine, held, folder, here))
        # what a killed run has left to other shards is of no use
        kept = {Path(reader.folder) for reader in readers}
        if store.local:
            delete_here(scratch, kept)
        else:
            clear(scratch, kept)
        return readers

    def _memory(self) -> Callable[[int], int]:
        """Tells of a number of shards what bytes each may take, on the machines that are there now."""
        machines, there = [node["Resources"] for node in ray.nodes() if node["Alive"]], self.there()
        return lambda count: memory_of(self.config, machines, count, gpus_of(self.config, there, count))

    def _rounding(self) -> float:
        """`Grid.rounding` of all rows."""
        cosine = self.config.cluster.distance == "cosine"
        parts = [
            _rounded_off.remote(self.store, group, self.exponent, cosine) for group in groups(self.parts)
        ]
        return math.fsum(ray.get(parts))


def recipe_of(config: Config, total: int) -> Recipe:
    """What a config asks to grow over `total` points."""
    wanted = config.cluster
    levels = auto_clusters(total) if wanted.n_clusters == "auto" else wanted.n_clusters
    return Recipe(
        levels,
        resample_steps=wanted.resample.steps,
        resample_points=wanted.resample.points,
        resample_strategy=wanted.resample.strategy,
        max_iter=wanted.max_iter,
        tol=wanted.tol,
        distance=wanted.distance,
        random_state=config.seed,
        algorithm=wanted.algorithm,
        init=wanted.init,
        split=wanted.split,
    )


def _basis(
    config: Config, store: Store, recipe: Recipe, exponent: int, parts: dict[str, int]
) -> dict[str, Any]:
    """What the tree depends on, for a checkpoint to be told from that of another one."""
    embedded = read_manifest(store, "embeddings")
    return {
        **{f"cluster.{name}": value for name, value in asdict(recipe).items()},
        "pool": embedded.fingerprint if embedded else "",
        "parts": digest(parts),
        "grid": exponent,
        "code": identity()["code"],
    }


def _looked_into(config: Config, store: Store) -> tuple[list[str], list[int], int]:
    """The parts that have rows, how many, and the exponent of the pool's grid: the largest of its parts'.

    It is 0 for unit rows, of which nothing but their number is read.

    Raises:
        RequestError: There is no such grid.
    """
    parts, cosine = written.parts(store, "embeddings"), config.cluster.distance == "cosine"
    looks = ray.get([_look_into.remote(store, group, cosine) for group in groups(parts)])
    found = [
        (part, *about) for part, about in zip(parts, chain.from_iterable(looks), strict=True) if about[0]
    ]
    if not found:
        return [], [], 0
    names, rows, exponents = (list(column) for column in zip(*found, strict=True))
    exponent = exact.pool_exponent(exponents)
    try:
        exact.Grid(exponent)
    except CurationError as error:
        longest = ray.get(_longest.remote(store, names[int(np.argmax(exponents))]))
        raise RequestError(_off_the_grid(longest, exponent)) from error
    return names, rows, exponent


def _off_the_grid(name: str, exponent: int) -> str:
    """What to say of a pool whose longest embedding is the one with this id."""
    drop = "leave that sample out if it alone is so long, " if exponent > 0 else ""
    return (
        f"the longest embedding, that of {name!r}, has a norm of about 2^{exponent}, so squared distances"
        f" leave float32: {drop}multiply all embeddings by 2^{-exponent} or so, or set cluster.distance to"
        " cosine, which looks at their directions alone"
    )


@ray.remote(num_cpus=1)
def _look_into(store: Store, parts: Sequence[str], cosine: bool) -> list[tuple[int, int]]:
    """Rows and exponent of each part."""
    if cosine:
        return [(store.rows(part), 0) for part in parts]
    columns = (store.read_table(part, ["embedding"]).column("embedding") for part in parts)
    return [(len(column), exact.grid_exponent(matrix(column)) if len(column) else 0) for column in columns]


@ray.remote(num_cpus=0, scheduling_strategy="SPREAD")  # the shards have the CPUs
def _rounded_off(store: Store, parts: Sequence[str], exponent: int, cosine: bool) -> float:
    """`Grid.rounding` of the rows of some parts."""
    columns = (matrix(store.read_table(part, ["embedding"])["embedding"]) for part in parts)
    rows = (exact.normalize_rows(values) if cosine else values for values in columns)
    return math.fsum(exact.Grid(exponent).rounding(values) for values in rows)


@ray.remote(num_cpus=1)
def _longest(store: Store, part: str) -> str:
    """The id of the longest embedding of a part."""
    table = store.read_table(part, ["id", "embedding"])
    squares = exact.sum_of_squares(matrix(table["embedding"]))
    return str(table["id"][int(squares.argmax())].as_py())


def _monitor(progress: Progress) -> Any:
    where = ""

    def tell(phase: str, done: int, total: int) -> None:
        nonlocal where
        if phase == FIT_DONE:
            progress.advance()
        elif phase.startswith("level"):
            where = phase
            progress.advance(0, where)
        else:
            progress.advance(0, ", ".join(filter(None, (where, f"{phase} {done} of {total}"))))

    return tell


@ray.remote(num_cpus=1)
def _write_level(
    store: Store,
    number: int,
    exponent: int,
    sizes: NDArray[np.int64],
    parents: NDArray[np.int64] | None,
    *slices: NDArray[np.float32],
) -> None:
    folder, start = f"tree/level-{number}/centroids", 0
    for index, part in enumerate(slices):
        rows = slice(start, start := start + len(part))
        column = pa.nulls(len(part), pa.int64()) if parents is None else pa.array(parents[rows], pa.int64())
        table = pa.table(
            {
                "cluster": pa.array(np.arange(rows.start, rows.stop), pa.int64()),
                "centroid": fixed_lists(exact.Grid(exponent).decode(part)),
                "size": pa.array(sizes[rows], pa.int64()),
                "parent": column,
            }
        )
        store.write_table(part_name(folder, index), table)
    for stale in set(store.list(folder)) - {part_name(folder, index) for index in range(len(slices))}:
        store.delete(stale)  # of another number of shards, which did not come to an end
