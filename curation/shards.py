"""The Ray form of `Workers`: point shards and centroid shards as actors, handles as object references.

Point shards own blocks of points and load them again by themselves when they are restarted. Centroid
shards own slices of the centroids and keep nothing between calls. Data goes from actor to actor
through the object store; the driver sees references, counts, and the few (value, key) pairs of a draw.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import ray
from numpy.typing import NDArray
from ray.actor import ActorHandle

from curation.actors import CentroidRows, CentroidShard, PointShard, Ticket
from curation.assign import Assigner
from curation.errors import CurationError, RegroupError, WorkerRestartedError
from curation.kept import DamagedError
from curation.rows import Rows
from curation.shares import FINEST, equal_share, places_on
from curation.workers import FIT_DONE, Handle, Workers, slice_edges

if TYPE_CHECKING:
    from curation.collective import Backend
    from curation.hierarchy import Grown

Reduce = Literal["auto", "store", "collective"]
Reader = Callable[[], tuple[Rows | NDArray[np.float32], NDArray[np.uint64]]]

_RESTARTS = 100  # of one actor over a fit
_RETRIES = 2  # of one call: one that always kills its actor ends, and with it the attempts of a step
_PATIENCE = 5.0  # seconds for a shard to clear away its file
_PATIENT = 600.0  # seconds for a shard to be reached again
_GLANCE = 5.0  # seconds between two looks at the machines
_GONE = "a machine was lost with what it held"
_SUMMED = frozenset({"assign", "hint", "reduce", "halves"})  # methods that return `Partial`s
_ALONE = 1_000_000  # centroids of a level below that one actor takes and clusters by itself


def _cpus_beside(gpus: float) -> float:
    """CPUs of a shard of so many GPUs: at most one, so that all of them fit beside their GPUs."""
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    shares = [
        has.get("CPU", 0.0) / count for has in machines if (count := places_on(has.get("GPU", 0.0), gpus))
    ]
    return int(FINEST * min([1.0, *shares])) / FINEST


def _machines() -> set[str]:
    """The machines of the cluster that are there."""
    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}


_PointActor: Any = ray.remote(max_restarts=_RESTARTS, max_task_retries=_RETRIES)(PointShard)
_CentroidActor: Any = ray.remote(max_restarts=_RESTARTS, max_task_retries=_RETRIES)(CentroidShard)


class RayWorkers(Workers):
    """Point shards and centroid shards on the Ray cluster that the process is connected to.

    Args:
        readers: What each point shard reads its points with; each takes a CPU, or less where
            there are more of them than CPUs.
        n_slices: Centroid shards; they compute little and take no CPU of their own.
        assigner: How the point shards look for nearest centroids.
        alone: Centroids of a level below that one actor takes, and then clusters by itself.
        gpus: GPUs of a point shard, or a share of one; None: those that there are, shared out equally.
        reduce: How point shards add up their sums: "store" by way of the object store, "collective"
            among themselves (`curation.collective`), "auto" so where each has a GPU.
        wanted: Tells how many point shards could work now; more of them take over between iterations.

    Attributes:
        group: How often the point shards have met to do so.
    """

    def __init__(
        self,
        readers: Sequence[Reader],
        n_slices: int = 1,
        assigner: Assigner | None = None,
        alone: int = _ALONE,
        gpus: float | None = None,
        reduce: Reduce = "auto",
        wanted: Callable[[], int] | None = None,
    ) -> None:
        self.assigner = assigner or Assigner()
        self.gpus = gpus
        self.reduce = reduce
        self.wanted = wanted
        self._looked, self._could = time.monotonic(), 0
        self._places: list[Handle] = []
        self._machines = _machines()
        self._backend: Backend | None = None
        self._next: Ticket | None = None
        self.group = 0
        self.n_slices = n_slices
        self.alone = alone
        self._above = False
        self.centroid_shards: list[ActorHandle] = [
            _CentroidActor.options(num_cpus=0).remote() for _ in range(n_slices)
        ]
        self.point_shards = self._start(readers)

    def _start(self, readers: Sequence[Reader]) -> list[ActorHandle]:
        # a restarted actor reads its reader from the store again, so the references are kept
        self._readers = [ray.put(reader) for reader in readers]
        # more shards than CPUs share them: an actor that waits for a CPU would wait for ever; where there is
        # none yet, an autoscaler brings one
        there = ray.cluster_resources()
        equal = equal_share(there.get("GPU", 0.0), len(readers))
        gpus = equal if self.gpus is None else self.gpus
        cpus = equal_share(there["CPU"], len(readers)) if there.get("CPU") else 1.0
        if gpus:
            cpus = min(cpus, _cpus_beside(gpus))
        assigner = replace(self.assigner, device="auto") if gpus else self.assigner
        if len(readers) > 1 and (self.reduce == "collective" or (self.reduce == "auto" and gpus >= 1)):
            self._backend = "nccl" if gpus >= 1 else "gloo"
        shards = [
            _PointActor.options(num_cpus=cpus, num_gpus=gpus, scheduling_strategy="SPREAD").remote(
                [reader], assigner
            )
            for reader in self._readers
        ]
        self._places = [shard.place.remote() for shard in shards]
        return shards

    def points(
        self, method: str, *args: Any, own: Sequence[Handle] | None = None, returns: int = 1
    ) -> list[Any]:
        """See `Workers.points`."""
        # an argument that is the same for all is put into the store once, not once a shard
        shared = [ray.put(a) if isinstance(a, np.ndarray) and a.nbytes > 100_000 else a for a in args]
        mine: Sequence[Any] = [()] * len(self.point_shards) if own is None else [(handle,) for handle in own]
        summed = self._backend is not None and method in _SUMMED
        told = (self._ticket(), method) if summed else (method,)
        calls = [shard.call_together if summed else shard.call for shard in self.point_shards]
        return [
            call.options(num_returns=returns).remote(*told, *first, *shared)
            for call, first in zip(calls, mine, strict=True)
        ]

    def _ticket(self) -> Ticket:
        """Of the next reduction, for which all shards join a group if they are in none."""
        if self._next is None:
            self.group += 1
            size = len(self.point_shards)
            address = self.get([self.point_shards[0].listen.remote()])[0]
            self.get(
                [
                    shard.join.remote(self.group, rank, size, self._backend, address)
                    for rank, shard in enumerate(self.point_shards)
                ]
            )
            self._next = Ticket(self.group, 0)
        ticket = self._next
        self._next = Ticket(ticket.group, ticket.call + 1)
        return ticket

    def recover(self) -> None:
        """See `Workers.recover`; the shards meet anew."""
        self._next = None
        deadline = time.monotonic() + _PATIENT
        while True:
            self._places = [shard.place.remote() for shard in self.point_shards]
            try:
                self.get(self._places)
                break
            except WorkerRestartedError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(_GLANCE)  # a machine that cannot be reached is given up by Ray, or comes back
        super().recover()

    def outgrown(self) -> str:
        """See `Workers.outgrown`: where more shards could work for some time now."""
        now = time.monotonic()
        if self.wanted is None or now < self._looked + _GLANCE:
            return ""
        self._looked, before = now, self._could
        self._could = self.wanted()
        if min(before, self._could) <= len(self.point_shards):
            return ""
        return f"{self._could} point shards can work now in place of {len(self.point_shards)}"

    def nobody(self) -> list[None]:
        """See `Workers.nobody`."""
        return [None] * len(self.point_shards)

    def slice(self, index: int, function: str, *args: Any, returns: int = 1) -> Any:
        """See `Workers.slice`."""
        return self.centroid_shards[index].call.options(num_returns=returns).remote(function, *args)

    def get(self, handles: Sequence[Handle]) -> list[Any]:
        """See `Workers.get`."""
        wanted = list(handles)
        while True:
            try:
                found: list[Any] = ray.get(wanted, timeout=_GLANCE)
                return found
            except ray.exceptions.GetTimeoutError:
                self._check_machines()  # Ray itself waits for ever for an actor that fits no machine
            except ray.exceptions.ActorUnavailableError as error:
                raise WorkerRestartedError(str(error)) from error
            except ray.exceptions.RayTaskError as error:
                # what Ray makes again of what a lost machine held may ask for files that are gone by now
                lost = isinstance(error.cause, ray.exceptions.ActorDiedError | DamagedError)
                if isinstance(error.cause, ray.exceptions.ObjectLostError) or (lost and self._fewer()):
                    raise RegroupError(_GONE) from error
                for known in (WorkerRestartedError, CurationError):
                    if isinstance(error.cause, known):
                        raise known(str(error.cause)) from error
                raise
            except ray.exceptions.ObjectLostError as error:
                raise RegroupError(_GONE) from error
            except ray.exceptions.ActorDiedError as error:
                if self._fewer():  # one may have held what the actor was to begin with
                    raise RegroupError(_GONE) from error
                raise

    def given_up(self, why: str) -> Exception:
        """See `Workers.given_up`: where a machine was lost, others go on from the checkpoint."""
        return RegroupError(_GONE) if self._fewer() else super().given_up(why)

    def _fewer(self) -> bool:
        """Whether a machine is gone that was there when the shards began."""
        return bool(self._machines - _machines())

    def _check_machines(self) -> None:
        """Sees whether the machines of the point shards are there.

        Raises:
            RegroupError: One is not, or one was lost and there are shards that have found no place yet.
        """
        if not self._places:
            return
        known, waiting = ray.wait(self._places, num_returns=len(self._places), timeout=0)
        there = _machines()
        if set(ray.get(known)) - there or (waiting and self._machines - there):
            raise RegroupError(_GONE)
        if waiting:
            self.tick("shards ready", len(known), len(self._places))

    def conduct(self, conductor: Callable[..., Any], *args: Any) -> tuple[Grown, list[NDArray[np.int64]]]:
        """See `Workers.conduct`."""
        if not (self._above and len(self.point_shards) == 1):
            return super().conduct(conductor, *args)

        def once() -> tuple[Grown, list[NDArray[np.int64]]]:
            call = self.point_shards[0].conduct.options(num_returns=2)
            centroids, told = call.remote(conductor, *args)
            grown, labels = self.get([told])[0]
            grown.slices = [centroids]
            return grown, labels

        grown, labels = self.attempt(once, lambda: None)
        for _ in range(grown.fits):
            self.tick(FIT_DONE, 1, 1)
        return grown, labels

    def above(self, slices: list[Handle], level: int, count: int) -> RayWorkers:
        """See `Workers.above`."""
        sizes = self.sizes(slices)
        shards = min(len(self.point_shards), -(-count // self.alone))
        self._discard()
        upper = RayWorkers([], 0, self.assigner, self.alone, self.gpus, self.reduce)
        upper._above = True
        upper._machines = self._machines
        upper.centroid_shards, self.centroid_shards = self.centroid_shards, []
        upper.n_slices = self.n_slices
        upper.monitor = self.monitor
        edges = slice_edges(count, shards)
        upper.point_shards = upper._start(
            [CentroidRows(slices, sizes, level, low, high) for low, high in itertools.pairwise(edges)]
        )
        return upper

    def close(self) -> None:
        """See `Workers.close`."""
        self._discard()
        self._stop(self.centroid_shards)

    def _discard(self) -> None:
        """Stops the point shards, and has them clear away their files, unless they are at work still."""
        self._places = []  # nothing that they hold is asked for any more
        done = [shard.discard.remote() for shard in self.point_shards]
        if done:
            ray.wait(done, num_returns=len(done), timeout=_PATIENCE)
        self._stop(self.point_shards)

    @staticmethod
    def _stop(actors: list[ActorHandle]) -> None:
        for actor in actors:
            ray.kill(actor)
        actors.clear()
