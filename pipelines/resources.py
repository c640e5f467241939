"""What the Ray cluster has to give: now, and when its autoscaler has brought all that it may.

What it may is in the file that the head was started with (`ray start --head --autoscaling-config`), which
Ray hands on to nobody but its autoscaler. Some platforms tell it to Ray. Where neither is to be had, as on
Kubernetes, ``ray.cpus`` and ``ray.gpus`` of the config say it.
"""

from __future__ import annotations

import functools
import threading
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import ray
import yaml
from ray._private.state import state
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipelines.config import Ray as Limits

ANY = Limits()
"""No limits but the cluster's own."""

KEPT, RENEWED = 120.0, 30.0
"""Seconds for which a request to the autoscaler holds, and after which it is made again: that of a process
that was killed ends soon."""

_HEAD = "node:__internal_head__"
_UNLIMITED = 10_000  # machines of a type without a limit


class Kind(NamedTuple):
    """Machines that are alike.

    Attributes:
        cpus: CPUs of one.
        gpus: GPUs of one.
        there: How many there are.
        most: How many there may be, those included.
    """

    cpus: float
    gpus: float
    there: int
    most: int


@dataclass(frozen=True)
class Resources:
    """CPUs and GPUs that work may take.

    Attributes:
        cpus: CPUs that are there.
        gpus: GPUs that are there.
        most_cpus: CPUs when all machines have come that the autoscaler may start.
        most_gpus: GPUs likewise.
        kinds: The machines that these are of.
        limits: Those of the last two, as ``cpu`` and ``gpu``, beyond which nothing can or shall come. Where
            neither an autoscaler nor the config sets one, machines may join that nobody knows of.
    """

    cpus: float
    gpus: float
    most_cpus: float
    most_gpus: float
    kinds: tuple[Kind, ...] = ()
    limits: Mapping[str, float] = field(default_factory=dict)


def resources(limits: Limits = ANY) -> Resources:
    """Of the cluster that this process is connected to.

    Args:
        limits: ``ray.cpus`` and ``ray.gpus`` are what a run uses at most, and what may come.
    """
    there = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return reckoned(kinds_of(there, _types()), limits, elastic=bool(_types()))


def kinds_of(machines: Iterable[Mapping[str, float]], types: Sequence[Kind]) -> tuple[Kind, ...]:
    """The machines that are there and those that may come, kind by kind.

    Args:
        machines: Resources of each that is there.
        types: What an autoscaler may start.
    """
    there = Counter((m.get("CPU", 0.0), m.get("GPU", 0.0)) for m in machines)
    most: Counter[tuple[float, float]] = Counter()
    for kind in types:
        most[kind.cpus, kind.gpus] += kind.most
    shapes = sorted(there.keys() | most.keys())
    return tuple(Kind(*shape, there[shape], max(there[shape], most[shape])) for shape in shapes if any(shape))


def reckoned(kinds: tuple[Kind, ...], limits: Limits, *, elastic: bool) -> Resources:
    """The resources of ``kinds`` under ``limits``; ``elastic`` where an autoscaler's limits are known."""
    cpus, gpus = sum(k.there * k.cpus for k in kinds), sum(k.there * k.gpus for k in kinds)
    most_cpus, most_gpus = sum(k.most * k.cpus for k in kinds), sum(k.most * k.gpus for k in kinds)
    if limits.cpus != "auto":
        cpus, most_cpus = min(cpus, limits.cpus), limits.cpus
    if limits.gpus != "auto":
        gpus, most_gpus = min(gpus, limits.gpus), limits.gpus
    most = {"cpu": most_cpus, "gpu": most_gpus}
    known = {name: most[name] for name in most if elastic or getattr(limits, f"{name}s") != "auto"}
    return Resources(float(cpus), float(gpus), float(most_cpus), float(most_gpus), kinds, known)


@contextmanager
def asked(there: Resources, bundle: dict[str, float], count: int) -> Iterator[None]:
    """Asks the autoscaler for machines on which so many bundles fit, and lets them go in the end.

    It brings all or none of them. Where no limits are known, there is none to ask.
    """
    if not there.limits:
        yield
        return
    over = threading.Event()
    asking = threading.Thread(target=_ask, args=([bundle] * count, over), name="asking", daemon=True)
    asking.start()
    try:
        yield
    finally:
        over.set()
        asking.join()


def _ask(bundles: list[dict[str, float]], over: threading.Event) -> None:
    # There is one request of the whole cluster. Ray Data has an actor that adds up those of all of its runs
    # and sends the sum every few seconds; what is asked past it is soon overwritten.
    from ray.data._internal.cluster_autoscaler import get_or_create_autoscaling_coordinator

    me = f"evenset-{uuid.uuid4().hex}"
    with suppress(ray.exceptions.RayError):  # the request ends by itself
        coordinator = get_or_create_autoscaling_coordinator()
        while True:
            coordinator.request_resources.remote(requester_id=me, resources=bundles, expire_after_s=KEPT)
            if over.wait(RENEWED):
                break
        ray.get(coordinator.cancel_request.remote(me), timeout=RENEWED)


def _types() -> tuple[Kind, ...]:
    """What the autoscaler may start; empty where there is none, or none that is known."""
    return _types_at(ray.get_runtime_context().gcs_address)


def forget() -> None:
    """Look for what the autoscaler may start again: it is looked for once a cluster."""
    _types_at.cache_clear()


@functools.lru_cache(maxsize=1)
def _types_at(address: str) -> tuple[Kind, ...]:
    told = state.get_cluster_config()
    if told and told.node_group_configs:
        return tuple(
            Kind(
                group.resources.get("CPU", 0.0),
                group.resources.get("GPU", 0.0),
                0,
                _UNLIMITED if group.max_count < 0 else group.max_count,
            )
            for group in told.node_group_configs
        )
    heads = [node["NodeID"] for node in ray.nodes() if node["Alive"] and _HEAD in node["Resources"]]
    if not heads or heads[0] == ray.get_runtime_context().get_node_id():
        return types_on_head(address)
    there = NodeAffinitySchedulingStrategy(heads[0], soft=False)
    look = ray.remote(num_cpus=0, scheduling_strategy=there)(types_on_head)
    found: tuple[Kind, ...] = ray.get(look.remote(address))
    return found


def types_on_head(address: str) -> tuple[Kind, ...]:
    """What the autoscaler of the cluster at ``address`` may start, as its file says, on the head."""
    port = address.rpartition(":")[2]
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has ended, or is somebody else's
            words = [word.decode(errors="replace") for word in process.read_bytes().split(b"\0")]
            options = dict(word.split("=", 1) for word in words if word.startswith("--") and "=" in word)
            file = options.get("--autoscaling-config")
            if file and options.get("--gcs-address", "").rpartition(":")[2] == port:
                return types_in(yaml.safe_load(Path(file).expanduser().read_text()))
    return ()


def types_in(settings: Mapping[str, Any]) -> tuple[Kind, ...]:
    """The worker types of a cluster's file, in the form in which Ray passes it to the head."""
    overall = int(settings.get("max_workers", 0))
    found = []
    for name, kind in settings["available_node_types"].items():
        if name != settings["head_node_type"]:
            has, most = kind.get("resources", {}), int(kind.get("max_workers", overall))
            found.append(
                Kind(float(has.get("CPU", 0)), float(has.get("GPU", 0)), 0, min(most, overall or most))
            )
    return tuple(found)
