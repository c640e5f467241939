"""What a tar holds: its members, one after the other, read forwards and never unpacked.

`tarfile` would end silently at a damaged header, believes sizes below zero, and reads extended headers of any
size into memory; so only the fields of a header are left to it. The format is POSIX.1-2001 (pax) with the
extensions of GNU tar.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass

from modalities.sources.compression import Damaged, Forward

HEADER_BYTES = 2**20
"""Of an extended header at most: it holds a name, and little else."""

LINKS = (tarfile.LNKTYPE, tarfile.SYMTYPE)
DEVICES = (tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE)
PAX = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)

CUT = "The tar is cut off here: it has no end mark."
DAMAGED = "The tar is damaged from here on."


@dataclass(frozen=True)
class Member:
    """A file in a tar.

    Attributes:
        name: as it is written there, which may be anything; surrogates stand for bytes that are not UTF-8.
        begin: where its headers begin.
        offset: where its content begins.
        size: bytes of its content.
        end: where the next member begins.
        wrong: why it is no file to be read, or None.
    """

    name: str
    begin: int
    offset: int
    size: int
    end: int
    wrong: str | None


def members(stream: Forward, stop: int | None = None) -> Iterator[Member]:
    """Yield the members of a tar, folders left out, each when the whole of it is there.

    Args:
        stream: at the beginning of a member.
        stop: where the last one ends; None goes on to the end mark.

    Raises:
        Damaged: the tar is cut off or damaged here.
    """
    begin, pax = stream.position, _Pax()
    while begin != stop or stream.position != begin:
        block = _block(stream)
        if not any(block):
            if stream.position != begin + tarfile.BLOCKSIZE:
                raise Damaged(DAMAGED)  # an extended header that nothing follows
            return
        try:
            info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except (tarfile.TarError, ValueError) as error:
            raise Damaged(DAMAGED) from error
        if info.type in (*PAX, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK):
            _extend(pax, info, _extended(stream, info.size))
            continue
        sparse = info.type == tarfile.GNUTYPE_SPARSE
        more = sparse and block[482]
        while more:  # the map of the holes goes on in blocks of its own
            more = _block(stream)[504]
        named, size = pax.name or info.name, info.size if pax.size is None else pax.size
        if info.isdir() or info.type in (*LINKS, *DEVICES):
            size = 0
        offset = stream.position
        if size < 0:
            raise Damaged(DAMAGED)
        _pass(stream, _padded(size), named)
        if not info.isdir():
            wrong = _wrong(info, sparse or pax.sparse)
            yield Member(named, begin, offset, size, stream.position, wrong)
        begin, pax = stream.position, _Pax()


@dataclass
class _Pax:
    """What extended headers say of the member that follows."""

    name: str | None = None
    size: int | None = None
    sparse: bool = False


def _extend(pax: _Pax, info: tarfile.TarInfo, data: bytes) -> None:
    if info.type == tarfile.GNUTYPE_LONGNAME:
        pax.name = data.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")
    if info.type not in PAX:
        return
    for key, value in _pax_records(data):
        text = value.decode("utf-8", "surrogateescape")
        if key == b"path":
            pax.name = text
        elif key == b"size":
            if not (text.isascii() and text.isdigit() and len(text) < 20):
                raise Damaged(DAMAGED)
            pax.size = int(text)
        elif key.startswith(b"GNU.sparse."):
            pax.sparse = True


def _pax_records(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the keys and values of ``length key=value`` records, each a line."""
    at = 0
    while at < len(data) and data[at]:
        blank = data.find(b" ", at, at + 20)
        digits = data[at : max(blank, at)]
        stop = at + int(digits) if digits.isdigit() else 0
        if not at <= blank < stop <= len(data):  # or it would be read again, for ever
            raise Damaged(DAMAGED)
        key, _, value = data[blank + 1 : stop - 1].partition(b"=")
        yield key, value
        at = stop


def _extended(stream: Forward, size: int) -> bytes:
    if not 0 <= size <= HEADER_BYTES:
        raise Damaged(DAMAGED)
    data = stream.read(_padded(size))
    if len(data) < _padded(size):
        raise Damaged(CUT)
    return data[:size]


def _wrong(info: tarfile.TarInfo, sparse: bool) -> str | None:
    if info.type in LINKS:
        return "The member of the tar is a link."
    if info.type in DEVICES:
        return "The member of the tar is a device or a pipe."
    return "The member of the tar is a sparse file." if sparse else None


def _block(stream: Forward) -> bytes:
    block = stream.read(tarfile.BLOCKSIZE)
    if len(block) < tarfile.BLOCKSIZE:
        stream.read(1)  # says so itself where it is the compressed data that are damaged
        raise Damaged(CUT)
    return block


def _pass(stream: Forward, size: int, name: str) -> None:
    try:
        whole = stream.skip(size)
    except Damaged as damage:
        raise Damaged(str(damage), name) from damage
    if not whole:
        raise Damaged(CUT, name)


def _padded(size: int) -> int:
    return -(-size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


def samples(found: Iterator[Member]) -> Iterator[tuple[str, list[tuple[str, Member]]]]:
    """Yield the key of each sample of a tar, and its members by suffix: those in a row with one key.

    Raises:
        Damaged: the tar is cut off or damaged here. The sample before is yielded, if it may be whole.
    """
    key, group = "", list[tuple[str, Member]]()
    try:
        for member in found:
            split = split_name(member.name)
            if split is None:
                continue
            if group and split[0] != key:
                yield key, group
                group = []
            key = split[0]
            group.append((split[1], member))
    except Damaged as damage:
        cut = split_name(damage.name or "")
        if group and (cut is None or cut[0] != key):
            yield key, group
        raise
    if group:
        yield key, group


def split_name(name: str) -> tuple[str, str] | None:
    """Divide a member's name at the first dot of its last component, as WebDataset does.

    Returns:
        The key (with the folder) and the suffix in lower case, without the dot; None for what is no member
        of a sample: a hidden file, one without a suffix, a ``__meta__`` file.
    """
    name = name.removeprefix("./")
    folder, base = name[: name.rfind("/") + 1], name[name.rfind("/") + 1 :]
    stem, _, suffix = base.partition(".")
    if not stem or not suffix or (name.startswith("__") and name.endswith("__")):
        return None
    return folder + stem, suffix.lower()
