"""Which files, and which folders on the way to them, does a pattern mean?"""

from __future__ import annotations

import re
from glob import has_magic

from fsspec.utils import glob_translate

from modalities.base import ModalityError


class Glob:
    """A pattern of paths below a folder, as fsspec has them: ``*``, ``?``, ``[...]``, and ``**`` for folders.

    Args:
        pattern: a path, of which the part before its first wildcard is the folder.

    Attributes:
        root: that folder.

    Raises:
        ModalityError: ``**`` is only a part of a component.
    """

    def __init__(self, pattern: str) -> None:
        parts = pattern.split("/")
        depth = next(i for i, part in enumerate(parts) if has_magic(part))
        self.root = "/".join(parts[:depth]) or ("/" if pattern.startswith("/") else "")
        below = parts[depth:]
        try:
            self._files = re.compile(glob_translate("/".join(below)))
        except ValueError as error:
            raise ModalityError(f"source.path {pattern!r} is no pattern: {error}.") from error
        known = below.index("**") if "**" in below else len(below) - 1
        self._folders = [re.compile(glob_translate("/".join(below[: i + 1]))) for i in range(known)]
        self._deeper = "**" in below

    def matches(self, name: str) -> bool:
        """Tell whether a file is meant, by its name relative to the root."""
        return self._files.match(name) is not None

    def leads(self, folder: str) -> bool:
        """Tell whether files in a folder, or below it, may be meant."""
        depth = folder.count("/")
        if depth >= len(self._folders):
            return self._deeper
        return self._folders[depth].match(folder) is not None
