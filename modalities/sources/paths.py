"""Which files does ``source.path`` name? A file, folder, glob or list, or several, on any filesystem."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from glob import has_magic
from heapq import merge
from itertools import groupby, pairwise
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import fsspec

from modalities.base import ModalityError
from modalities.packed import Packed, ordered
from modalities.sources import lists
from modalities.sources.globs import Glob
from modalities.sources.patience import T, in_time
from modalities.sources.secrets import redacted
from modalities.sources.walk import is_local, looked_at, order, walk

READ_ERRORS = (OSError, EOFError)
"""What opening or reading a file raises when the file is at fault."""

CODECS = (".gz", ".zst")
"""Suffixes that say how a file is compressed, and not what it holds."""

ANY_NAME = "name them by a glob that ends in their suffix (folder/*.xyz), or in a list (list:FILE)"
"""How files become samples whose suffix says nothing."""

MOST_BRACES = 100_000
"""Paths that braces may stand for."""


class File(NamedTuple):
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
        stem, last = posixpath.splitext(self.name)
        last = last.lower()
        return posixpath.splitext(stem)[1].lower() + last if last in CODECS else last


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

    def holds(self, name: str) -> bool:
        """Tell whether a relative name, or an absolute one on the same filesystem, is that of a file."""
        fs, path = self.join(name)
        return bool(fs.isfile(path))

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
    """All files below a root, sorted by name, of which a few at a time are held as objects.

    Attributes:
        root: what the names are relative to.
        files: sorted by the bytes of their names, so the order is the same on every machine.
        single: ``source.path`` named exactly one file.
        paths: what was listed, in full, to list it again elsewhere.
    """

    root: Root
    files: Sequence[File]
    single: bool
    paths: tuple[str, ...]

    def having(self, suffixes: Sequence[str]) -> Sequence[File]:
        """Return the files with one of these suffixes, and those that were named by the user.

        Where there are none, it is what `bare` returns.
        """
        return Packed(file for file in self.files if file.named or file.suffix in suffixes) or self.bare()

    def bare(self) -> Sequence[File]:
        """Return the files without a suffix, as if they were named, where they are most of all files."""
        found = Packed(file._replace(named=True) for file in self.files if not file.suffix)
        return found if 2 * len(found) > len(self.files) else []


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


def printable(name: str) -> str:
    """Write file-name bytes that are not UTF-8 as escapes, so that Arrow can hold the name."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def list_files(path: str | Sequence[str], timeout: float | None = None) -> Listing:
    """List the files that ``source.path`` names.

    Hidden files and folders (``.git``, ``.DS_Store``) are skipped, and links to folders are not followed,
    unless they are named themselves. Only regular files count: opening a pipe would wait for ever. A link
    that leads nowhere, or to itself, is listed, to be rejected by its name.

    Args:
        path: what the config says.
        timeout: of the root, for reading.

    Raises:
        ModalityError: a path is not there, a list is none, or the paths lie on different filesystems.
    """
    given = [path] if isinstance(path, str) else list(path)
    if not given or not all(isinstance(p, str) and p for p in given):
        raise ModalityError(
            "source.path is empty: name a file, a folder, a glob, list:FILE, or several of these."
        )
    paths = [one for p in given for one in expand_braces(p)]
    found = [_named(one) for one in paths]
    first = found[0]
    for one, other in zip(paths, found, strict=True):
        if type(other.fs) is not type(first.fs):
            raise ModalityError(f"source.path {one!r} lies on another filesystem than {paths[0]!r}.")
    common, files = first.root, first.files
    if len(found) > 1:
        common = posixpath.commonpath([one.root for one in found])
        files = Packed(_together(found, common))
    url = common if is_local(first.fs) else first.fs.unstrip_protocol(common)
    single = len(found) == 1 and first.single
    return Listing(Root(url, timeout), files, single, tuple(one.url for one in found))


@dataclass(frozen=True)
class _Named:
    """What one path names.

    Attributes:
        fs: the filesystem of its files.
        root: what their names are relative to.
        files: of the pool, sorted.
        single: it names exactly one file.
        url: the path in full.
    """

    fs: Any
    root: str
    files: Sequence[File]
    single: bool
    url: str


def _named(path: str) -> _Named:
    if path.startswith(lists.PREFIX):
        return _by_list(path)
    fs, full = filesystem(path)
    root, files, single = _expand(fs, full, path)
    return _Named(fs, root, files, single, _in_full(fs, full))


def _in_full(fs: Any, full: str) -> str:
    return full if is_local(fs) else str(fs.unstrip_protocol(full))


