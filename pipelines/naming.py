"""Under which file name is a sample exported? One that its id suggests, inside the folder, and its own."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import PurePosixPath

PLAIN = re.compile(r"[\w#=@+,~() -][\w#=@+,~() .-]*")
LONGEST = 180
"""Bytes of a component; filesystems stop at 255."""


def file_name(id: str, suffix: str, suffixes: Sequence[str]) -> str:
    """A relative POSIX path for the sample ``id`` that ends in ``suffix``.

    An id that is a tidy relative path is its own name. Any other (``..``, a leading slash, control
    characters, a component too long) is tidied, and gets the hash of the id so that it stays its own.

    Args:
        id: The id of the sample.
        suffix: The suffix of its kind of file, with the dot.
        suffixes: All suffixes of exported files. No folder ends in one, so no folder meets a file.
    """
    endings = {suffix.lower(), *suffixes}
    components = id.split("/")
    tidy = [_tidy(component) for component in components]
    folders = [_no_file(folder, endings) for folder in tidy[:-1]]
    name = tidy[-1]
    if [*folders, name] != components or not all(components):
        stem = name.removesuffix(suffix)
        name = f"{stem}~{hashlib.blake2b(id.encode(), digest_size=8).hexdigest()}"
    if PurePosixPath(name).suffix.lower() != suffix.lower():
        name += suffix
    return "/".join([*(folder for folder in folders if folder), name])


def _tidy(component: str) -> str:
    if not PLAIN.fullmatch(component) or component.strip(". ") != component or _too_long(component):
        component = re.sub(r"[^\w#=@+,~() .-]", "_", component).strip(". ")
        while _too_long(component):
            component = component[:-1]
    return component


def _too_long(component: str) -> bool:
    return len(component.encode()) > LONGEST


def _no_file(folder: str, endings: set[str]) -> str:
    return folder.replace(".", "_") if PurePosixPath(folder).suffix.lower() in endings else folder
