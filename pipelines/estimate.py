"""How long will the cluster stage take, and how much memory? The same answer for a plan and a manifest."""

from __future__ import annotations

from curation.cost import Crew, Rates, actor_bytes, tree_seconds
from curation.hierarchy import Recipe
from pipelines.calibration import BRIEF, machine, measure
from pipelines.config import Config

ROWS_A_SHARD = 4096
"""Fewer are not worth an actor."""
START = 3.0
"""Seconds until the actors of a stage are there."""
ROUND = 0.005
"""Seconds of a round in which the driver hears from every actor."""
READ = 200e6
"""Bytes of float32 coordinates a second that an actor reads from Parquet and brings onto the grid."""
WRITE = 2e6
"""Rows a second of assignments that an actor writes."""
RESIDENT_SHARE = 0.5
"""Of the memory that points may take where `cluster.memory` is auto."""


def shards(config: Config, total: int, cpus: int) -> int:
    """Point shards of a run over `total` points on `cpus` CPUs."""
    if config.cluster.shards != "auto":
        return config.cluster.shards
    return max(1, min(cpus, total // ROWS_A_SHARD))


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


def budget(config: Config, total: int, dimensions: int, crew: Crew, memory: int) -> int | None:
    """Bytes of points that an actor may hold, None where it holds all of its own.

    Args:
        config: Its `cluster.memory` is a number of bytes, or auto: half of the memory for all actors.
        total: Points.
        dimensions: Of a point.
        crew: Who holds them.
        memory: Of the machine.
    """
    asked = getattr(config.cluster, "memory", "auto")
    allowed = int(RESIDENT_SHARE * memory / crew.shards) if asked == "auto" else int(asked)
    resident = actor_bytes(total, dimensions, 0, crew) - actor_bytes(0, dimensions, 0, crew)
    return allowed if resident > allowed else None
