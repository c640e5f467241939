"""Which format has a pool whose config says ``source.format: auto``?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from types import MappingProxyType

from modalities.base import ModalityError
from modalities.sources import faults, lines, lists, parquet, webdataset
from modalities.sources.compression import Damaged, Forward
from modalities.sources.paths import ANY_NAME, CODECS, READ_ERRORS, File, Listing

SUFFIXES: dict[str, tuple[str, ...]] = {
    "parquet": parquet.SUFFIXES,
    "jsonl": lines.JsonLinesSource.SUFFIXES,
    "webdataset": webdataset.SUFFIXES,
    "embeddings": (".npy",),
}

MAGIC = ((0, b"PAR1", "parquet"), (0, b"\x93NUMPY", "embeddings"), (257, b"ustar", "webdataset"))
"""Where in a file, inflated if it is compressed, which bytes say what it is."""

HEAD = 512

TEXTS = lines.TextLinesSource.SUFFIXES

LISTS = (".lst", ".list", *TEXTS)
"""Suffixes under which files name others."""

LIST_HEAD = 2**16

LOOKED_INTO = 16
"""Files whose suffix says nothing; the others count for nothing."""


def detect_format(
    listing: Listing, sample_suffixes: Sequence[str], own: Mapping[str, Sequence[str]] = MappingProxyType({})
) -> tuple[str, str]:
    """Name the format that holds most of the bytes of a listing, and say why, in one sentence.

    A folder of pictures may well contain a ``metadata.jsonl``, and a folder of Parquet a ``README.md``: bytes
    tell which of them is the pool. A file that the user names and whose suffix says nothing is looked into,
    and so are files without any where no other is known.

    Args:
        listing: the files of the pool.
        sample_suffixes: suffixes of files that are one sample each.
        own: formats of the modality's own, each with its suffixes; they come first.

    Raises:
        ModalityError: no file has a suffix or a beginning that is known, or the only one is a list of others.
    """
    _refuse_list(listing, sample_suffixes)
    packed = [suffix for suffix in TEXTS if suffix.endswith(CODECS)] if ".txt" in sample_suffixes else []
    known = {**own, "files": sample_suffixes, **SUFFIXES, "txt": packed}
    found = {name: Found() for name in known}
    means = {suffix: name for name, suffixes in reversed(known.items()) for suffix in suffixes}
    unclear = 0
    for file in listing.files:
        guess = means.get(file.suffix)
        if file.named and guess in (None, "txt"):  # in x.txt.gz may be anything
            if unclear < LOOKED_INTO:
                unclear += 1
                found[_looked_into(listing, file, guess)].add(file, looked_into=True)
        elif guess is not None:
            found[guess].add(file)
    if not any(one.files for one in found.values()):
        for file in islice(listing.bare(), LOOKED_INTO):
            found[_looked_into(listing, file, None)].add(file, looked_into=True)
    best = max(found, key=lambda name: found[name].weight)
    if not found[best].files:
        kinds = sorted({file.suffix or "without a suffix" for file in listing.files})[:5]
        among = f"; it has files {', '.join(kinds)}" if kinds else ", and no file at all"
        raise ModalityError(
            f"The pool is empty: source.path {listing.root.url!r} holds no {', '.join(sample_suffixes)},"
            f" .parquet, .jsonl, .tar or .npy file{among}. If those are samples, {ANY_NAME}."
        )
    why = found[best].told(len(listing.files))
    if best == "files" and listing.single and listing.files[0].suffix in TEXTS:
        best = "txt"
    return best, f"source.format auto is {best}, as {why} tell"


@dataclass
class Found:
    """The files of one format.

    Attributes:
        files: how many.
        weight: their bytes, and one for each file, so that empty ones count.
        suffixes: theirs.
        looked_into: of how many the first bytes decided.
    """

    files: int = 0
    weight: int = 0
    suffixes: set[str] = field(default_factory=set)
    looked_into: int = 0

    def add(self, file: File, looked_into: bool = False) -> None:
        """Count a file."""
        self.files += 1
        self.weight += 1 + (file.size or 0)
        self.suffixes.add(file.suffix)
        self.looked_into += looked_into

    def told(self, all_files: int) -> str:
        """Say what decided."""
        if self.looked_into == self.files:
            return "its first bytes" if all_files == 1 else f"the first bytes of {self.files:,} files"
        return f"the names of {self.files:,} of {all_files:,} files ({', '.join(sorted(self.suffixes))})"


def _looked_into(listing: Listing, file: File, guess: str | None) -> str:
    """The format of a file by its first bytes; the guess where they say nothing."""
    fmt = _by_magic(listing, file.name)
    return guess if fmt == "files" and guess is not None else fmt


def _by_magic(listing: Listing, name: str) -> str:
    fs, path = listing.root.join(name)
    try:
        with fs.open(path, "rb") as stream:
            head = Forward(stream).read(HEAD)
    except Damaged:
        head = b""
    except READ_ERRORS as error:
        if listing.single or not faults.is_its_own(error):
            raise ModalityError(f"{listing.root.uri(name)} cannot be read: {error}.") from error
        head = b""  # each is judged when it is read
    if head.lstrip().startswith(b"{"):
        return "jsonl"
    return next((fmt for at, magic, fmt in MAGIC if head[at:].startswith(magic)), "files")


def _refuse_list(listing: Listing, sample_suffixes: Sequence[str]) -> None:
    """Ask what is meant by one file whose lines are addresses: those files, or these lines.

    Raises:
        ModalityError: it is such a file.
    """
    if not listing.single or listing.files[0].suffix not in LISTS:
        return
    where = listing.root.uri(listing.files[0].name)
    fs, path = listing.root.join(listing.files[0].name)
    try:
        with fs.open(path, "rb") as stream:
            head = Forward(stream).read(LIST_HEAD)
    except (Damaged, *READ_ERRORS):
        return  # reading it will say why
    found = [entry for _, entry in islice(lists.named_in(head.split(b"\n")), lists.LOOKED_AT)]
    kind = lists.addressed(found, listing.root.holds)
    as_lines = " To curate the lines themselves, set source.format=txt." if ".txt" in sample_suffixes else ""
    if kind == "web":
        raise ModalityError(
            f"{where} is a list of addresses of the web ({found[0]!r}): {lists.FROM_THE_WEB}.{as_lines}"
        )
    if kind == "files":
        raise ModalityError(
            f"{where} looks like a list of files ({found[0]!r}): for a pool of those files, write"
            f" list:{where} into source.path.{as_lines}"
        )
