"""Where samples come from: `open_source` turns the ``source`` block of a config into a `Source`."""

from __future__ import annotations

from collections.abc import Sequence

from modalities.base import Modality, ModalityError, Source
from modalities.sources.detect import detect_format
from modalities.sources.embeddings import EmbeddingsSource
from modalities.sources.files import KEY, PART_ROWS, FilesSource
from modalities.sources.kept import check_keep
from modalities.sources.lines import JsonLinesSource, TextLinesSource
from modalities.sources.parquet import ParquetSource
from modalities.sources.paths import Listing, list_files
from modalities.sources.webdataset import WebDatasetSource

FORMATS = ("auto", "files", "webdataset", "parquet", "jsonl", "txt", "embeddings")

__all__ = [
    "FORMATS",
    "EmbeddingsSource",
    "FilesSource",
    "JsonLinesSource",
    "ParquetSource",
    "TextLinesSource",
    "WebDatasetSource",
    "open_source",
]


def open_source(
    fmt: str,
    path: str | Sequence[str] | Listing,
    *,
    column: str | None,
    id_column: str | None,
    keep: Sequence[str] = (),
    modality: Modality,
    part_rows: int | None = None,
    timeout: float | None = None,
) -> Source:
    """Open a pool.

    Args:
        fmt: one of `FORMATS`, or of the modality's own.
        path: a file, a folder, a glob, ``list:FILE``, or several of these, on any filesystem that fsspec
            opens; or what was found there.
        column: column or key of the samples, where the format has such.
        id_column: column or key of the ids, where the format has such.
        keep: columns or keys that stay with the samples, where the format has such.
        modality: what a sample is.
        part_rows: samples of a part at most; None takes the format's own.
        timeout: seconds that reading a sample, or the rows of a part, may take; None sets no bound. What was
            found already has its own.

    Raises:
        ModalityError: the format is unknown or comes later, the path is not there, or a column is missing.
    """
    if fmt not in (formats := (*FORMATS, *modality.formats)):
        hint = " A list of files stands in source.path, as list:FILE." if fmt == "list" else ""
        raise ModalityError(f"source.format {fmt!r} is unknown; there are {', '.join(formats)}.{hint}")
    listing = path if isinstance(path, Listing) else list_files(path, timeout)
    decided = None
    if fmt == "auto":
        fmt, decided = detect_format(listing, modality.suffixes, modality.formats)
    rows = {} if part_rows is None else {"part_rows": part_rows}
    source = _source(fmt, listing, column, id_column, keep, modality, rows)
    source.decided = decided
    return source


def _source(
    fmt: str,
    listing: Listing,
    column: str | None,
    id_column: str | None,
    keep: Sequence[str],
    modality: Modality,
    rows: dict[str, int],
) -> Source:
    if fmt in ("files", "txt", *modality.formats):
        for key, value in (("source.column", column), ("source.id_column", id_column)):
            whole = fmt == "files" or (fmt == "txt" and not listing.single)  # a sample is a file
            if value is not None and not (whole and (key, value) == ("source.id_column", KEY)):
                raise ModalityError(
                    f"{key} {value!r} has no meaning for source.format {fmt!r}: leave it out."
                )
    if keep and fmt not in ("webdataset", "parquet", "jsonl"):
        raise ModalityError(
            f"source.keep {', '.join(keep)} has no meaning for source.format {fmt!r}: leave it out."
        )
    check_keep(keep, modality)
    if fmt in modality.formats:
        return modality.open(fmt, listing, rows.get("part_rows"))
    if fmt == "txt" and not modality.strings_are_samples:
        raise ModalityError(f"source.format 'txt' holds documents, but modality is {modality.name!r}.")
    if fmt == "txt" and listing.single:
        return TextLinesSource(listing, **rows)
    common = rows.get("part_rows", PART_ROWS), id_column
    if fmt == "txt":
        return FilesSource(listing, TextLinesSource.SUFFIXES, *common, inflate=True)
    if fmt == "files":
        return FilesSource(listing, modality.suffixes, *common)
    if fmt == "webdataset":
        return WebDatasetSource(listing, modality, column, id_column, keep=keep, **rows)
    if fmt == "parquet":
        return ParquetSource(listing, modality, column, id_column, keep=keep, **rows)
    if fmt == "jsonl":
        return JsonLinesSource(listing, modality, column, id_column, keep=keep, **rows)
    return EmbeddingsSource(listing, column, id_column, **rows)
