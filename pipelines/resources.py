"""What the Ray cluster has to give: now, and when its autoscaler has brought all that it may."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import ray
from ray._private.state import state
from ray.autoscaler.sdk import request_resources


@dataclass(frozen=True)
class Resources:
    """CPUs and GPUs that work may take.

    Attributes:
        cpus: CPUs that are there.
        gpus: GPUs that are there.
        most_cpus: CPUs when all machines have come that the autoscaler may start.
        most_gpus: GPUs likewise.
    """

    cpus: float
    gpus: float
    most_cpus: float
    most_gpus: float


def resources() -> Resources:
    """Of the cluster that this process is connected to."""
    there = ray.cluster_resources()
    # what no public call of Ray tells: the limits of the node types
    most = state.get_max_resources_from_cluster_config() or {}
    cpus, gpus = float(there.get("CPU", 0)), float(there.get("GPU", 0))
    return Resources(cpus, gpus, max(cpus, float(most.get("CPU", 0))), max(gpus, float(most.get("GPU", 0))))


@contextmanager
def asked(bundle: dict[str, float], count: int) -> Iterator[None]:
    """Asks the autoscaler for machines on which so many bundles fit, and lets them go in the end.

    Without an autoscaler nothing comes of it.
    """
    request_resources(bundles=[bundle] * count)
    try:
        yield
    finally:
        request_resources(bundles=[])
