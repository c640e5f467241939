"""How does a value of a table become the bytes of a sample? Bytes, strings, addresses, {bytes, path}."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

from modalities.base import ModalityError
from modalities.sources.files import read_file
from modalities.sources.lists import FROM_THE_WEB, LOOKED_AT, WEB, addressed
from modalities.sources.paths import Root, printable
from modalities.sources.patience import SlowError
from modalities.sources.walk import is_local

REMOTE = ("s3://", "gs://", "gcs://", "az://", "abfs://", "hf://")
"""Addresses a table may point to. Others could reach into this machine or chain filesystems."""

NOTHING = "The value is missing."


def payload_of(
    value: Any, literal: bool, root: Root, folder: str, *, named: bool
) -> tuple[bytes | None, str | None]:
    """Return the bytes of one sample, or None and the reason.

    Args:
        value: bytes; a struct ``{bytes, path}``; or a string.
        literal: a string is the sample itself (`Modality.strings_are_samples`), else the address of a file.
            The path of a struct is an address in any case.
        root: the source's root, which relative addresses may not leave.
        folder: the folder of the table, relative to the root, where relative addresses begin.
        named: the user named the column. No other sends this machine to an address on the network, which may
            be one that only this machine reaches.
    """
    if isinstance(value, Mapping):
        held = value.get("bytes")
        literal = literal and held is not None
        value = value.get("path") if held is None else held
    if value is None:
        return None, NOTHING
    if isinstance(value, bytes):
        return value, None
    if not isinstance(value, str):
        return None, f"The value is of type {type(value).__name__}, not a string or bytes."
    if literal:
        try:
            return value.encode("utf-8"), None
        except UnicodeEncodeError:
            return None, "The text is not valid Unicode."
    return _fetch(value, root, folder, named)


def check_addresses(values: Iterable[Any], literal: bool, root: Root, name: str, column: str) -> None:
    """Refuse a column whose first strings, all of them, are addresses that are not followed.

    Args:
        values: its first ones.
        literal: a string is the sample itself.
        root: what the name of the table is relative to.
        name: of the table, beside which files lie.
        column: its name.

    Raises:
        ModalityError: they are of the web, or of files where a string is the sample itself.
    """
    found = list(islice((value for value in values if isinstance(value, str)), LOOKED_AT))
    kind = addressed(found, lambda value: root.holds(posixpath.join(posixpath.dirname(name), value)))
    if kind == "web":
        raise ModalityError(
            f"{name}: source.column {column!r} holds addresses of the web ({found[0]!r}): {FROM_THE_WEB}."
        )
    if kind == "files" and literal:
        raise ModalityError(
            f"{name}: source.column {column!r} holds addresses of files ({found[0]!r}), but a string is a"
            " sample itself here: name the files by list:FILE in source.path, or put what they hold into the"
            " column."
        )


def _fetch(address: str, root: Root, folder: str, named: bool) -> tuple[bytes | None, str | None]:
    if "\0" in address or printable(address) != address:
        return None, "The address is no name of a file: it holds NUL, or is not valid Unicode."
    if "::" in address:
        return None, "The address chains filesystems, which is not allowed in data."
    if address.lower().startswith(WEB):
        return None, f"The address is of the web: {FROM_THE_WEB}."
    if address.startswith(REMOTE):
        if not named:
            return None, "The address is remote, and such are followed only in the column of source.column."
        head, _, tail = address.rpartition("/")
        try:
            return _read(Root(head, root.timeout), tail)
        except Exception as error:
            # A client for the network raises errors of its own, and one dead link may cost only itself.
            return None, f"The address cannot be read ({type(error).__name__})."
    name = posixpath.normpath(posixpath.join(folder, address))
    if "://" in address or address.startswith("/") or name.startswith(".."):
        return None, "The address leaves the folder of the pool."
    fs, path = root.join(name)
    if is_local(fs) and not _inside(path, root):
        return None, "The address leaves the folder of the pool."
    return _read(root, name)


def _read(root: Root, name: str) -> tuple[bytes | None, str | None]:
    try:
        return read_file(root, name)
    except SlowError as error:
        return None, str(error)


def _inside(path: str, root: Root) -> bool:
    from os.path import realpath  # a link in the folder may still point outside

    base = realpath(root.join("")[1])
    return posixpath.commonpath([realpath(path), base]) == base
