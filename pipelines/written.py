"""Which parts has a stage written? Its manifest says so: a listing of an object store may lag behind."""

from __future__ import annotations

from collections.abc import Iterable

from pipelines.blocks import part_name
from pipelines.manifest import read_manifest
from pipelines.store import Store

Runs = list[list[int]]
"""Indices as [first, stop) pairs, in order."""

_BESIDE = {"rejected": "embeddings", "thinned": "curated"}
"""Folders whose parts stand in the manifest of another."""


def runs(indices: Iterable[int]) -> Runs:
    """Ascending indices as they are written down, under ``files`` of what a stage counts."""
    found: Runs = []
    for index in indices:
        if found and found[-1][1] == index:
            found[-1][1] += 1
        else:
            found.append([index, index + 1])
    return found


def parts(store: Store, folder: str) -> list[str]:
    """Paths of the parts in ``folder``; listed only where no manifest names them."""
    top = folder.split("/", 1)[0]
    manifest = read_manifest(store, _BESIDE.get(top, top))
    files = manifest.counts.get("files") if manifest else None
    if files is None:
        return store.list(folder)
    return [part_name(folder, i) for first, stop in files.get(folder, []) for i in range(first, stop)]
