"""A long list that is held small: the files of a pool and its parts, in compressed blocks."""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import fields, is_dataclass
from heapq import merge
from itertools import chain, islice
from operator import eq
from typing import Any, TypeVar, overload

import pyarrow as pa

from modalities.shelf import Shelf

T = TypeVar("T")

BLOCK = 1024
"""Items of a block, by default."""

RUN = 2**17
"""Items that are sorted at once, as objects."""

CODEC = "zstd"


class Packed(Sequence[T]):
    """A sequence whose items are made anew from their blocks, one of which is open at a time.

    The names of files that follow each other have much in common: of the 170 bytes that one takes as an
    object of Python 3 are left where they are numbered, and 20 where they are random; those above
    `modalities.shelf.ROOM` are on disk, and 24 bytes a block are always held.

    Args:
        items: in order, all of one type: JSON values, or tuples or data classes of such. One block of them is
            held as it is.
        block: items that are compressed, and opened, together.
        shelf: where the blocks are put, by default one of its own.
    """

    def __init__(self, items: Iterable[T] = (), block: int = BLOCK, shelf: Shelf | None = None) -> None:
        self._block, self._length = block, 0
        self._shelf = shelf or Shelf()
        self._places, self._sizes, self._lengths = array("Q"), array("Q"), array("Q")  # of blocks
        self._kind: type = str
        rest = iter(items)
        while held := list(islice(rest, block)):
            self._length += len(held)
            self._kind = type(held[0])
            plain = [*map(_plain, held)] if is_dataclass(held[0]) else held
            data = json.dumps(plain, separators=(",", ":")).encode()
            packed = pa.compress(data, CODEC, asbytes=True)
            self._places.append(self._shelf.put(packed))
            self._sizes.append(len(packed))
            self._lengths.append(len(data))
        self._open: tuple[int, list[T]] = (-1, [])

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[T]:
        return chain.from_iterable(map(self._opened, range(len(self._places))))

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...
    def __getitem__(self, index: int | slice) -> T | list[T]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self._length))]
        if not -self._length <= index < self._length:
            raise IndexError(f"item {index} of {self._length}")
        at, place = divmod(index % self._length, self._block)
        number, held = self._open
        if number != at:
            held = self._opened(at)
            self._open = (at, held)
        return held[place]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(eq, self, other))

    __hash__ = None  # type: ignore[assignment]  # as of a list

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": (-1, [])}

    def _opened(self, number: int) -> list[T]:
        data = self._shelf.get(self._places[number], self._sizes[number])
        held: list[Any] = json.loads(pa.decompress(data, self._lengths[number], CODEC, asbytes=True))
        kind: Any = self._kind
        if self._kind is tuple:
            return [kind(item) for item in held]
        fielded = is_dataclass(self._kind) or issubclass(self._kind, tuple)
        return [kind(*item) for item in held] if fielded else held


def _plain(item: Any) -> Any:
    return [getattr(item, field.name) for field in fields(item)]


def ordered(items: Iterable[T], key: Callable[[T], Any]) -> Iterator[T]:
    """Yield items sorted by a key, those of one key in the order in which they come.

    No more than `RUN` of them are held as objects: sorted runs are packed, on one shelf, and merged.
    """
    rest = iter(items)
    runs: list[Packed[T]] = []
    shelf = Shelf()
    while run := sorted(islice(rest, RUN), key=key):
        if not runs and len(run) < RUN:
            yield from run
            return
        runs.append(Packed(run, shelf=shelf))
    yield from merge(*runs, key=key)
