"""Whose is the run directory? One pool's, and one process's at a time."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import yaml

from modalities.sources import lists
from pipelines.config import Config, entries
from pipelines.errors import RequestError
from pipelines.secrets import hidden
from pipelines.store import FULL_DISK, Store, absolute, disk_full, open_own

CONFIG = "config.yaml"
LOCK = ".lock"
IN_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Set in the driver of a submitted job, whose working directory is a temporary copy."""
OWNER = ("modality", "source.path", "source.format", "source.column", "source.id_column")
"""The keys that say which pool a run directory belongs to."""


def settled(path: str) -> str:
    """A path of the pool so that it means the same in every working directory."""
    prefix = lists.PREFIX if path.startswith(lists.PREFIX) else ""
    return prefix + absolute(path.removeprefix(prefix))


def settled_paths(config: Config) -> Config:
    """``config`` with a ``source.path`` that means the same in every working directory.

    A submitted job keeps it as it is written: its pool is shipped with it, to another temporary folder
    each time.
    """
    path = config.source.path
    if path is None or IN_JOB in os.environ:
        return config
    whole = settled(path) if isinstance(path, str) else [settled(one) for one in path]
    return config.model_copy(update={"source": config.source.model_copy(update={"path": whole})})


def check_owner(config: Config, store: Store) -> None:
    """Refuse a directory that is not a run of this pool.

    Args:
        config: What was asked for, with settled paths.
        store: The run directory, which need not be there.

    Raises:
        RequestError: It holds a run of another pool, or something else altogether, or is no folder.
    """
    if not store.exists(CONFIG):
        names = [n["name"].rsplit("/", 1)[-1] for n in _entries(store)]
        if any(not name.startswith(".") for name in names):
            raise RequestError(_no_run(store, f"it is not empty and has no {CONFIG}"))
        return
    try:
        old = yaml.safe_load(store.read_bytes(CONFIG))
    except yaml.YAMLError as error:
        raise RequestError(_no_run(store, f"its {CONFIG} is not YAML")) from error
    if not (isinstance(old, dict) and "modality" in old and isinstance(old.get("source"), dict)):
        raise RequestError(_no_run(store, f"its {CONFIG} was not written by a run"))
    for key, value, _ in entries(hidden(config)):
        section, _, name = key.rpartition(".")
        if key in OWNER and (before := hidden((old[section] if section else old).get(name))) != value:
            raise RequestError(
                f"the run directory {store.url} belongs to another pool: its {key} is {before!r}, and now"
                f" it is {value!r}: choose another output, or delete that directory"
            )


def _no_run(store: Store, why: str) -> str:
    return f"output {store.url} is no run directory ({why}): choose another output, or empty it"


def _entries(store: Store) -> list[dict[str, Any]]:
    try:
        if store.filesystem.isfile(store.path("")):
            raise RequestError(f"output {store.url} is a file: name a folder")
        return list(store.filesystem.ls(store.path(""), detail=True))
    except FileNotFoundError:
        return []
    except NotADirectoryError as error:
        raise RequestError(f"output {store.url} lies below a file: name a folder") from error


@contextmanager
def alone(store: Store) -> Iterator[None]:
    """Hold the run directory, where it is on a local disk; the lock ends with the process.

    Raises:
        RequestError: Another process holds it, or it cannot be made.
        RunError: The disk is full.
    """
    if store.local is None:
        yield
        return
    try:
        store.local.mkdir(parents=True, exist_ok=True)
        lock = open_own(store.local / LOCK)
    except OSError as error:
        if error.errno in FULL_DISK:
            raise disk_full(store.local / LOCK) from error
        raise RequestError(
            f"output {store.url} cannot be written to ({error.strerror}): choose another output"
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RequestError(
                f"another evenset is at work in {store.url}: wait for it, or stop it"
            ) from error
        yield
