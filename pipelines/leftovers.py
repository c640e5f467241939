"""Files that a writer was killed over: no reader takes them for a result, and here they are deleted."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import ray

from pipelines.scratch import delete_here, scratch_of
from pipelines.store import Store

_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{32}\.tmp|\.probe-[0-9a-f]{32}")
"""What `Store` calls a file that is not yet what it will be, and the file that every machine must see."""

_PATIENCE = 5.0  # seconds for processes on other machines to hear that the run is over
_GLANCE = 0.25


def sweep(store: Store) -> int:
    """Deletes temporary files below a run directory, and says how many there were.

    There are none on an object store, where a file appears with one request.
    """
    if store.local is None:
        return 0
    found = 0
    for folder, _, names in os.walk(store.local):
        for name in filter(_TEMPORARY.fullmatch, names):
            Path(folder, name).unlink(missing_ok=True)
            found += 1
    return found


def leave(store: Store) -> None:
    """Leaves Ray, which ends all that this run has begun there, and deletes what was being written.

    Args:
        store: The run directory; what the next run goes on from stays there.
    """
    ray.shutdown()
    until = time.monotonic() + _PATIENCE
    while time.monotonic() < until:
        time.sleep(_GLANCE)  # for the machines to hear of it
        if store.local is not None:
            delete_here(scratch_of(store))
        if not sweep(store):
            return
