"""Where do the numbers come from: what was rejected and why, how long every stage took, with which versions?

Comes in: `rejected/`, `thinned/` and the `_manifest.json` of every stage. Goes out: plain data for the page.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipelines import written
from pipelines.manifest import read_manifest
from pipelines.store import Store
from pipelines.thinning import FOLDER

STAGES = {"embed": "embeddings", "cluster": "tree", "sample": "curated", "export": "export"}

TIMES = ("estimated_s", "took_s")
"""What a stage was expected to take, and what it took."""

# Reasons may quote the sample (a size, a byte offset); a pool of nothing but such must not fill the memory.
_REASONS = 1000
OTHER = "other reasons"


@dataclass
class Reason:
    """One reason for rejecting samples: how many, and the first of them."""

    stage: str
    reason: str
    count: int = 0
    example: str = ""


@dataclass
class Provenance:
    """What the manifests say, stage by stage.

    Attributes:
        stages: for every finished stage, in their order: `stage`, `seconds`, `counts`, and `TIMES` where it
            was estimated before it began.
        versions: package to version, where the stages disagree all of them.
        notes: what the stages thought worth saying to a person.
    """

    stages: list[dict[str, Any]] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def read_rejects(store: Store) -> list[Reason]:
    """Reasons of all stages, the most frequent first."""
    return _read(store, {stage: f"rejected/{stage}" for stage in STAGES})


def read_thinned(store: Store) -> list[Reason]:
    """Why samples were left out before the draw, the most frequent reason first."""
    return _read(store, {"sample": FOLDER})


def _read(store: Store, folders: dict[str, str]) -> list[Reason]:
    found: dict[tuple[str, str], Reason] = {}
    for stage, folder in folders.items():
        for part in written.parts(store, folder):
            table = store.read_table(part, columns=["id", "reason"])
            reasons, first, counts = np.unique(
                np.array(table.column("reason").to_pylist(), dtype=str), return_index=True, return_counts=True
            )
            for text, row, count in zip(reasons.tolist(), first.tolist(), counts.tolist(), strict=True):
                reason = text if len(found) < _REASONS or (stage, text) in found else OTHER
                example = table.column("id")[row].as_py()
                found.setdefault((stage, reason), Reason(stage, reason, 0, example)).count += count
    return sorted(found.values(), key=lambda r: (-r.count, r.stage, r.reason))


def read_manifests(store: Store) -> Provenance:
    """Times, counts, versions and notes of the stages that are complete."""
    result = Provenance()
    versions: dict[str, list[str]] = {}
    for stage, folder in STAGES.items():
        manifest = read_manifest(store, folder)
        if manifest is None:
            continue
        numbers = {k: v for k, v in manifest.counts.items() if isinstance(v, int | float) and k != "digest"}
        times = {name: numbers.pop(name) for name in TIMES if name in numbers}
        result.notes += [str(note) for note in manifest.counts.get("notes", [])]
        result.stages.append({"stage": stage, "seconds": manifest.seconds, "counts": numbers} | times)
        for package, version in manifest.versions.items():
            known = versions.setdefault(package, [])
            if version not in known:
                known.append(version)
    result.versions = {package: ", ".join(known) for package, known in sorted(versions.items())}
    return result
