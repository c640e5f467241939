"""Under which file name is a sample exported? One that its id suggests, inside the folder, and its own."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import PurePosixPath

PLAIN = re.compile(r"[\w#=@+,~() -][\w#=@+,~() .-]*")
HASHED = re.compile(r"~[0-9a-f]{16}")
"""How the stem of a name ends that is not the id itself."""
LONGEST = 180
"""Bytes of a component; filesystems stop at 255."""
SAME = {".jpeg": ".jpg", ".jpe": ".jpg", ".jfif": ".jpg", ".tif": ".tiff"}
"""Suffixes that are another's second name."""


def file_name(id: str, suffix: str, suffixes: Sequence[str]) -> str:
    """A relative POSIX path for the sample ``id`` that ends in ``suffix``.

    An id that is a tidy relative path with that suffix, or a second name of it (``.jpeg``), is its own
    name. Any other (no such suffix, ``..``, a leading slash, control characters, a component too long) is
    tidied and gets the hash of the id, so that no two ids share a name.

    Args:
        id: The id of the sample.
        suffix: The suffix of its kind of file, with the dot.
        suffixes: All suffixes of exported files. No folder ends in one, so no folder meets a file.
    """
    endings = {suffix.lower(), *suffixes, *SAME}
    components = id.split("/")
    tidy = [_tidy(component) for component in components]
    folders = [_no_file(folder, endings) for folder in tidy[:-1]]
    name = tidy[-1]
    ending = PurePosixPath(name).suffix
    fits = _kind(ending) == _kind(suffix)
    stem = name.removesuffix(ending) if fits else name
    # an id that looks like a hashed name is hashed too, or it could be another's
    own = [*folders, name] == components and all(components) and not HASHED.fullmatch(stem[-17:])
    if not (fits and own):
        name = f"{stem}~{hashlib.blake2b(id.encode(), digest_size=8).hexdigest()}{suffix}"
    return "/".join([*(folder for folder in folders if folder), name])


def _tidy(component: str) -> str:
    if not PLAIN.fullmatch(component) or component.strip(". ") != component or _too_long(component):
        component = re.sub(r"[^\w#=@+,~() .-]", "_", component).strip(". ")
        while _too_long(component):
            component = component[:-1]
    return component


def _kind(suffix: str) -> str:
    return SAME.get(suffix.lower(), suffix.lower())


def _too_long(component: str) -> bool:
    return len(component.encode()) > LONGEST


def _no_file(folder: str, endings: set[str]) -> str:
    return folder.replace(".", "_") if PurePosixPath(folder).suffix.lower() in endings else folder
