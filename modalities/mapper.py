"""Looking into the files of a pool while it is listed: several at a time, with the answers in their order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from multiprocessing.pool import ThreadPool
from typing import Any, Protocol, TypeVar

T = TypeVar("T")
R = TypeVar("R")
H = TypeVar("H")

AT_ONCE = 16
"""On a store far away, each takes a round trip; on a disk, most of them wait."""


class Mapper(Protocol):
    """`map` over files, by whatever there is to do it: `threads`, or the machines of a cluster."""

    def __call__(self, look: Callable[[T], R], items: Sequence[T], size: int) -> Iterable[R]:
        """Yield ``look(item)`` of every item, in their order; what one raises ends it.

        Args:
            look: picklable, as its answers are.
            items: files, or groups of them.
            size: bytes that all of it may read.
        """


def threads(look: Callable[[T], R], items: Iterable[T], size: int = 0) -> Iterator[R]:
    """Look into `AT_ONCE` items at a time in this process; who stops waits for none of them.

    Items are taken as they are needed, with as many again to wait for their turn.
    """
    rest = iter(items)
    first = list(islice(rest, 2 * AT_ONCE))
    if len(first) < 2:
        yield from map(look, first)
        return
    with ThreadPool(min(AT_ONCE, len(first))) as pool:  # of daemons, so that Ctrl-C ends it at once
        yield from in_order(
            chain(first, rest),
            lambda item: pool.apply_async(look, (item,)),
            lambda one: one.get(),
            2 * AT_ONCE,
        )


def in_order(
    items: Iterable[T],
    begin: Callable[[T], H],
    answer: Callable[[H], R],
    ahead: int,
    drop: Callable[[H], Any] = lambda _: None,
) -> Iterator[R]:
    """Yield the answers to work on items in their order, with so much of it under way.

    Args:
        items: taken as they are needed.
        begin: starts the work on one, and returns a handle.
        answer: waits for it.
        ahead: items at most whose work has begun.
        drop: told of each that nobody waits for any more.
    """
    rest = iter(items)
    waiting = deque(map(begin, islice(rest, ahead)))
    try:
        for item in rest:
            yield answer(waiting.popleft())
            waiting.append(begin(item))
        while waiting:
            yield answer(waiting.popleft())
    finally:
        for handle in waiting:
            drop(handle)
