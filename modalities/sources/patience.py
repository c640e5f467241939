"""A bound on the time that reading takes: no disk, network or server may hold up a run for ever."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import TypeVar

T = TypeVar("T")


class SlowError(Exception):
    """Reading took too long; ``str()`` of it is a reason to reject what was read."""


def in_time(read: Callable[[], T], seconds: float) -> T:
    """Return ``read()``, or raise what it raises.

    Raises:
        SlowError: it took longer. Python cannot end it: it goes on in a thread of its own, whose result
            nobody waits for and which does not keep the process from ending.
    """
    answer: SimpleQueue[tuple[T, None] | tuple[None, BaseException]] = SimpleQueue()

    def work() -> None:
        try:
            answer.put((read(), None))
        except BaseException as error:
            answer.put((None, error))

    threading.Thread(target=work, daemon=True).start()
    try:
        value, error = answer.get(timeout=seconds)
    except Empty:
        raise SlowError(f"It could not be read within {seconds:g} seconds (limits.timeout).") from None
    if error is not None:
        raise error
    return value  # type: ignore[return-value]
