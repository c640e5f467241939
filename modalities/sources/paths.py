"""Which files does ``source.path`` name? A file, a folder, a glob or a list of these, on any filesystem."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from glob import has_magic
from pathlib import PurePosixPath
from typing import Any

import fsspec

from modalities.base import ModalityError
from modalities.sources.patience import T, in_time
from modalities.sources.secrets import redacted

READ_ERRORS = (OSError, EOFError)
"""What opening or reading a file raises when the file is at fault."""

CODECS = (".gz", ".zst")
"""Suffixes that say how a file is compressed, and not what it holds."""

MOST_BRACES = 100_000
"""Paths that braces may stand for."""


@dataclass(frozen=True, slots=True)
class File:
    """A file of the pool.

    Attributes:
        name: POSIX path relative to the root; surrogates stand for bytes that are not UTF-8.
        size: bytes, or None where the filesystem does not say.
        named: the user named this very file, or its suffix in a glob, so its suffix proves nothing.
    """

    name: str
    size: int | None
    named: bool = False

    @property
    def suffix(self) -> str:
        """The last suffix in lower case, with its dot; with the one before where a codec is the last."""
        path = PurePosixPath(self.name)
        last = path.suffix.lower()
        return PurePosixPath(path.stem).suffix.lower() + last if last in CODECS else last


@dataclass(frozen=True)
class Root:
    """The folder that ids are relative to.

    Attributes:
        url: of the folder, in full.
        timeout: seconds that reading a sample, or the rows of a part, may take; None sets no bound.
    """

    url: str
    timeout: float | None = None

    def filesystem(self) -> tuple[Any, str]:
        """Return the fsspec filesystem and the folder's path on it."""
        return filesystem(self.url)

    def join(self, name: str) -> tuple[Any, str]:
        """Return the filesystem and the path of a file in the folder."""
        fs, root = self.filesystem()
        return fs, posixpath.join(root, name) if name else root

    def in_time(self, read: Callable[[], T]) -> T:
        """Return ``read()``.

        Raises:
            SlowError: it takes longer than `timeout`; nobody waits for it any more.
        """
        return read() if self.timeout is None else in_time(read, self.timeout)

    def uri(self, name: str) -> str:
        """Return where a file lies: a plain path on a local disk, a URL without its secrets elsewhere."""
        fs, path = self.join(name)
        return printable(path) if is_local(fs) else redacted(printable(fs.unstrip_protocol(path)))

    def label(self, name: str) -> str:
        """Return a file's name as ids have it: without what signs a URL, and fit for a table."""
        return redacted(printable(name)) if "://" in self.url else printable(name)


@dataclass(frozen=True)
class Listing:
    """All files below a root, sorted by name.

    Attributes:
        root: what the names are relative to.
        files: sorted by their bytes, so the order is the same on every machine.
        single: ``source.path`` named exactly one file.
        paths: what was listed, in full, to list it again elsewhere.
    """

    root: Root
    files: tuple[File, ...]
    single: bool
    paths: tuple[str, ...]

    def having(self, suffixes: Sequence[str]) -> list[File]:
        """Return the files with one of these suffixes, and those that were named by the user."""
        return [file for file in self.files if file.named or file.suffix in suffixes]


def filesystem(url: str) -> tuple[Any, str]:
    """Open the filesystem of a URL or a local path.

    Raises:
        ModalityError: there is no such kind of filesystem, or its package is not installed.
    """
    try:
        fs, path = fsspec.core.url_to_fs(os.path.expanduser(url))  # noqa: PTH111 - a URL is no Path
    except (ImportError, ValueError) as error:
        raise ModalityError(f"source.path {url!r} cannot be opened: {error}.") from error
    return fs, path


def is_local(fs: Any) -> bool:
    """Tell whether a filesystem is this machine's own."""
    protocol = fs.protocol if isinstance(fs.protocol, tuple) else (fs.protocol,)
    return "file" in protocol


