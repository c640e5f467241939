"""A bound on the time that reading takes: no disk, network or server may hold up a run for ever."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import TypeVar

T = TypeVar("T")


class SlowError(Exception):
    """Reading took too long; ``str()`` of it is a reason to reject what was read."""


class OneThread:
    """Calls that are made one after the other in one thread, for what may not pass from thread to thread.

    Args:
        seconds: that each may take; with None they are made by the caller.
    """

    def __init__(self, seconds: float | None) -> None:
        self._seconds = seconds
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        if seconds is not None:
            threading.Thread(target=self._work, daemon=True).start()

    def __call__(self, read: Callable[[], T]) -> T:
        """Return ``read()``, or raise what it raises.

        Raises:
            SlowError: it, or the last call, took too long.
        """
        if self._seconds is None:
            return read()
        return _answered(self._calls.put, read, self._seconds)

    def close(self, last: Callable[[], None]) -> None:
        """Make a last call, which nobody waits for, and end the thread."""
        if self._seconds is None:
            last()
        self._calls.put(last)
        self._calls.put(None)

    def _work(self) -> None:
        while call := self._calls.get():
            call()


def in_time(read: Callable[[], T], seconds: float) -> T:
    """Return ``read()``, or raise what it raises.

    Raises:
        SlowError: it took longer. Python cannot end it: it goes on in a thread of its own, whose result
            nobody waits for and which does not keep the process from ending.
    """
    return _answered(lambda call: threading.Thread(target=call, daemon=True).start(), read, seconds)


def _answered(give: Callable[[Callable[[], None]], None], read: Callable[[], T], seconds: float) -> T:
    """Give a call to a thread, and wait for what it returns or raises."""
    answer: SimpleQueue[tuple[T, None] | tuple[None, BaseException]] = SimpleQueue()

    def work() -> None:
        try:
            answer.put((read(), None))
        except BaseException as error:
            answer.put((None, error))

    give(work)
    try:
        value, error = answer.get(timeout=seconds)
    except Empty:
        raise SlowError(f"It could not be read within {seconds:g} seconds (limits.timeout).") from None
    if error is not None:
        raise error
    return value  # type: ignore[return-value]
