"""The files below a folder, on a disk or in a store, in the order of their names and a folder at a time."""

from __future__ import annotations

import os
import posixpath
import stat
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

from modalities.mapper import threads
from modalities.packed import Packed, ordered
from modalities.sources.globs import Glob


class Entry(NamedTuple):
    """What lies in a folder.

    Attributes:
        name: its last component.
        folder: it is one itself.
        size: bytes of a file, or None where the filesystem does not say.
    """

    name: str
    folder: bool
    size: int | None


def is_local(fs: Any) -> bool:
    """Tell whether a filesystem is this machine's own."""
    protocol = fs.protocol if isinstance(fs.protocol, tuple) else (fs.protocol,)
    return "file" in protocol


def order(name: str) -> bytes:
    """The bytes by which names are sorted, the same on every machine."""
    return name.encode("utf-8", "surrogateescape")


def looked_at(path: str) -> tuple[bool, int | None]:
    """Whether a path of this machine may be a sample, and its bytes where there is a regular file."""
    try:
        about = os.stat(path)  # noqa: PTH116 - a million times, and it may hold any bytes
    except (OSError, ValueError):
        return True, None  # a link that leads nowhere or to itself, say: reading it will say so
    regular = stat.S_ISREG(about.st_mode)
    return regular, about.st_size if regular else None


def walk(fs: Any, root: str, glob: Glob | None = None) -> Iterator[tuple[str, int | None]]:
    """Yield the names of files relative to a root, sorted by `order`, and their bytes.

    What begins with a dot is skipped, and links to folders are not followed. Of a store, the folders in one
    are listed `modalities.mapper.AT_ONCE` at a time; what is held at once is the entries of the folders on
    the way to a file, and of those that were listed ahead. A tree of n files in m folders costs n calls of
    ``stat`` on a disk, and m requests or more to a store.

    Args:
        fs: of fsspec.
        root: a folder there.
        glob: which files are meant; None means all.

    Raises:
        OSError: a folder cannot be listed.
    """
    look: Callable[[str], Iterable[Entry]] = partial(_on_disk if is_local(fs) else _in_store, fs, root)

    def opened(folder: str, entries: Iterable[Entry]) -> _Level:
        if is_local(fs):
            return folder, iter(entries), look
        names = (posixpath.join(folder, entry.name) for entry in entries if entry.folder)
        listed = threads(look, (name for name in names if glob is None or glob.leads(name)))
        return folder, iter(entries), lambda _: next(listed)

    way = [opened("", look(""))]
    while way:
        folder, entries, fetch = way[-1]
        entry = next(entries, None)
        if entry is None:
            way.pop()
            continue
        name = posixpath.join(folder, entry.name)
        if entry.folder:
            if glob is None or glob.leads(name):
                way.append(opened(name, fetch(name)))
        elif glob is None or glob.matches(name):
            yield name, entry.size


_Level = tuple[str, Iterator[Entry], Callable[[str], Iterable[Entry]]]
"""A folder, what lies in it, and what looks into its folders: each once, and in their order."""


def _sorted(entries: Iterable[Entry]) -> Iterator[Entry]:
    """As if the names of folders ended in a slash: then what is in them stands where their paths do."""
    return ordered(entries, key=lambda entry: order(entry.name + "/" * entry.folder))


def _on_disk(fs: Any, root: str, folder: str) -> Iterator[Entry]:
    # fsspec's own walk follows links to folders, also in circles, and looks at every file twice
    return _sorted(_scanned(posixpath.join(root, folder)))


def _scanned(path: str) -> Iterator[Entry]:
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                yield Entry(entry.name, True, None)
                continue
            regular, size = looked_at(entry.path)
            if regular:
                yield Entry(entry.name, False, size)


def _in_store(fs: Any, root: str, folder: str) -> Packed[Entry]:
    path = posixpath.join(root, folder) if folder else root
    found = fs.ls(path, detail=True)
    fs.invalidate_cache(path)  # which keeps a kilobyte an object, for nobody
    return Packed(_sorted(_children(found, path)))


def _children(found: Iterable[dict[str, Any]], path: str) -> Iterator[Entry]:
    for info in found:
        name, folder = info["name"], info["type"] == "directory"
        marks = name.endswith("/") and not folder  # an object that stands for a folder, as consoles make them
        name = name.rstrip("/")
        last = posixpath.basename(name)
        if last and not marks and name != path.rstrip("/") and not last.startswith("."):
            yield Entry(last, folder, None if folder else info.get("size"))
