"""Bytes that are put away one after another: in memory, and in a temporary file once they are many."""

from __future__ import annotations

from os import SEEK_END
from tempfile import SpooledTemporaryFile
from threading import Lock
from typing import Any

ROOM = 16 * 2**20
"""Bytes that a shelf holds in memory."""


class Shelf:
    """Takes bytes, and gives them back by the place where they were put.

    The file has no name, lies where ``TMPDIR`` says, and is gone with the shelf or the process.
    """

    def __init__(self) -> None:
        self._file = SpooledTemporaryFile(max_size=ROOM)  # noqa: SIM115 - it is closed with the shelf
        self._lock = Lock()

    def put(self, data: bytes) -> int:
        """Put bytes away, and return their place."""
        with self._lock:
            place = self._file.seek(0, SEEK_END)
            self._file.write(data)
            return place

    def get(self, place: int, size: int) -> bytes:
        """Return the bytes of a place."""
        with self._lock:
            self._file.seek(place)
            return self._file.read(size)

    def __getstate__(self) -> dict[str, Any]:
        return {"all": self.get(0, -1)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__()  # type: ignore[misc]  # anew, in another process
        self.put(state["all"])
