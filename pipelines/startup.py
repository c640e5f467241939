"""Ray is started or joined, and every machine is checked to run the same code on the same files."""

from __future__ import annotations

import functools
import hashlib
import importlib
import logging
import os
import socket
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, NamedTuple

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from modalities import plugins
from modalities.plugins import ENCODER_GROUP, MODALITY_GROUP
from pipelines import access, blas
from pipelines.config import Config
from pipelines.errors import RequestError, RunError
from pipelines.manifest import versions
from pipelines.memory import memory_here
from pipelines.store import Store

PACKAGES = ("modalities", "curation", "pipelines")
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
"""Workers are as many as the CPUs; two BLAS threads that fight for one are slower than one alone."""

SECONDS_TO_ANSWER = 300.0
"""For a machine to start a process, import the packages and say who it is."""


def start(
    config: Config, store: Store, *, debug: bool = False, say: Callable[[str], Any] = lambda _: None
) -> None:
    """Join the Ray cluster that the config or the environment names, or start one on this machine.

    Args:
        config: What was asked for.
        store: The run directory.
        debug: Let Ray say what it has to say.
        say: Told what somebody should know about the cluster, a sentence each.

    Raises:
        RequestError: There is no cluster at that address, or a machine of it cannot work on this run.
    """
    if not ray.is_initialized():
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        quiet = {} if debug else {"log_to_driver": False, "logging_level": logging.CRITICAL}
        address = config.ray.address or os.environ.get("RAY_ADDRESS")
        with nullcontext() if debug else _native_log_off():
            if address and address != "local":
                _join(address, quiet)
            else:
                _start_here(config, quiet)
        if address and address != "local" and (addresses := access.open_at()):
            say(access.warning(addresses))
    if not debug:
        _hush_ray_data()
    for warning in _check_machines(store):
        say(warning)


