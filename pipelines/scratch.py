"""Local disks of the machines: where shards keep the rows that they do not hold in memory, for a while."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipelines.errors import RunError
from pipelines.manifest import digest
from pipelines.store import Store

UNFINISHED = "unfinished"
"""Folder of what a run that is not done needs: deleted when it is."""


def scratch_of(store: Store) -> Path:
    """Folder for the rows of shards that do not hold theirs in memory: this run's, on each one's machine."""
    if store.local:
        return store.place(f"{UNFINISHED}/scratch/any").parent
    return Path(tempfile.gettempdir(), f"evenset-{os.getuid()}", digest(store.url))


@contextmanager
def cleared(store: Store) -> Iterator[None]:
    """Leaves no rows of shards on other machines' disks, where nobody would look for them."""
    try:
        yield
    finally:
        if not store.local:
            clear(scratch_of(store))


def clear(folder: Path, kept: Collection[Path] = ()) -> None:
    """`delete_here` on every machine."""
    delete = ray.remote(num_cpus=0)(delete_here)
    alive = [NodeAffinitySchedulingStrategy(n["NodeID"], soft=True) for n in ray.nodes() if n["Alive"]]
    with suppress(RayError):  # a machine that is gone has taken its disk along
        ray.get([delete.options(scheduling_strategy=node).remote(folder, kept) for node in alive])


def delete_here(folder: Path, kept: Collection[Path] = ()) -> None:
    """Deletes what lies in a folder of this machine and is not kept, and the folder if nothing is left."""
    for left in set(folder.iterdir() if folder.exists() else ()) - set(kept):
        if left.is_symlink():
            left.unlink()
        else:
            shutil.rmtree(left, ignore_errors=True)
    with suppress(OSError):
        folder.rmdir()


def own(folder: Path) -> None:
    """Make a folder below the one for temporary files, where anybody else could have made it before.

    Raises:
        RunError: Somebody else did.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise RunError(f"{folder} is not this user's own folder: remove it, or set TMPDIR to another place")
