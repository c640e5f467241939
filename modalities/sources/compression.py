"""Reading a file forwards, as it lies there or as it was before gzip or zstd compressed it.

What is compressed is inflated a block at a time and never as a whole, so a small file that inflates to a
huge one costs time and no memory. Which codec it is, the first bytes of a file say, and not its name.
"""

from __future__ import annotations

import gzip
import io
import zlib
from typing import IO, Any, Literal

import pyarrow as pa

MAGIC: dict[bytes, Literal["gzip", "zstd"]] = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
BLOCK = 2**14
"""Bytes inflated at once. Where the data are damaged, so many before the damage may be lost."""


class Damaged(Exception):
    """From here on a file cannot be read; ``str()`` of it is a reason to reject the rest.

    Args:
        reason: one sentence.
        name: of the member of a tar that is not whole, where that is known.
    """

    def __init__(self, reason: str, name: str | None = None) -> None:
        super().__init__(reason)
        self.name = name


class Forward:
    """A file that is read from its beginning to its end.

    Args:
        stream: seekable, at its beginning.
        plain: it is not compressed, whatever its first bytes are.

    Attributes:
        codec: ``gzip`` or ``zstd`` where the first bytes say so, else None.
        position: how many bytes were read or skipped, as they are without compression.
    """

    def __init__(self, stream: IO[bytes], *, plain: bool = False) -> None:
        head = b"" if plain else stream.read(4)
        self.codec = next((codec for magic, codec in MAGIC.items() if head.startswith(magic)), None)
        self.position = 0
        self._size = stream.seek(0, io.SEEK_END)
        stream.seek(0)
        self._plain = stream
        self._inflated = None if self.codec is None else _Inflated(stream, self.codec)

    def read(self, size: int) -> bytes:
        """Return the next bytes, fewer than `size` only at the end.

        Raises:
            Damaged: the compressed data are damaged, or were cut off; what comes before was returned.
        """
        data = self._plain.read(size) if self._inflated is None else self._inflated.read(size)
        self.position += len(data)
        return data

    def skip(self, size: int) -> bool:
        """Pass over the next bytes; tell whether there were so many.

        Raises:
            Damaged: as `read`.
        """
        if self._inflated is None:
            ahead = min(size, self._size - self.position)
            self.position += ahead
            self._plain.seek(self.position)
            return ahead == size
        while size:
            passed = len(self.read(min(size, BLOCK)))
            if not passed:
                return False
            size -= passed
        return True


class _Inflated:
    def __init__(self, stream: IO[bytes], codec: Literal["gzip", "zstd"]) -> None:
        self._raw = _Raw(stream)
        self._next: Any
        if codec == "gzip":
            self._next = gzip.GzipFile(fileobj=self._raw, mode="rb").read1  # type: ignore[call-overload]
        else:
            self._next = pa.CompressedInputStream(pa.PythonFile(self._raw, "r"), "zstd").read
        self._left = b""
        self._damage: Damaged | None = None

    def read(self, size: int) -> bytes:
        pieces = [self._left]
        held = len(self._left)
        while held < size and self._damage is None:
            piece = self._block()
            if not piece:
                break
            pieces.append(piece)
            held += len(piece)
        data = b"".join(pieces)
        self._left = data[size:]
        if self._damage is not None and size and not data:
            raise self._damage
        return data[:size]

    def _block(self) -> bytes:
        try:
            data: bytes = self._next(BLOCK)
        except (OSError, EOFError, zlib.error) as error:
            if self._raw.failure is not None:  # it is not the data that are at fault
                raise self._raw.failure from error
            self._damage = Damaged("The compressed file is damaged or cut off from here on.")
            return b""
        return data


class _Raw:
    """The compressed bytes; remembers what reading them raised, which a decompressor may disguise."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.failure: Exception | None = None
        self.closed = False

    def read(self, size: int = -1) -> bytes:
        try:
            return self._stream.read(size)
        except Exception as error:
            self.failure = error
            raise

    def close(self) -> None:
        self.closed = True
        self._stream.close()
