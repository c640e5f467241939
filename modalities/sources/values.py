"""How does a value of a table become the bytes of a sample? Bytes, strings, addresses, {bytes, path}."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from typing import Any

from modalities.sources.files import read_file
from modalities.sources.paths import Root, is_local
from modalities.sources.patience import SlowError

REMOTE = ("s3://", "gs://", "gcs://", "az://", "abfs://", "hf://", "https://", "http://")
"""Addresses a table may point to. Others could reach into this machine or chain filesystems."""

NOTHING = "The value is missing."


def payload_of(
    value: Any, literal: bool, root: Root, folder: str, *, named: bool
) -> tuple[bytes | None, str | None]:
    """Return the bytes of one sample, or None and the reason.

    Args:
        value: bytes; a struct ``{bytes, path}``; or a string.
        literal: a string is the sample itself (`Modality.strings_are_samples`), else the address of a file.
        root: the source's root, which relative addresses may not leave.
        folder: the folder of the table, relative to the root, where relative addresses begin.
        named: the user named the column. No other sends this machine to an address on the network, which may
            be one that only this machine reaches.
    """
    if isinstance(value, Mapping):
        value = value.get("bytes") if value.get("bytes") is not None else value.get("path")
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


def _fetch(address: str, root: Root, folder: str, named: bool) -> tuple[bytes | None, str | None]:
    if "::" in address:
        return None, "The address chains filesystems, which is not allowed in data."
    if address.startswith(REMOTE):
        if not named:
            return None, "The address is remote, and such are followed only in the column of source.column."
        head, _, tail = address.rpartition("/")
        try:
            return _read(Root(head, root.timeout), tail)
        except Exception as error:
            # A client for the web raises errors of its own, and one dead link may cost only itself.
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
