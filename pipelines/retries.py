"""How often had storage to be asked again? Every process counts for the run, and the stages tell."""

from __future__ import annotations

import threading
from contextlib import suppress

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

NAME = "evenset-retries"

_mine = 0
_lock = threading.Lock()


def count() -> None:
    """One more. The driver keeps its own number; a worker tells the run's `Retries`."""
    global _mine
    with _lock:
        _mine += 1
    if ray.is_initialized():  # in a thread: who asks again waits in an event loop, which must not stop
        threading.Thread(target=_tell, daemon=True).start()


def _tell() -> None:
    with suppress(RayError, ValueError, RuntimeError):  # nobody counts, or the run is over
        if ray.get_runtime_context().worker.mode == ray.WORKER_MODE:
            ray.get_actor(NAME).add.remote()


class Retries:
    """The count of one run, for its driver. The workers' part of it lives in an actor beside the driver."""

    def __init__(self) -> None:
        self._before = _mine
        self._actor: ActorHandle | None = None

    def open(self) -> None:
        """Let workers count too; Ray is up."""
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        actor = ray.remote(num_cpus=0)(_Total)
        self._actor = actor.options(name=NAME, get_if_exists=True, scheduling_strategy=here).remote()

    @property
    def total(self) -> int:
        """Of all processes so far."""
        there = 0
        with suppress(RayError):
            there = ray.get(self._actor.told.remote(), timeout=30) if self._actor else 0
        return _mine - self._before + there

    def close(self) -> None:
        """Leave no actor behind."""
        if self._actor is not None and ray.is_initialized():
            ray.kill(self._actor)
        self._actor = None


class _Total:
    def __init__(self) -> None:
        self._count = 0

    def add(self) -> None:
        self._count += 1

    def told(self) -> int:
        return self._count
