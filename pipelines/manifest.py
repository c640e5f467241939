"""What makes a stage complete: ``_manifest.json`` in its folder, written last.

A stage is *current* when its manifest names the same config keys and the same inputs as the ones it
would get now. Before a stage writes its first part it leaves ``_begun.json`` with those two, so that a
rerun after a kill trusts the parts that it finds, or knows to throw them away.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from importlib import metadata
from typing import Any, TypeVar

from pipelines.errors import RunError
from pipelines.secrets import hidden
from pipelines.store import Store

T = TypeVar("T")
MANIFEST = "_manifest.json"
BEGUN = "_begun.json"
MISSING = "(nothing)"
PACKAGES = ("evenset", "ray", "numpy", "pyarrow", "torch")


@dataclass(frozen=True)
class Basis:
    """What the result of a stage depends on.

    Attributes:
        config: Dotted config keys and their values.
        inputs: What the stage reads, each with a fingerprint of its content.
    """

    config: dict[str, Any]
    inputs: dict[str, str]

    def changes(self, old: Basis) -> list[str]:
        """One phrase for each key or input in which this differs from ``old``."""
        now, before = _plain(self.config), _plain(old.config)
        keys = [
            f"{key} {_shown(before.get(key, MISSING))} -> {_shown(now.get(key, MISSING))}"
            for key in sorted(now.keys() | before.keys())
            if now.get(key, MISSING) != before.get(key, MISSING)
        ]
        names = sorted(self.inputs.keys() | old.inputs.keys())
        return keys + [f"the {n} changed" for n in names if self.inputs.get(n) != old.inputs.get(n)]


@dataclass(frozen=True)
class Manifest:
    """The record of a finished stage.

    Attributes:
        stage: Its name.
        basis: What its result depends on.
        counts: What it counted (rows in, out, rejected, ...), as JSON values.
        seconds: How long the run of it took that finished it.
        finished: When, in UTC (ISO 8601).
        versions: Of Python and the packages that matter.
    """

    stage: str
    basis: Basis
    counts: dict[str, Any]
    seconds: float
    finished: str
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """Equal for equal results: a function of the basis and of the digest of what is not exact."""
        return digest({**asdict(self.basis), "digest": self.counts.get("digest")})


def digest(value: Any) -> str:
    """128-bit hash of a JSON value."""
    text = json.dumps(_plain(value), sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results may depend on."""
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in PACKAGES}}


def read_manifest(store: Store, folder: str) -> Manifest | None:
    """The manifest of the stage that lives in ``folder``, or None while it is not complete."""
    return _read(store, f"{folder}/{MANIFEST}", _manifest_of)


def write_manifest(store: Store, folder: str, manifest: Manifest) -> None:
    """Declare the stage in ``folder`` complete."""
    _write(store, f"{folder}/{MANIFEST}", asdict(manifest))


def delete_manifest(store: Store, folder: str) -> None:
    """Declare the stage in ``folder`` incomplete."""
    store.delete(f"{folder}/{MANIFEST}")


def read_begun(store: Store, folder: str) -> Basis | None:
    """What the parts in ``folder`` were made from, or None if no stage has begun there."""
    return _read(store, f"{folder}/{BEGUN}", _basis_of)


def write_begun(store: Store, folder: str, basis: Basis) -> None:
    """Say what the parts that will come to ``folder`` are made from."""
    _write(store, f"{folder}/{BEGUN}", asdict(basis))


def delete_begun(store: Store, folder: str) -> None:
    """Say that the parts in ``folder`` are made from nothing that is known."""
    store.delete(f"{folder}/{BEGUN}")


def _read(store: Store, rel: str, parse: Callable[[Any], T]) -> T | None:
    if not store.exists(rel):
        return None
    try:
        return parse(json.loads(store.read_bytes(rel)))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise RunError(
            f"{store.url}/{rel} is damaged, or was not written by a run ({error}): delete it to have the"
            " stage done anew"
        ) from error


def _manifest_of(found: Any) -> Manifest:
    manifest = Manifest(**{**found, "basis": _basis_of(found["basis"])})
    if not (isinstance(manifest.counts, dict) and isinstance(manifest.versions, dict)):
        raise ValueError("counts and versions are mappings")
    return replace(manifest, seconds=float(manifest.seconds), finished=str(manifest.finished))


def _basis_of(found: Any) -> Basis:
    basis = Basis(**found)
    if not (isinstance(basis.config, dict) and isinstance(basis.inputs, dict)):
        raise ValueError("config and inputs are mappings")
    return basis


def _write(store: Store, rel: str, value: Any) -> None:
    store.write_bytes(rel, json.dumps(hidden(value), indent=2, sort_keys=True).encode() + b"\n")


def _plain(value: Any) -> Any:
    """As it reads back from JSON (tuples are lists), so that stored and fresh values compare."""
    return json.loads(json.dumps(value))


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
