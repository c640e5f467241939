"""How long will the cluster stage take, and how much memory? The same answer for a plan and a manifest."""

from __future__ import annotations

from curation.cost import SKETCH, Crew, Rates, is_sketched, tree_seconds
from curation.recipe import Recipe
from curation.rows import Footing
from pipelines.calibration import BRIEF, machine, measure
from pipelines.config import Config

ROWS_A_SHARD = 4096
"""Fewer are not worth an actor."""
ROWS_WORTH_A_MACHINE = 500_000
"""Fewer are not worth a machine that is not there yet."""
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
PROCESS_BYTES = 350_000_000
"""Of a shard's process with its packages and tiles, before it holds anything."""


def shards(config: Config, total: int, cpus: float, gpus: float = 0.0) -> int:
    """Point shards of a run over `total` points: one a GPU where there are GPUs, else one a CPU."""
    if config.cluster.shards != "auto":
        return config.cluster.shards
    room = cpus
    if gpus and config.cluster.num_gpus:
        room = gpus if config.cluster.num_gpus == "auto" else gpus / config.cluster.num_gpus
    return max(1, min(int(room), total // ROWS_A_SHARD))


def shards_asked(config: Config, total: int, most_cpus: float, most_gpus: float) -> int:
    """Point shards for which machines are asked of an autoscaler that may bring so many CPUs and GPUs."""
    if config.cluster.shards != "auto":
        return config.cluster.shards
    return min(shards(config, total, most_cpus, most_gpus), max(1, total // ROWS_WORTH_A_MACHINE))


def crew(n_shards: int, cpus: int) -> Crew:
    """Who works at a time: shards beyond the CPUs wait for their turn."""
    return Crew(min(n_shards, cpus), 1, ROUND)


def stage_seconds(recipe: Recipe, total: int, dimensions: int, rates: Rates, working: Crew) -> list[float]:
    """Time of the cluster stage over `total` points, level by level; reading and writing are of the first."""
    levels = tree_seconds(recipe, total, dimensions, rates, working)
    mine = total / working.shards
    levels[0] += START + mine * 4 * dimensions / READ + mine / WRITE
    return levels


def stage_estimate(recipe: Recipe, total: int, dimensions: int, n_shards: int, cpus: int) -> float:
    """Time of the cluster stage by a brief measurement of this machine, one of the cluster's like any other.

    Args:
        recipe: What will be grown.
        total: Points.
        dimensions: Of a point.
        n_shards: Point shards.
        cpus: Of the whole cluster.
    """
    threads = min(n_shards, machine().cpus)
    rates = measure(total, dimensions, recipe.n_clusters[0], threads, BRIEF)
    working = crew(n_shards, cpus)
    return sum(stage_seconds(recipe, total, dimensions, rates, working))


def allowed(config: Config, n_shards: int, memory: int) -> int:
    """Bytes that a shard may take for its points and centroids, on a machine with so much memory."""
    asked = config.cluster.memory
    return int(RESIDENT_SHARE * memory / n_shards) if asked == "auto" else int(asked)


def actor_bytes(footing: Footing) -> int:
    """Memory of the process of a point shard."""
    if footing.resident:
        width = footing.dimensions + (SKETCH if is_sketched(footing.dimensions) else 0)
        return PROCESS_BYTES + footing.fixed + 4 * width * footing.n_points
    return PROCESS_BYTES + footing.memory
