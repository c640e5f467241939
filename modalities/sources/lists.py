"""What does a list say? A text file that names a file of the pool a line, by path or URI (``list:FILE``).

Whoever writes ``list:FILE`` into a config trusts that file as the config: it may name any file that this user
may read. Only the web is out of its reach.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Iterator
from typing import IO, Literal

from modalities.base import ModalityError
from modalities.sources.compression import Damaged, Forward

PREFIX = "list:"
"""Begins a path that stands for the files which the file behind it names."""

COMMENT = "#"

LIST_BYTES = 2**30
"""A longer file is no list: it is held in memory."""

LOOKED_AT = 20
"""Lines, or values of a column, by which it is told whether they are addresses."""

WEB = ("http://", "https://")

FROM_THE_WEB = "download it with img2dataset first, and curate the tars, Parquet or files that it writes"

_URI = re.compile(r"[a-z][a-z0-9+.-]*://\S+", re.IGNORECASE)


def content(stream: IO[bytes], name: str) -> bytes:
    """Return the text of a list, which may be compressed.

    Args:
        stream: at its beginning.
        name: of the list, for messages.

    Raises:
        ModalityError: it is damaged, no text, or too long.
    """
    try:
        forward = Forward(stream)
        text = forward.read(LIST_BYTES + 1)
        forward.read(1)  # what is cut off says so behind what was left
    except Damaged as damage:
        raise ModalityError(f"source.path {name!r} cannot be read: {damage}") from damage
    if len(text) > LIST_BYTES or b"\0" in text:
        why = "holds NUL bytes" if len(text) <= LIST_BYTES else f"has more than {LIST_BYTES:,} bytes"
        raise ModalityError(f"source.path {name!r} is no list of files, which is text: it {why}.")
    return text


def entries(text: bytes, name: str) -> Iterator[tuple[int, str]]:
    """Yield what a list names, each with the number of its line, from 1.

    White space around an entry is none of it; blank lines and those that begin with ``#`` are no entries.
    Surrogates stand for bytes that are not UTF-8.

    Args:
        text: of the list.
        name: of the list, for messages.

    Raises:
        ModalityError: it names nothing, something on the web, or a chain of filesystems.
    """
    number = 0
    for number, entry in named_in(text):
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


def named_in(text: bytes) -> Iterator[tuple[int, str]]:
    """Yield the entries among the lines of a list, each with its number."""
    for number, line in enumerate(io.BytesIO(text.removeprefix(b"\xef\xbb\xbf")), start=1):
        entry = line.decode("utf-8", "surrogateescape").strip()
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
