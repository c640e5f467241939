"""A pool of files that hold one sample each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from modalities.base import ModalityError, Part, Record, Rejected, Source
from modalities.mapper import Mapper, threads
from modalities.packed import Packed
from modalities.sources import faults
from modalities.sources.compression import Damaged, Forward
from modalities.sources.paths import ANY_NAME, CODECS, READ_ERRORS, File, Listing, Root, list_files, printable
from modalities.sources.patience import SlowError
from modalities.sources.walk import is_local

PART_ROWS = 1024
"""Samples of a part at most; with PART_BYTES it bounds what one task holds in memory."""

PART_BYTES = 64 * 2**20
"""Bytes of a part at most, where sizes are known; a larger sample is a part of its own."""

UNKNOWN_BYTES = 2**20
"""Of a file for which its filesystem, or a list, gives no size; of one that is compressed, at least."""

PARTS_A_BLOCK = 16
"""Parts that are packed together, of `PART_ROWS` names each."""

SLOW_FILES = 16
"""In a row: then it is not the files that are at fault."""

SAMPLE_BYTES = 512 * 2**20
"""A larger file is rejected unread."""

CHUNK = 2**20
"""Bytes that are inflated at once."""

KEY = "__key__"
"""As ``source.id_column``: the id is a file's key, its path up to the first dot of its name."""


class FilesSource(Source):
    """One sample a file; the id is the path relative to the root.

    Args:
        listing: the files to choose from.
        suffixes: which of them are samples.
        part_rows: samples of a part at most.
        id_column: `KEY`, or None for the whole path.
        inflate: files may be compressed with gzip or zstd; what is in them is the sample.
    """

    def __init__(
        self,
        listing: Listing,
        suffixes: Sequence[str],
        part_rows: int = PART_ROWS,
        id_column: str | None = None,
        *,
        inflate: bool = False,
    ) -> None:
        self._inflate = inflate
        self._by_key = id_column == KEY
        self._listing: Listing | None = listing
        self._root = listing.root
        self._paths = listing.paths
        self._suffixes = tuple(suffixes)
        self._part_rows = part_rows

    def __getstate__(self) -> dict[str, Any]:
        # A task needs its part, not the names of the whole pool.
        return self.__dict__ | {"_listing": None}

    def parts(self, mapper: Mapper = threads) -> Sequence[Part]:
        """Cut the sorted files into parts of at most `part_rows` files and `PART_BYTES` bytes."""
        listing = self._listing or list_files(self._paths)
        files = listing.having(self._suffixes)
        if not files:
            raise ModalityError(
                f"The pool is empty: source.path {self._root.url!r} holds no {', '.join(self._suffixes)} file"
                f" ({len(listing.files)} of other kinds). If those are samples, {ANY_NAME}."
            )
        runs = enumerate(_runs(files, self._part_rows, self._inflate))
        return Packed((Part(index, {"files": names}) for index, names in runs), PARTS_A_BLOCK)

    def read(self, part: Part) -> Iterator[Record]:
        """Read the files of a part; one that is gone or unreadable is a record with a reason."""
        slow = 0  # in a row
        for name in part.spec["files"]:
            uri = self._root.uri(name)
            if printable(name) != name:
                yield Record(self._id(name), uri, None, "The file name is not valid UTF-8.")
                continue
            try:
                payload, reason = read_file(self._root, name, self._inflate)
                slow = 0
            except SlowError as error:
                payload, reason = None, str(error)
                slow += 1
            if slow == SLOW_FILES:
                raise ModalityError(
                    f"{self._root.url} does not answer: {slow} files in a row could not be read within"
                    f" limits.timeout={self._root.timeout:g} seconds, the last of them {uri}: see that it is"
                    " up, and run the same command again to go on from here"
                )
            yield Record(self._id(name), uri, payload, reason)

    def unread(self, part: Part, reason: str) -> Iterator[Record]:
        """Name the files of a part."""
        for name in part.spec["files"]:
            yield Record(self._id(name), self._root.uri(name), None, reason)

    def _id(self, name: str) -> str:
        return self._root.label(key_of(name) if self._by_key else name)


def _runs(files: Iterable[File], most: int, inflate: bool) -> Iterator[list[str]]:
    """The names of so many consecutive files at most, and of `PART_BYTES`; a larger file stands alone."""
    names: list[str] = []
    room = PART_BYTES
    for file in files:
        size = UNKNOWN_BYTES if file.size is None else file.size
        if inflate and file.suffix.endswith(CODECS):
            size = max(size, UNKNOWN_BYTES)
        if names and (len(names) == most or size > room):
            yield names
            names, room = [], PART_BYTES
        names.append(file.name)
        room -= size
    if names:
        yield names


def key_of(name: str) -> str:
    """Return a path up to the first dot of its last component, as WebDataset names samples."""
    folder, base = name[: name.rfind("/") + 1], name[name.rfind("/") + 1 :]
    return folder + (base.partition(".")[0] or base)


def read_file(root: Root, name: str, inflate: bool = False) -> tuple[bytes | None, str | None]:
    """Read one whole file; return its bytes, or None and the reason.

    Args:
        root: what its name is relative to.
        name: of the file.
        inflate: it may be compressed; then its bytes are those that it inflates to, `PART_BYTES` at most.

    Raises:
        SlowError: it takes longer than the root allows.
    """
    try:
        payload = root.in_time(lambda: _content(root, name, inflate))
        if payload is not None:
            if len(payload) > SAMPLE_BYTES:
                return None, f"The file has more than {SAMPLE_BYTES:,} bytes."
            return payload, None
    except (Rejected, Damaged) as reason:
        return None, str(reason)
    except READ_ERRORS as error:
        return None, faults.told(error)
    return None, faults.told(FileNotFoundError())


def _content(root: Root, name: str, inflate: bool) -> bytes | None:
    fs, path = root.join(name)
    if is_local(fs) and not fs.isfile(path):
        return None
    with fs.open(path, "rb") as stream:
        if inflate and (forward := Forward(stream)).codec is not None:
            return _inflated(forward)
        payload: bytes = stream.read(SAMPLE_BYTES + 1)
    return payload


def _inflated(stream: Forward) -> bytes:
    """What a compressed file holds; unlike plain files, all those of a part may be as large as is allowed.

    Raises:
        Rejected: it is more than `PART_BYTES`.
        Damaged: it is damaged or cut off.
    """
    data = bytearray()
    while chunk := stream.read(CHUNK):
        data += chunk
        if len(data) > PART_BYTES:
            raise Rejected(f"The compressed file inflates to more than {PART_BYTES:,} bytes.")
    return bytes(data)