def _together(found: Sequence[_Named], common: str) -> Iterator[File]:
    """The files of several paths, each once, by names that are relative to what the paths have in common."""

    def under(one: _Named) -> Iterator[File]:
        for file in one.files:
            yield file._replace(name=_below(common, posixpath.join(one.root, file.name)))

    every = merge(*map(under, found), key=lambda file: order(file.name))
    for name, same in groupby(every, key=lambda file: file.name):
        files = list(same)
        yield File(name, files[-1].size, any(file.named for file in files))


def _below(root: str, full: str) -> str:
    """The name of a file relative to a folder that it is in; to no folder, it is the path in full."""
    return full.removeprefix(posixpath.join(root, "")) if root else full


def _by_list(path: str) -> _Named:
    """What a list names. Its files are not looked for, but where that is quick: on a disk of this machine."""
    fs, full = filesystem(path.removeprefix(lists.PREFIX))
    home, names = _located(path, fs, full)
    folder = posixpath.dirname(full)
    root = folder if home is fs and _holds(folder, names) else _common(names)

    def files() -> Iterator[File]:
        for name in names:
            size = looked_at(name)[1] if is_local(home) else None
            yield File(_below(root, name), size, named=True)

    found = Packed(files())
    if is_local(home) and all(file.size is None for file in found):
        raise ModalityError(
            f"source.path {path!r} names {len(found):,} files, and none of them is there, the first of them"
            f" {printable(names[0])}: relative paths begin in the folder of the list."
        )
    return _Named(home, root, found, False, lists.PREFIX + _in_full(fs, full))


def _holds(folder: str, names: Sequence[str]) -> bool:
    inside = posixpath.join(folder, "")
    return all(name.startswith(inside) for name in names)


def _common(names: Sequence[str]) -> str:
    """The folder that all paths have in common: of sorted ones, what the first and the last have."""
    first, last = posixpath.dirname(names[0]), posixpath.dirname(names[-1])
    return posixpath.commonpath([first, last])


def _located(path: str, fs: Any, full: str) -> tuple[Any, Sequence[str]]:
    """The filesystem of the files that a list names, and their paths there, sorted."""
    homes: list[Any] = []

    def located(stream: Any) -> Iterator[tuple[str, int, str]]:
        for line, entry in lists.entries(stream, path):
            if "://" in entry:
                where, name = filesystem(entry)
            else:
                where, name = fs, posixpath.normpath(posixpath.join(posixpath.dirname(full), entry))
                name = name if fs.root_marker else name.lstrip("/")
            name = posixpath.normpath(name) if is_local(where) else name
            if not homes:
                homes.append(where)
            if type(where) is not type(homes[0]) or (is_local(where) and not is_local(fs)):
                raise ModalityError(
                    f"source.path {path!r} names {entry!r} in line {line}: the files of a list lie on one"
                    " filesystem, and on this machine only where the list does."
                )
            yield name, line, entry

    try:
        with fs.open(full, "rb") as stream:
            found = Packed(ordered(located(stream), key=lambda one: order(one[0])))
    except FileNotFoundError as error:
        raise _not_there(path) from error
    except READ_ERRORS as error:
        raise ModalityError(f"source.path {path!r} cannot be read: {error}.") from error
    for (one, first, _), (other, second, entry) in pairwise(found):
        if one == other:
            raise ModalityError(
                f"source.path {path!r} names {entry!r} twice, in lines {first} and {second}: ids must be"
                " unique, so take one of them out."
            )
    return homes[0], Packed(name for name, _, _ in found)


def _not_there(path: str) -> ModalityError:
    return ModalityError(
        f"source.path {path!r} is not there: check the spelling, or where it is relative to."
    )


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
    if path.startswith(lists.PREFIX):
        return [lists.PREFIX + one for one in expand_braces(path.removeprefix(lists.PREFIX))]
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


def _expand(fs: Any, full: str, path: str) -> tuple[str, Sequence[File], bool]:
    """Return the root, its files with names relative to it, and whether the path names one file."""
    try:
        if fs.isdir(full):
            return full, Packed(File(*found) for found in walk(fs, full)), False
        if fs.isfile(full):
            size = fs.info(full).get("size")
            return posixpath.dirname(full), [File(posixpath.basename(full), size, named=True)], True
        if has_magic(full):
            root, files = _matching(fs, full)
            if files:
                return root, files, False
            raise ModalityError(f"source.path {path!r} matches no file.")
    except OSError as error:
        raise ModalityError(f"source.path {path!r} cannot be read: {error}.") from error
    raise _not_there(path)


def _matching(fs: Any, pattern: str) -> tuple[str, Sequence[File]]:
    """The folder of a glob, and the files in it that are meant."""
    glob = Glob(pattern)
    if glob.root and not fs.isdir(glob.root):
        return glob.root, []
    suffix = PurePosixPath(pattern).suffix
    named = bool(suffix) and not has_magic(suffix)
    return glob.root, Packed(File(*found, named) for found in walk(fs, glob.root, glob))
