"""A pool in tars, as WebDataset has it: the members of a sample share a key and follow each other."""

from __future__ import annotations

import io
import posixpath
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from modalities.base import Modality, Part, Record
from modalities.mapper import Mapper, threads
from modalities.sources.compression import Damaged, Forward
from modalities.sources.files import KEY, PART_ROWS, SAMPLE_BYTES
from modalities.sources.kept import check_keys, kept_of
from modalities.sources.objects import id_in, json_object
from modalities.sources.paths import READ_ERRORS, Listing, printable
from modalities.sources.runs import RunsSource, first_good, stretch
from modalities.sources.tar import Member, members, samples
from modalities.sources.values import payload_of

SUFFIXES = (".tar", ".tgz", ".tar.gz", ".tar.zst")

TEXT_BYTES = 2**16
"""A larger member is none of the text that `keep` may name."""


class WebDatasetSource(RunsSource):
    """Tars of samples; the id is ``path#key``.

    A key is a member's name up to the first dot of its last component; what follows the dot is the suffix.
    The sample is the first member with one of the modality's suffixes, or what `column` says.

    Args:
        listing: the files to choose from.
        modality: what a sample is.
        column: the suffix of the member that is the sample, or a key of the json member.
        id_column: ``__key__``, or a key of the json member.
        part_rows: samples of a part at most.
        keep: keys of the json member, or suffixes of members of text, that stay with the samples as strings.
    """

    sample_bytes = SAMPLE_BYTES

    def __init__(
        self,
        listing: Listing,
        modality: Modality,
        column: str | None = None,
        id_column: str | None = None,
        part_rows: int = PART_ROWS,
        keep: Sequence[str] = (),
    ) -> None:
        super().__init__(listing, SUFFIXES, part_rows)
        self._literal = modality.strings_are_samples
        self._member_suffixes = [suffix.removeprefix(".") for suffix in modality.suffixes]
        self._column = column.removeprefix(".") if column is not None else None
        self._named = column is not None
        self._text_key = modality.column_names[0] if modality.strings_are_samples else None
        self._id_column = id_column
        self.kept = dict.fromkeys(keep, pa.string())

    def parts(self, mapper: Mapper = threads) -> Sequence[Part]:
        """As for all tars; raises ModalityError too when none of the first samples has what `keep` names."""
        parts = super().parts(mapper)
        first = first_good(parts).spec
        if self.kept and "reason" not in first:
            found = self._first_fields(first)
            check_keys(found, list(self.kept), first["file"], "samples", "a json key or a text member")
        return parts

    def _first_fields(self, spec: dict[str, Any]) -> list[dict[str, Any]]:
        """What could be kept of each sample of a part."""
        try:
            data = stretch(self._root, spec)
            found = list(samples(members(Forward(io.BytesIO(data), plain=True), len(data))))
        except (Damaged, *READ_ERRORS):
            return []  # reading it will say why
        groups = [(dict(reversed(group)), memoryview(data)) for _, group in found]
        return [_fields(parts, _about(parts, content)[0], content, parts) for parts, content in groups]

    def extents(self, stream: Forward) -> Iterator[tuple[int, int]]:
        """Yield where each sample begins and ends."""
        for _, group in samples(members(stream)):
            yield group[0][1].begin, group[-1][1].end

    def records(self, data: bytes, name: str, rows: range) -> list[Record]:
        """Turn a stretch of a tar into records."""
        stream = Forward(io.BytesIO(data), plain=True)
        found = list(samples(members(stream, len(data))))
        if len(found) != len(rows):
            return []
        content = memoryview(data)
        return [
            self._record(key, group, content, name, row)
            for (key, group), row in zip(found, rows, strict=True)
        ]

    def _record(
        self, key: str, group: list[tuple[str, Member]], content: memoryview, name: str, row: int
    ) -> Record:
        if printable(key) != key:
            return self.rejected(name, row, "The name of the member is not valid UTF-8.")
        parts = dict(reversed(group))
        id, uri = f"{self._root.label(name)}#{key}", f"{self._root.uri(name)}#{key}"
        if len(parts) < len(group):
            twice = next(suffix for suffix in parts if sum(suffix == other for other, _ in group) > 1)
            return Record(id, uri, None, f"The sample has two members .{twice}.")
        about, why = _about(parts, content)
        if self._id_column == KEY:
            id = key
        elif self._id_column is not None:
            own, why = (None, why) if about is None else id_in(about, self._id_column)
            if own is None:
                return Record(id, uri, None, why)
            id = own
        payload, reason = self._payload(parts, about, content, posixpath.dirname(name))
        kept = kept_of(_fields(parts, about, content, self.kept), self.kept) if self.kept else None
        return Record(id, uri, payload, reason, kept)

    def _payload(
        self,
        parts: Mapping[str, Member],
        about: dict[str, Any] | None,
        content: memoryview,
        folder: str,
    ) -> tuple[bytes | None, str | None]:
        chosen = self._chosen(parts)
        if chosen is not None:
            return _content(chosen, content)
        column = self._column or self._text_key
        if column is not None and about is not None and column in about:
            return payload_of(about[column], self._literal, self._root, folder, named=self._named)
        wanted = [self._column] if self._column is not None else self._member_suffixes
        has = ", ".join(f".{suffix}" for suffix in parts)
        return None, f"The sample has no member {', '.join(f'.{suffix}' for suffix in wanted)}; it has {has}."

    def _chosen(self, parts: Mapping[str, Member]) -> Member | None:
        """The member that is the sample; a whole suffix (``jpg``) is before the end of one (``left.jpg``)."""
        if self._column is not None:
            return parts.get(self._column.lower())
        for whole in (True, False):
            for suffix, member in parts.items():
                if (suffix if whole else suffix.rpartition(".")[2]) in self._member_suffixes:
                    return member
        return None


def _about(parts: Mapping[str, Member], content: memoryview) -> tuple[dict[str, Any] | None, str]:
    """The json member as an object, or None and the reason."""
    if "json" not in parts:
        return None, "The sample has no member .json."
    data, reason = _content(parts["json"], content)
    return (None, reason or "") if data is None else json_object(data, "json member")


def _fields(
    parts: Mapping[str, Member], about: dict[str, Any] | None, content: memoryview, names: Iterable[str]
) -> dict[str, Any]:
    """The json member's keys, before members of text by their suffix, such as a label in ``.cls``."""
    texts = {name: _text(parts.get(name.lower()), content) for name in names}
    return {name: text for name, text in texts.items() if text is not None} | (about or {})


def _text(member: Member | None, content: memoryview) -> str | None:
    """A small member as text without white space around it; None where it is none."""
    if member is None or member.size > TEXT_BYTES:
        return None
    data, _ = _content(member, content)
    try:
        return None if data is None else data.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        return None


def _content(member: Member, content: memoryview) -> tuple[bytes | None, str | None]:
    if member.wrong is not None:
        return None, member.wrong
    return bytes(content[member.offset : member.offset + member.size]), None
