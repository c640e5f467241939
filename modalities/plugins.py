"""Who brings what a name in the config means: this package, an installed distribution, or the config itself.

A name stands for a class that is imported when it is asked for, and not before: what is broken costs only
those who ask for it.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.metadata import EntryPoint, PackageNotFoundError, entry_points, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from modalities.base import ModalityError

MODALITY_GROUP = "evenset.modalities"
ENCODER_GROUP = "evenset.encoders"

_NAME = r"[^\W\d]\w*"
_CLASS = re.compile(rf"(?P<module>{_NAME}(?:\.{_NAME})*):(?P<name>{_NAME})(?::(?P<argument>.*))?", re.DOTALL)

_named: set[str] = set()
"""Modules that a config named, in this process; packages by their first name."""


@dataclass(frozen=True)
class Plugin:
    """What a name in the config may mean; nothing of it is imported yet.

    Attributes:
        key: the key of the config, ``modality`` or ``encoder.model``.
        name: as in the config.
        target: ``package.module:Class``.
        origin: the distribution that brings it, with its version.
    """

    key: str
    name: str
    target: str
    origin: str

    def load(self) -> Any:
        """Import the class.

        Raises:
            ModalityError: its import raises anything at all, or there is no such class.
        """
        module, _, attribute = self.target.partition("[")[0].strip().partition(":")
        try:
            return functools.reduce(getattr, attribute.split("."), importlib.import_module(module))
        except ModalityError:  # it says itself what it lacks
            raise
        except (Exception, SystemExit) as error:  # a module of somebody else's may raise anything
            raise self.broken(f"{self.target} cannot be loaded ({type(error).__name__}: {error})") from error

    def broken(self, why: str) -> ModalityError:
        """Return the error that says so, in one line."""
        return ModalityError(
            f"{self.key} {self.name!r} (of {self.origin}) is broken: {' '.join(why.split())}."
            " Repair it, or choose another."
        )


def offered(key: str, group: str, built_in: Mapping[str, str]) -> dict[str, list[Plugin]]:
    """Return by its name everything that may be asked for; of one name there should be one.

    Args:
        key: the key of the config.
        group: the group of the entry points of installed distributions.
        built_in: targets of what this package brings, by name.
    """
    ours = _ours()
    found = {name: [Plugin(key, name, target, ours)] for name, target in built_in.items()}
    for point in entry_points(group=group):
        found.setdefault(point.name, []).append(Plugin(key, point.name, point.value, origin(point)))
    return found


def origin(point: EntryPoint) -> str:
    """Return the name and the version of the distribution that an entry point is of."""
    return f"{point.dist.name} {point.dist.version}" if point.dist else "an unknown distribution"


def _ours() -> str:
    try:
        return f"evenset {version('evenset')}"
    except PackageNotFoundError:  # a job brings the packages, and installs nothing
        return "evenset"


def meant(key: str, spec: str, group: str, built_in: Mapping[str, str]) -> tuple[Plugin, str]:
    """Return what ``NAME``, or ``package.module:Class``, means, and what follows behind a colon.

    A name comes first. A module is installed or lies in the working directory.

    Raises:
        ModalityError: there is none of this name, or several.
    """
    offers = offered(key, group, built_in)
    name, _, argument = spec.partition(":")
    if len(offers.get(name, ())) > 1:
        raise ModalityError(clash(offers[name]))
    if name in offers:
        return offers[name][0], argument
    form = _CLASS.fullmatch(spec)
    package = name.partition(".")[0]
    if form and code_is_here(package):
        _named.add(package)
        target = f"{form['module']}:{form['name']}"
        return Plugin(key, target, target, f"{package}, which the config names"), form["argument"] or ""
    near = get_close_matches(name, offers, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    if form:
        hint += f" There is no module {package!r} either, neither installed nor in the working directory."
    raise ModalityError(f"{key} {name!r} is unknown; there are {', '.join(sorted(offers))}.{hint}")


def clash(offers: Sequence[Plugin]) -> str:
    """Say that several distributions bring one name."""
    key, name = offers[0].key, offers[0].name
    whose = " and ".join(sorted(f"{offer.origin} ({offer.target})" for offer in offers))
    return f"{key} {name!r} is brought by {whose}: uninstall one, or write package.module:Class for the name."


def code_is_here(package: str) -> bool:
    """Whether a package can be imported here, from where it is installed or from the working directory."""
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)  # last: nothing that is installed is hidden by a file that lies there
    return _spec(package) is not None


def named() -> list[str]:
    """Return the packages (and modules outside of any) of which the config names a class."""
    return sorted(_named)


def code_of(package: str) -> str | None:
    """Return a hash of all modules of a package, as it would be imported here; None where it is not here."""
    spec = _spec(package)
    if spec is None:
        return None
    code = hashlib.blake2b(digest_size=16)
    folders = sorted(map(Path, spec.submodule_search_locations or ()))
    files = [(folder, file) for folder in folders for file in sorted(folder.rglob("*.py"))]
    if not folders and spec.origin:
        files = [(Path(spec.origin).parent, Path(spec.origin))]
    for folder, file in files:
        code.update(file.relative_to(folder).as_posix().encode() + b"\0" + file.read_bytes())
    return code.hexdigest()


def _spec(package: str) -> Any:
    try:
        return find_spec(package)
    except (ImportError, ValueError):  # a module that pretends to be one, as __main__ may
        return None
