"""How many encoder actors, and what do they and the tasks that feed them take of a machine?

Actors are placed by what they take. One that fits no machine yet waits for its place, which is what an
autoscaler brings machines for. So a stage asks for as many at once as its samples are worth, and need not
know when they come. Whatever is there, a task finds a place beside the actors, or nothing would ever move.
"""

from __future__ import annotations

from dataclasses import dataclass

from curation.shares import FINEST, places_on, whole_share
from pipelines.config import Config
from pipelines.errors import RequestError
from pipelines.resources import Kind, Resources

SAMPLES_WORTH_AN_ACTOR = 50_000
"""Fewer are encoded before a machine that is not there yet has come, which takes minutes."""

_ROUNDING = 1e-9


@dataclass(frozen=True)
class Sizing:
    """A pool of actors and what feeds it.

    Attributes:
        fewest: Actors that there are at least.
        first: Actors to begin with: those without a machine wait for one.
        most: Actors that there are at most.
        fitting: Actors that the machines that are there have room for.
        cpus: CPUs of an actor.
        gpus: GPUs of an actor.
        task_cpus: CPUs of a task that reads, prepares or writes a part.
    """

    fewest: int
    first: int
    most: int
    fitting: int
    cpus: float
    gpus: float
    task_cpus: float


def sizing(config: Config, there: Resources, parts: int, samples: int) -> Sizing:
    """The encoder actors of a run.

    Args:
        config: ``encoder.num_gpus`` is settled.
        there: The cluster.
        parts: Parts left to encode; an actor takes one at a time.
        samples: Samples in them.

    Raises:
        RequestError: No machine has, or will have, the GPUs of an actor.
    """
    check_gpus(config, there)
    return (_on_gpus if config.encoder.num_gpus else _on_cpus)(config, there, max(1, parts), samples)


def check_gpus(config: Config, there: Resources) -> None:
    """Refuse what would wait for a machine that never comes; ``encoder.num_gpus`` is settled.

    Raises:
        RequestError: No machine has, or will have, the GPUs of an actor.
    """
    asked = float(config.encoder.num_gpus)
    gpus = whole_share(asked)
    said = config.ray.gpus != "auto" and there.most_gpus >= gpus and not any(k.gpus for k in there.kinds)
    if gpus and not said and (there.most_gpus < gpus or not _hosts(there, gpus)):
        largest = max((kind.gpus for kind in there.kinds), default=0)
        raise RequestError(
            f"encoder.num_gpus is {asked:g}, but the run may use {there.most_gpus:g} GPUs, and the largest"
            f" machine that is there or that an autoscaler is known to bring has {largest:g}: set"
            " encoder.num_gpus=0 to encode on CPUs, join a cluster with GPUs, or say in ray.gpus how many may"
            " come"
        )


def task_cpus(there: Resources) -> float:
    """CPUs of a task: one, or half of the only one, so that an encoder fits beside it."""
    return 0.5 if 0 < there.most_cpus <= 1 else 1.0


def _hosts(there: Resources, gpus: float) -> list[Kind]:
    """Kinds of machines that have room for an actor."""
    return [kind for kind in there.kinds if kind.gpus >= gpus]


def _on_gpus(config: Config, there: Resources, parts: int, samples: int) -> Sizing:
    gpus = whole_share(float(config.encoder.num_gpus))
    hosts = _hosts(there, gpus)
    room = [places_on(host.gpus, gpus) for host in hosts]  # actors of a machine
    fitting = sum(each * host.there for each, host in zip(room, hosts, strict=True))
    coming = sum(each * host.most for each, host in zip(room, hosts, strict=True))
    if config.ray.gpus != "auto":
        coming = int(config.ray.gpus / gpus + _ROUNDING)
        fitting = min(fitting, coming)
    # the host's side of a GPU's work takes a CPU, but a whole one is left on the machine to a task
    spare = [(host.cpus - 1) / each for each, host in zip(room, hosts, strict=True)]
    cpus = int(100 * max(0.0, min([1.0, *spare]))) / 100 if hosts else 0.0
    fewest, most = (1, coming) if config.encoder.actors == "auto" else config.encoder.actors
    fewest, most = min(fewest, parts), min(most, parts)
    first = max(fewest, min(most, max(fitting, samples // SAMPLES_WORTH_AN_ACTOR)))
    return Sizing(fewest, first, most, fitting, cpus, gpus, task_cpus(there))


def _on_cpus(config: Config, there: Resources, parts: int, samples: int) -> Sizing:
    """As many as Ray Data finds worth it; its own request brings more machines.

    No more are begun with than fit, since actors that come to a machine first would leave no task a place.
    """
    total = there.most_cpus or 2.0
    machines = [kind for kind in there.kinds if kind.cpus >= 1 and kind.most] or [Kind(total, 0.0, 1, 1)]
    now, ever = [(kind.cpus, kind.there) for kind in machines], [(kind.cpus, kind.most) for kind in machines]
    fewest, most = (1, max(1, int(total - 1))) if config.encoder.actors == "auto" else config.encoder.actors
    fewest, most = min(fewest, parts), min(most, parts)
    sharing = 2 if min(total, *(kind.cpus for kind in machines)) <= 1 else 1
    while (room := _room(sharing, ever, total)) < fewest:
        sharing += 1
    if config.encoder.actors == "auto":
        most = min(most, room)
    fitting = max(1, _room(sharing, now, there.cpus))
    fewest = min(fewest, fitting)
    encoder, task = _shares(sharing, max(kind.cpus for kind in machines))
    return Sizing(fewest, fewest, most, fitting, encoder, 0.0, task)


def _shares(sharing: int, cpus: float) -> tuple[float, float]:
    """CPUs of an encoder and of a task, if ``sharing`` of them share a CPU of machines of up to ``cpus``.

    Ray places actors that begin again, after a machine was lost, wherever they fit, and what they wait for is
    made by tasks. So however many come to a machine, a task has a place beside them: an encoder takes a
    little more than its share, so that the last one does not fit, and a task less than what that one leaves.
    (Of more than three a CPU, on large machines, the little more is less than Ray can count.)
    """
    encoder = (1 + 0.1 / max(1.0, sharing * cpus - 1)) / sharing
    return int(encoder * FINEST) / FINEST, 0.9 / sharing


def _room(sharing: int, machines: list[tuple[float, int]], cpus: float) -> int:
    """Encoders for which machines, of so many CPUs each and so many of them, have room, under a limit."""
    encoder, task = _shares(sharing, max(each for each, _ in machines))
    room = sum(count * int((each - task) / encoder + _ROUNDING) for each, count in machines)
    return min(room, int((cpus - task) / encoder + _ROUNDING))
