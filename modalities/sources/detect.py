"""Which format has a pool whose config says ``source.format: auto``?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from modalities.base import ModalityError
from modalities.sources import lines, parquet
from modalities.sources.paths import READ_ERRORS, Listing, Root

SUFFIXES: dict[str, tuple[str, ...]] = {
    "parquet": parquet.SUFFIXES,
    "jsonl": lines.JsonLinesSource.SUFFIXES,
    "embeddings": (".npy",),
}

MAGIC = ((b"PAR1", "parquet"), (b"\x93NUMPY", "embeddings"))


def detect_format(
    listing: Listing, sample_suffixes: Sequence[str], own: Mapping[str, Sequence[str]] = MappingProxyType({})
) -> str:
    """Name the format that holds most of the bytes of a listing.

    A folder of pictures may well contain a ``metadata.jsonl``, and a folder of Parquet a ``README.md``: bytes
    tell which of them is the pool.

    Args:
        listing: the files of the pool.
        sample_suffixes: suffixes of files that are one sample each.
        own: formats of the modality's own, each with its suffixes; they come first.

    Raises:
        ModalityError: no file has a suffix or a beginning that is known.
    """
    known = {**own, "files": sample_suffixes, **SUFFIXES}
    weights = dict.fromkeys(known, 0)
    for file in listing.files:
        found = next((name for name, suffixes in known.items() if file.suffix in suffixes), None)
        if found is None and file.named:
            found = _by_magic(listing.root, file.name)
        if found is not None:
            weights[found] += 1 + (file.size or 0)
    best = max(weights, key=lambda name: weights[name])
    if not weights[best]:
        kinds = sorted({file.suffix or "without a suffix" for file in listing.files})[:5]
        among = f"; it has files {', '.join(kinds)}" if kinds else ", and no file at all"
        raise ModalityError(
            f"The pool is empty: source.path {listing.root.url!r} holds no {', '.join(sample_suffixes)},"
            f" .parquet, .jsonl or .npy file{among}. If those are samples, set source.format."
        )
    if best == "files" and listing.single and listing.files[0].suffix in lines.TextLinesSource.SUFFIXES:
        return "txt"
    return best


def _by_magic(root: Root, name: str) -> str:
    fs, path = root.join(name)
    try:
        with fs.open(path, "rb") as stream:
            head: bytes = stream.read(64)
    except READ_ERRORS as error:
        raise ModalityError(f"{root.uri(name)} cannot be read: {error}.") from error
    if head.lstrip().startswith(b"{"):
        return "jsonl"
    return next((fmt for magic, fmt in MAGIC if head.startswith(magic)), "files")