def _join(address: str, quiet: dict[str, Any]) -> None:
    try:
        host, _, port = address.removeprefix("ray://").rpartition(":")
        if host and port.isdecimal():  # Ray itself knocks for minutes at a door where nobody lives
            socket.create_connection((host, int(port)), timeout=10).close()
        ray.init(address=address, runtime_env={"env_vars": ONE_THREAD}, **quiet)
    except (OSError, RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise RequestError(
            f"there is no Ray cluster to join at {address} ({reason}): start one with `ray start --head`, or"
            " unset ray.address and RAY_ADDRESS to run on this machine alone"
        ) from error


def _start_here(config: Config, quiet: dict[str, Any]) -> None:
    os.environ.update({k: v for k, v in ONE_THREAD.items() if k not in os.environ})  # workers inherit it
    store_bytes = config.ray.object_store_memory
    if store_bytes == "auto":
        store_bytes = min(memory_here() // 10, 4 * 10**9)
    ray.init(address="local", include_dashboard=False, object_store_memory=store_bytes, **quiet)


@contextmanager
def _native_log_off() -> Iterator[None]:
    """Let Ray's C++ core start with its log off; it even announces that, past Python's standard error."""
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    kept = os.dup(2)
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(silence)


def _hush_ray_data() -> None:
    """Keep Ray Data's own messages to its log files: what matters comes back as our own sentences."""
    import ray.data  # noqa: F401 (its import sets up the handlers)

    for name in ("ray", "ray.data"):
        for handler in logging.getLogger(name).handlers:
            if not isinstance(handler, logging.FileHandler):
                handler.setLevel(logging.CRITICAL)


def identity(packages: Iterable[str] | None = None) -> dict[str, str]:
    """What must be the same on every machine: versions, plugins, and the source code of our packages.

    Args:
        packages: Those of which the config names a class; by default the ones that it named in this process.
    """
    packages = plugins.named() if packages is None else packages
    code = {f"{_NAMED}{package}": plugins.code_of(package) for package in packages}
    there = {what: digest for what, digest in code.items() if digest is not None}
    return {**versions(), **installed(), **there, "code": _code_digest()}


_NAMED = "package "
"""Begins the key of a package that the config names, in an identity."""


def installed() -> dict[str, str]:
    """Every installed plugin (``plugin <group>:<name>``): what it loads, and from which distribution."""
    found: dict[str, list[str]] = {}
    for group in (MODALITY_GROUP, ENCODER_GROUP):
        for point in entry_points(group=group):
            origin = f"{point.value} of {plugins.origin(point)}"
            found.setdefault(f"plugin {group}:{point.name}", []).append(origin)
    return {name: " and ".join(sorted(origins)) for name, origins in sorted(found.items())}


def _packages(here: dict[str, str]) -> tuple[str, ...]:
    return tuple(sorted(what.removeprefix(_NAMED) for what in here if what.startswith(_NAMED)))


def difference(machine: str, there: dict[str, str], here: dict[str, str]) -> str | None:
    """In what the identity of ``machine`` is not that of this one, and what to do; else None."""
    for what in sorted(here.keys() | there.keys()):
        if there.get(what) != here.get(what):
            theirs, ours = there.get(what, "nothing of the kind"), here.get(what, "nothing of the kind")
            return (
                f"the machine {machine} has {what} {theirs} but this one has {ours}: install the same"
                " environment on every machine (one image, or a runtime_env of the job), or submit with"
                " `ray job submit --working-dir .`"
            )
    return None


def _code_digest() -> str:
    """Hash of every module of our packages.

    Raises:
        RunError: Another distribution's package of the same name was imported.
    """
    root = Path(__file__).resolve().parent.parent
    code = hashlib.blake2b(digest_size=16)
    for name in PACKAGES:
        found = Path(str(importlib.import_module(name).__file__)).resolve().parent
        if found != root / name:
            raise RunError(
                f"the package {name} is imported from {found}, not from {root / name}: another distribution"
                " or folder of that name comes first on the import path; remove it or run elsewhere"
            )
        for module in sorted(found.rglob("*.py")):
            code.update(module.relative_to(root).as_posix().encode() + b"\0" + module.read_bytes())
    return code.hexdigest()


def meet(here: dict[str, str]) -> None:
    """Refuse to work on a machine that came after the check at the start, if it is not like the driver's.

    Args:
        here: The identity of the driver.

    Raises:
        RequestError: Something differs.
    """
    if differs := difference(socket.gethostname(), _own(_packages(here)), here):
        raise RequestError(differs)


@functools.cache
def _own(packages: tuple[str, ...]) -> dict[str, str]:
    return identity(packages)


class _Seen(NamedTuple):
    """What a machine says of itself."""

    identity: dict[str, str]
    sees_the_run: bool
    warning: str | None


def _look(store: Store, probe: str, packages: tuple[str, ...]) -> _Seen:
    return _Seen(identity(packages), store.exists(probe), blas.warning(blas.kernels(), blas.flags()))


def blame(store: Store, error: Exception) -> None:
    """Where work failed, find the machine that joined since the start and is not like this one.

    Raises:
        RequestError: There is one. Its work may not even have begun: what is sent to it may be of a plugin
            that it does not have.
    """
    try:
        _check_machines(store)
    except RequestError as differs:
        raise differs from error
    except Exception:  # nobody is to blame, or nobody answers: what failed is told as it is
        return


def _check_machines(store: Store) -> list[str]:
    """Ask every machine of the cluster who it is, and whether it sees the run directory."""
    here = identity()
    nodes = [node for node in ray.nodes() if node["Alive"]]
    probe = f".probe-{uuid.uuid4().hex}"
    store.write_bytes(probe, b"")
    try:
        look = ray.remote(num_cpus=0, max_retries=1)(_look)
        asked = [
            look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(n["NodeID"], soft=True)).remote(
                store, probe, _packages(here)
            )
            for n in nodes
        ]
        answers = ray.get(asked, timeout=SECONDS_TO_ANSWER)
    finally:
        store.delete(probe)
    warnings = []
    for node, seen in zip(nodes, answers, strict=True):
        name = node["NodeManagerHostname"]
        if differs := difference(name, seen.identity, here):
            raise RequestError(differs)
        if not seen.sees_the_run:
            raise RequestError(
                f"the machine {name} does not see the run directory {store.url}: put `output` on a disk that"
                " all machines share, or in a bucket"
            )
        if seen.warning:
            warnings.append(f"on the machine {name} {seen.warning}, or before its `ray start` in a cluster")
    return warnings
