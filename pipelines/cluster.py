"""The cluster stage: ``embeddings/`` becomes ``tree/``, on point shards and centroid shards.

Writes ``tree/level-1/assignments/part-*.parquet`` (id, key, cluster, distance; the rows and the order of
``embeddings/part-*``) and for every level ``tree/level-<l>/centroids/part-*.parquet`` (cluster, centroid,
size, parent). The driver sees references, and a few numbers a cluster.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from numpy.typing import NDArray

from curation import exact
from curation.errors import CurationError
from curation.hierarchy import Grown, Recipe, grow
from curation.inputs import check_points
from curation.levels import auto_clusters, auto_reason
from curation.shards import RayWorkers
from curation.workers import FIT_DONE
from pipelines.blocks import keys_in, part_index, part_name
from pipelines.config import Config
from pipelines.encode import fixed_lists, matrix
from pipelines.errors import RunError
from pipelines.estimate import shards, stage_estimate
from pipelines.progress import Progress
from pipelines.store import Store


@dataclass(frozen=True)
class PoolRows:
    """Reads some parts of ``embeddings/`` as points on the grid; a restarted shard calls it again."""

    store: Store
    parts: Sequence[str]
    exponent: int
    cosine: bool

    def __call__(self) -> tuple[NDArray[np.float32], NDArray[np.uint64]]:
        """Points (n, d), float32 on the grid, and keys (n, 2), part after part."""
        grid = exact.Grid(self.exponent)
        rows, keys = [], []
        for part in self.parts:
            table = self.store.read_table(part, ["key", "embedding"])
            if table.num_rows:
                values = matrix(table.column("embedding"))
                rows.append(grid.encode(exact.normalize_rows(values) if self.cosine else values))
                keys.append(keys_in(table["key"]))
        return np.concatenate(rows), np.concatenate(keys)


@dataclass(frozen=True)
class Assignments:
    """Writes the clusters of the rows that `PoolRows` read, one file for each of its parts."""

    store: Store
    parts: Sequence[str]
    exponent: int

    def __call__(self, clusters: NDArray[np.int64], distances: NDArray[np.float64]) -> int:
        """Returns the rows written; distances (n,) are exact, on the grid."""
        scaled = exact.Grid(self.exponent).decode_squared(distances).astype(np.float32)
        start = 0
        for part in self.parts:
            table = self.store.read_table(part, ["id", "key"])
            rows = slice(start, start := start + table.num_rows)
            table = table.append_column("cluster", pa.array(clusters[rows], pa.int64()))
            table = table.append_column("distance", pa.array(scaled[rows], pa.float32()))
            self.store.write_table(part_name("tree/level-1/assignments", part_index(part)), table)
        return start


def cluster(config: Config, store: Store, progress: Progress) -> dict[str, Any]:
    """Grows the tree; returns what the manifest counts.

    Raises:
        RunError: Nothing is embedded, or the pool cannot be clustered as asked.
    """
    parts = [part for part in store.list("embeddings") if store.rows(part)]
    rows = [store.rows(part) for part in parts]
    total = sum(rows)
    if not total:
        raise RunError("no sample is embedded, so there is nothing to cluster; see what was rejected and why")
    recipe = recipe_of(config, total)
    reasons = [auto_reason(total)] if config.cluster.n_clusters == "auto" else []
    for reason in reasons:
        progress.say(reason)
    cpus = int(ray.cluster_resources().get("CPU", 1))
    n_shards = shards(config, total, cpus)
    estimate = stage_estimate(recipe, total, store.dimensions(parts[0]), n_shards, cpus)
    began = time.monotonic()
    exponent = _exponent(config, store, parts)
    shares = _shares(rows, n_shards)
    readers = [
        PoolRows(store, [parts[i] for i in share], exponent, config.cluster.distance == "cosine")
        for share in shares
    ]
    progress.start("cluster", recipe.fits(total), "fits")
    workers = RayWorkers(readers, len(readers))
    workers.monitor = _monitor(progress)
    try:
        check_points(workers, exponent)

        def save(leaves: Grown) -> None:
            numbers = ray.put(leaves.renumbered)
            saved = [
                shard.call.remote(
                    "save", own, Assignments(store, reader.parts, exponent), numbers, *leaves.slices
                )
                for shard, own, reader in zip(workers.point_shards, leaves.own, readers, strict=True)
            ]
            workers.get(saved)

        grown = grow(workers, recipe, save)
        ray.get(
            [
                _write_level.remote(store, number, exponent, level.sizes, level.parents, *level.slices)
                for number, level in enumerate(grown, start=1)
            ]
        )
    except CurationError as error:
        raise RunError(str(error)) from error
    finally:
        workers.close()
        progress.finish()
    notes = [note for level in grown for note in level.notes]
    for note in notes:
        progress.say(note)
    return {
        "points": total,
        "clusters": [len(level.sizes) for level in grown],
        "asked": list(recipe.n_clusters),
        "inertia": grown[0].inertia / exact.SQUARE_UNIT * 4.0**exponent,
        "shards": len(readers),
        "notes": reasons + notes,
        "estimated_s": round(estimate, 1),
        "took_s": round(time.monotonic() - began, 1),
    }


def recipe_of(config: Config, total: int) -> Recipe:
    """What a config asks to grow over `total` points."""
    wanted = config.cluster
    levels = auto_clusters(total) if wanted.n_clusters == "auto" else wanted.n_clusters
    return Recipe(
        levels,
        wanted.resample.steps,
        wanted.resample.points,
        wanted.resample.strategy,
        wanted.max_iter,
        wanted.tol,
        wanted.distance,
        config.seed,
    )


def _exponent(config: Config, store: Store, parts: Sequence[str]) -> int:
    """The pool's grid: 0 for unit rows, which encoders give; else the largest of its parts'."""
    if config.cluster.distance == "cosine":
        return 0
    found: list[int] = ray.get([_part_exponent.remote(store, part) for part in parts])
    return exact.pool_exponent(found)


@ray.remote(num_cpus=1)
def _part_exponent(store: Store, part: str) -> int:
    return exact.grid_exponent(matrix(store.read_table(part, ["embedding"]).column("embedding")))


def _shares(rows: Sequence[int], shards: int) -> list[list[int]]:
    """Parts of each shard: runs of parts with nearly equal numbers of rows, none empty."""
    middle = np.cumsum(rows) - np.asarray(rows) / 2
    shard = np.minimum(middle * shards // sum(rows), shards - 1).astype(int)
    return [list(np.flatnonzero(shard == i)) for i in np.unique(shard)]


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
            progress.advance(0, f"{where}, {phase} {done} of {total}")

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
    start = 0
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
        store.write_table(part_name(f"tree/level-{number}/centroids", index), table)