def printable(name: str) -> str:
    """Write file-name bytes that are not UTF-8 as escapes, so that Arrow can hold the name."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def list_files(path: str | Sequence[str], timeout: float | None = None) -> Listing:
    """List the files that ``source.path`` names.

    Hidden files and folders (``.git``, ``.DS_Store``) are skipped, and links to folders are not followed,
    unless they are named themselves. Only regular files count: opening a pipe would wait for ever.

    Args:
        path: what the config says.
        timeout: of the root, for reading.

    Raises:
        ModalityError: a path is not there, or the paths lie on different filesystems.
    """
    given = [path] if isinstance(path, str) else list(path)
    if not given or not all(isinstance(p, str) and p for p in given):
        raise ModalityError("source.path is empty: name a file, a folder, a glob or a list of these.")
    paths = [one for p in given for one in expand_braces(p)]
    found: dict[str, File] = {}
    roots: list[str] = []
    urls: list[str] = []
    singles = 0
    first: Any = None
    for one in paths:
        fs, full = filesystem(one)
        first = first or fs
        if type(fs) is not type(first):
            raise ModalityError(f"source.path {one!r} lies on another filesystem than {paths[0]!r}.")
        root, files, single = _expand(fs, full, one)
        roots.append(root)
        urls.append(full if is_local(fs) else fs.unstrip_protocol(full))
        singles += single
        for file in files:
            full_name = posixpath.join(root, file.name)
            known = found.get(full_name)
            found[full_name] = File(full_name, file.size, file.named or (known is not None and known.named))
    common = roots[0] if len(roots) == 1 else posixpath.commonpath(roots)
    files = [
        File(posixpath.relpath(name, common) if common else name, f.size, f.named)
        for name, f in found.items()
    ]
    files.sort(key=lambda file: file.name.encode("utf-8", "surrogateescape"))
    url = common if is_local(first) else first.unstrip_protocol(common)
    return Listing(Root(url, timeout), tuple(files), singles == len(paths) == 1, tuple(urls))


_BRACES = re.compile(r"\{([^{}]*)\}")


def expand_braces(path: str) -> list[str]:
    """Return the paths that ``{000..009}`` and ``{a,b}`` in one stand for, as a shell has them.

    A range counts up or down, filled up with zeros to the longer of its ends. What is there under its very
    name is not expanded.

    Raises:
        ModalityError: they stand for more than `MOST_BRACES` paths.
    """
    if not any(_alternatives(inside) for inside in _BRACES.findall(path)):
        return [path]
    fs, full = filesystem(path)
    if is_local(fs) and fs.exists(full):
        return [path]
    made, done = [""], 0
    for found in _BRACES.finditer(path):
        if (choices := _alternatives(found[1])) is None:
            continue
        if len(made) * len(choices) > MOST_BRACES:
            raise ModalityError(f"source.path {path!r} stands for more than {MOST_BRACES:,} paths.")
        made = [before + path[done : found.start()] + choice for before in made for choice in choices]
        done = found.end()
    return [before + path[done:] for before in made]


def _alternatives(inside: str) -> Sequence[str] | None:
    if ends := re.fullmatch(r"(\d{1,9})\.\.(\d{1,9})", inside):
        first, last = int(ends[1]), int(ends[2])
        width = max(map(len, ends.groups())) if any(end[0] == "0" != end for end in ends.groups()) else 0
        step = 1 if first <= last else -1
        numbers = range(first, last + step, step)
        # no more are made than can be refused
        return [f"{number:0{width}}" for number in numbers[: MOST_BRACES + 1]]
    return inside.split(",") if "," in inside else None


def _expand(fs: Any, full: str, path: str) -> tuple[str, list[File], bool]:
    """Return the root, its files with names relative to it, and whether the path names one file."""
    try:
        if fs.isdir(full):
            return full, list(_walk(fs, full)), False
        if fs.isfile(full):
            size = fs.info(full).get("size")
            return posixpath.dirname(full), [File(posixpath.basename(full), size, named=True)], True
        if has_magic(full):
            root, files = _glob(fs, full)
            if files:
                return root, files, False
            raise ModalityError(f"source.path {path!r} matches no file.")
    except OSError as error:
        raise ModalityError(f"source.path {path!r} cannot be read: {error}.") from error
    raise ModalityError(f"source.path {path!r} is not there: check the spelling, or where it is relative to.")


def _glob(fs: Any, pattern: str) -> tuple[str, list[File]]:
    parts = pattern.split("/")
    depth = next(i for i, part in enumerate(parts) if has_magic(part))
    root = "/".join(parts[:depth]) or ("/" if pattern.startswith("/") else "")
    suffix = PurePosixPath(parts[-1]).suffix
    named = bool(suffix) and not has_magic(suffix)
    files = []
    for full, info in fs.glob(pattern, detail=True).items():
        name = posixpath.relpath(full, root) if root else full
        if info["type"] == "file" and not _hidden(name):
            files.append(File(name, info.get("size"), named))
    return root, files


def _walk(fs: Any, root: str) -> Iterator[File]:
    if is_local(fs):
        yield from _walk_disk(root, "")
        return
    for full, info in fs.find(root, detail=True).items():
        name = posixpath.relpath(full, root)
        if not _hidden(name):
            yield File(name, info.get("size"))


def _walk_disk(root: str, folder: str) -> Iterator[File]:
    # fsspec's own walk follows links to folders, also in circles, and looks at every file twice.
    with os.scandir(posixpath.join(root, folder)) as entries:
        for entry in entries:
            name = posixpath.join(folder, entry.name)
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from _walk_disk(root, name)
            elif entry.is_file():
                yield File(name, entry.stat().st_size)


def _hidden(name: str) -> bool:
    return any(part.startswith(".") for part in PurePosixPath(name).parts)
