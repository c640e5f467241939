"""How many point shards, what does each take of a machine, and how much may it hold there?

An actor that fits no machine is waited for, for ever if none comes. So no more shards are begun with than
there are places for, and what no machine can have is refused before anything starts.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from curation.recipe import Recipe
from curation.shares import equal_share, places_on, whole_share
from pipelines.config import Config
from pipelines.errors import RequestError
from pipelines.estimate import allowed, least_bytes, shared_out
from pipelines.resources import Resources

ROWS_A_SHARD = 4096
"""Fewer are not worth an actor."""
ROWS_WORTH_A_MACHINE = 500_000
"""Fewer are not worth a machine that is not there yet."""


def check_places(config: Config, there: Resources, parts: int = 1) -> None:
    """Refuses what would wait for machines that never come.

    Args:
        config: What was asked for.
        there: The cluster.
        parts: Of the pool, of which each shard has one at least; 1 where that is not known yet.

    Raises:
        RequestError: No machine has, or will have, the GPUs of a shard, or fewer of them than were asked for.
    """
    gpus, wanted = config.cluster.num_gpus, config.cluster.shards
    if gpus in ("auto", 0):
        return
    count = 1 if wanted == "auto" else min(wanted, parts)
    if (most := places(config, there, ever=True)) < count:
        asked = f"cluster.num_gpus is {gpus:g}" + (f" and cluster.shards {count}" if count > 1 else "")
        raise RequestError(
            f"{asked}, but the run may use {there.most_gpus:g} GPUs, and the machines that are there or that"
            f" an autoscaler is known to bring have places for {most} such shards: set cluster.num_gpus=0 to"
            " cluster on CPUs, leave both at auto, or say in ray.gpus how many GPUs may come"
        )


def places(config: Config, there: Resources, *, ever: bool) -> int:
    """Shards of `cluster.num_gpus` GPUs, a number above 0, that machines have room for: now, or ever."""
    gpus = whole_share(float(config.cluster.num_gpus))
    room = sum(places_on(kind.gpus, gpus) * (kind.most if ever else kind.there) for kind in there.kinds)
    if config.ray.gpus == "auto":
        return room
    promised = int(config.ray.gpus / gpus + 1e-9)  # which may be a share of one
    unknown = ever and (room or not any(kind.gpus for kind in there.kinds))  # machines that are to come
    return promised if unknown else min(room, promised)


def useful(config: Config, there: Resources, total: int) -> Resources:
    """The cluster as far as it is of use for so many points: few do not wait for a GPU to come."""
    few = config.cluster.num_gpus == "auto" and not there.gpus and total < ROWS_WORTH_A_MACHINE
    return replace(there, most_gpus=0.0) if few else there


def shards(config: Config, total: int, room: float) -> int:
    """Point shards wanted for `total` points where there is room for so many."""
    if config.cluster.shards != "auto":
        return config.cluster.shards
    return max(1, min(int(room), total // ROWS_A_SHARD))


def shards_now(config: Config, there: Resources, total: int) -> int:
    """Point shards wanted now: one a GPU (or a share of one) where there are or may be GPUs, or one a CPU."""
    return shards(config, total, _room(config, there, ever=False))


def requested(config: Config, there: Resources, total: int, parts: int) -> tuple[dict[str, float], int]:
    """What is asked of an autoscaler for `total` points in so many parts: a bundle, and how many of it.

    It brings all of them or none, so no more are asked for than may come.
    """
    gpus, most = config.cluster.num_gpus, int(_room(config, there, ever=True))
    count = shards(config, total, most)
    if config.cluster.shards == "auto":
        count = min(count, max(1, total // ROWS_WORTH_A_MACHINE))
    gpu = 1.0 if gpus == "auto" else whole_share(gpus)
    return {"GPU": gpu} if _on_gpus(config, there) else {"CPU": 1.0}, max(1, min(parts, count, most))


def gpus_of(config: Config, there: Resources, n_shards: int) -> float | None:
    """GPUs of each of so many shards; None: those that are there, shared out equally."""
    if config.cluster.num_gpus != "auto":
        return whole_share(config.cluster.num_gpus)
    if not there.most_gpus:
        return 0.0
    if there.gpus and config.ray.gpus == "auto":
        return None
    return equal_share(there.gpus or there.most_gpus, n_shards)


def _on_gpus(config: Config, there: Resources) -> bool:
    return bool(there.most_gpus and config.cluster.num_gpus)


def _room(config: Config, there: Resources, *, ever: bool) -> float:
    """CPUs, GPUs, or places of so many GPUs: for a shard each."""
    if not _on_gpus(config, there):
        return there.most_cpus if ever else there.cpus
    if config.cluster.num_gpus != "auto":
        return places(config, there, ever=ever)
    return there.most_gpus if ever else there.gpus


def most_that_fit(
    config: Config,
    recipe: Recipe,
    rows: Sequence[int] | NDArray[np.int64],
    wanted: int,
    dimensions: int,
    memory: Callable[[int], int],
) -> int:
    """Nearly the most shards, up to `wanted`, of which each has memory for its points and all centroids.

    Each holds all centroids, so of many clusters fewer shards are held by the same memory. What was asked
    for in numbers is left as it is, and may be refused later.

    Args:
        config: What was asked for.
        recipe: What will be grown.
        rows: Of each part of the pool.
        wanted: Shards.
        dimensions: Of a point.
        memory: Bytes that each of so many shards may take.
    """
    if config.cluster.shards != "auto" or config.cluster.memory != "auto":
        return wanted
    count, tried = wanted, [(math.inf, wanted)]  # what it takes of its memory
    while count and tried[-1][0] > 1:
        held = shared_out(rows, count)
        least = least_bytes(recipe, max(held), sum(held), dimensions)
        tried.append((least / max(1, memory(len(held))), count))
        count -= max(1, count // 8)
    return min(tried)[1]  # where none fits, the one that is refused for the least


def memory_of(
    config: Config, machines: Sequence[Mapping[str, float]], n_shards: int, gpus: float | None
) -> int:
    """Bytes that each of `n_shards` may take, spread over machines of these resources, of `gpus` GPUs each.

    That of the machine which has least for each of those that it gets.
    """
    kind = "CPU" if gpus == 0 else "GPU"
    with_cpus = [machine for machine in machines if machine.get("CPU")] or machines
    hosts = [machine for machine in machines if machine.get(kind)] or with_cpus  # GPUs may be still to come
    each = gpus or equal_share(sum(host.get(kind, 0.0) for host in hosts), n_shards)
    room = [max(1, places_on(host.get(kind, 0.0), each)) if each else n_shards for host in hosts]
    most = next(c for c in itertools.count(1) if c == max(room) or sum(min(c, r) for r in room) >= n_shards)
    return min(
        allowed(config, min(most, r), int(host.get("memory", 0) + host.get("object_store_memory", 0)))
        for r, host in zip(room, hosts, strict=True)
    )
