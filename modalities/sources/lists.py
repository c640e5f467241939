"""What does a list say? A text file that names a file of the pool a line, by path or URI (``list:FILE``).

Whoever writes ``list:FILE`` into a config trusts that file as the config: it may name any file that this user
may read. Only the web is out of its reach.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import IO, Literal

from modalities.base import ModalityError
from modalities.sources.compression import Damaged, Forward

PREFIX = "list:"
"""Begins a path that stands for the files which the file behind it names."""

COMMENT = "#"

LINE_BYTES = 2**16
"""A longer line names no file."""

CHUNK = 2**20
"""Bytes that are held at once."""

LOOKED_AT = 20
"""Lines, or values of a column, by which it is told whether they are addresses."""

WEB = ("http://", "https://")

FROM_THE_WEB = "download it with img2dataset first, and curate the tars, Parquet or files that it writes"

_URI = re.compile(r"[a-z][a-z0-9+.-]*://\S+", re.IGNORECASE)


def lines(stream: IO[bytes], name: str) -> Iterator[bytes]:
    """Yield the lines of a list, which may be compressed, as they are read.

    Args:
        stream: at its beginning.
        name: of the list, for messages.

    Raises:
        ModalityError: it is damaged, or no text.
    """
    try:
        forward, rest = Forward(stream), b""
        while chunk := forward.read(CHUNK):
            *whole, rest = (rest + chunk).split(b"\n")
            if b"\0" in chunk or len(rest) > LINE_BYTES:
                why = "holds NUL bytes" if b"\0" in chunk else f"has a line of more than {LINE_BYTES:,} bytes"
                raise ModalityError(f"source.path {name!r} is no list of files, which is text: it {why}.")
            yield from whole
        yield rest
    except Damaged as damage:
        raise ModalityError(f"source.path {name!r} cannot be read: {damage}") from damage


def entries(stream: IO[bytes], name: str) -> Iterator[tuple[int, str]]:
    """Yield what a list names, each with the number of its line, from 1.

    White space around an entry is none of it; blank lines and those that begin with ``#`` are no entries.
    Surrogates stand for bytes that are not UTF-8.

    Args:
        stream: of the list, at its beginning.
        name: of the list, for messages.

    Raises:
        ModalityError: it names nothing, something on the web, or a chain of filesystems, or is no list.
    """
    number = 0
    for number, entry in named_in(lines(stream, name)):
        if entry.lower().startswith(WEB):
            raise ModalityError(
                f"source.path {name!r} names the web in line {number}, {entry!r}: {FROM_THE_WEB}."
            )
        if "::" in entry and "://" in entry:
            raise ModalityError(
                f"source.path {name!r} chains filesystems in line {number}, {entry!r}, as only a config may."
            )
        yield number, entry
    if not number:
        raise ModalityError(f"source.path {name!r} names no file: a list has a path or a URI a line.")


def named_in(lines: Iterable[bytes]) -> Iterator[tuple[int, str]]:
    """Yield the entries among the lines of a list, each with its number."""
    for number, line in enumerate(lines, start=1):
        text = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
        entry = text.decode("utf-8", "surrogateescape").strip()
        if entry and not entry.startswith(COMMENT):
            yield number, entry


def addressed(values: Iterable[str], there: Callable[[str], bool]) -> Literal["web", "files"] | None:
    """Tell whether texts are addresses, all of them: of the web, or of files.

    Args:
        values: the first lines of a file, or values of a column.
        there: whether a relative path names a file.
    """
    found = [value.strip() for value in values]
    if found and all(value.lower().startswith(WEB) and _URI.fullmatch(value) for value in found):
        return "web"
    return "files" if found and all(_URI.fullmatch(value) or there(value) for value in found) else None
