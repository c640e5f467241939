"""How long will the cluster stage take, and how much memory? The same answer for a plan and a manifest."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from curation import sketch
from curation.cost import Crew, Rates, tree_seconds
from curation.descent import FEW
from curation.recipe import Recipe
from curation.rows import Footing
from pipelines.calibration import BRIEF, machine, measure
from pipelines.config import Config

START = 3.0
"""Seconds until the actors of a stage are there."""
ROUND = 0.005
"""Seconds of a round in which the driver hears from every actor."""
READ = 200e6
"""Bytes of float32 coordinates a second that an actor reads from Parquet and brings onto the grid."""
WRITE = 2e6
"""Rows a second of assignments that an actor writes."""
RESIDENT_SHARE = 0.5
"""Of the memory that all shards may take where `cluster.memory` is auto."""
PROCESS_BYTES = 280_000_000
"""Of a shard's process with its packages and tiles, before it holds anything."""
SLICE_PROCESS_BYTES = 150_000_000
"""Of a centroid shard's process, of which there are as many."""
MERGED_BYTES = 28
"""Of a coordinate of a centroid while all of them are updated: sums, means twice as float64, and float32."""
DRIVER_BYTES = 1_000_000_000
"""Of Ray's own processes and of the driver, which has a third of it."""


def shares(rows: Sequence[int] | NDArray[np.int64], n_shards: int) -> list[list[int]]:
    """Parts of each shard that there can be: a part is not divided, and no shard is without one.

    Args:
        rows: Of each part, at least one.
        n_shards: Shards wanted; where parts are few or uneven, there are fewer.

    Returns:
        Runs of parts with nearly equal numbers of rows.
    """
    middle = np.cumsum(rows) - np.asarray(rows) / 2
    shard = np.minimum(middle * n_shards // np.sum(rows), n_shards - 1).astype(int)
    runs = np.split(np.arange(len(shard)), np.flatnonzero(np.diff(shard)) + 1)
    return [run.tolist() for run in runs]


def shared_out(rows: Sequence[int] | NDArray[np.int64], n_shards: int) -> list[int]:
    """Points of each shard that there can be."""
    return [sum(int(rows[part]) for part in share) for share in shares(rows, n_shards)]


def crew(held: Sequence[int], cpus: int) -> Crew:
    """Who works at a time, each shard on what it holds; shards beyond the CPUs wait for their turn."""
    working = min(len(held), cpus)
    return Crew(working, 1, ROUND, max(1.0, max(held) * working / sum(held)))


def stage_seconds(recipe: Recipe, total: int, dimensions: int, rates: Rates, working: Crew) -> list[float]:
    """Time of the cluster stage over `total` points, level by level; reading and writing are of the first."""
    levels = tree_seconds(recipe, total, dimensions, rates, working)
    mine = working.uneven * total / working.shards
    levels[0] += START + mine * 4 * dimensions / READ + mine / WRITE
    return levels


def stage_estimate(recipe: Recipe, held: Sequence[int], dimensions: int, cpus: int) -> float:
    """Time of the cluster stage by a brief measurement of this machine, one of the cluster's like any other.

    Args:
        recipe: What will be grown.
        held: Points of each shard.
        dimensions: Of a point.
        cpus: Of the whole cluster.
    """
    total, threads = sum(held), min(len(held), machine().cpus)
    rates = measure(total, dimensions, recipe.n_clusters[0], threads, BRIEF)
    return sum(stage_seconds(recipe, total, dimensions, rates, crew(held, cpus)))


def allowed(config: Config, n_shards: int, memory: int) -> int:
    """Bytes that a shard may take for its points and centroids, on a machine with so much memory."""
    asked = config.cluster.memory
    return int(RESIDENT_SHARE * memory / n_shards) if asked == "auto" else int(asked)


def footing(recipe: Recipe, memory: int, held: int, total: int, dimensions: int) -> Footing:
    """How a shard holds so many of `total` points within so many bytes.

    Raises:
        CurationError: It cannot.
    """
    selected = recipe.points_of(1, total) * (recipe.n_clusters[0] // recipe.split_of(1))
    return Footing(memory, held, dimensions, recipe.n_clusters[0], min(held, selected))


def least_bytes(recipe: Recipe, held: int, total: int, dimensions: int) -> int:
    """The smallest memory of a shard that holds so many of `total` points."""
    return footing(recipe, 2**62, held, total, dimensions).least


def actor_bytes(shard: Footing) -> int:
    """Memory of the process of a point shard."""
    return PROCESS_BYTES + (shard.whole if shard.resident else shard.memory)


def stage_bytes(shard: Footing, n_shards: int) -> int:
    """Memory of all processes of the stage and of Ray's object store, where all are on one machine.

    Args:
        shard: How the largest point shard holds its points.
        n_shards: Point shards, and as many centroid shards.
    """
    table = shard.n_clusters * shard.dimensions
    stored = table * (2 * 4 + 8 * n_shards)  # the centroids, and the sums of every shard
    processes = n_shards * (actor_bytes(shard) + SLICE_PROCESS_BYTES) + DRIVER_BYTES
    return processes + MERGED_BYTES * table + stored


def streamed_bytes(recipe: Recipe, total: int, dimensions: int, halves: bool) -> int:
    """Disk of `total` points that are not held in memory: their rows, and their sketches where there are any.

    Args:
        recipe: What is grown.
        total: Points.
        dimensions: Of a point.
        halves: Whether float16 holds them exactly.
    """
    rows = total * dimensions * (2 if halves else 4)
    k = recipe.n_clusters[0] // recipe.split_of(1)
    if recipe.algorithm == "lloyd" or k <= FEW or not sketch.pays(dimensions):
        return rows
    views = recipe.resample_steps * min(total, recipe.points_of(1, total) * k)  # each has a sketch of its own
    return rows + 4 * sketch.SIZE * (total + views)


def greedy_refusal(recipe: Recipe, shard: Footing) -> str:
    """Why a shard on this footing cannot find greedy seeds; empty where it can, or need not."""
    if recipe.init != "k-means++" or shard.resident:
        return ""
    return (
        "cluster.init k-means++ reads every point for every seed, so all points of a shard must fit its"
        f" memory: they take {shard.whole:,} bytes and cluster.memory gives {shard.memory:,}: raise it,"
        " spread the points over more shards, or leave cluster.init at auto"
    )
