"""A bound on code that cannot be interrupted: a process that is stuck in it ends itself."""

from __future__ import annotations

import faulthandler
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

STDERR = 2


@contextmanager
def watchdog(seconds: float | None) -> Iterator[Callable[[], None]]:
    """End this process, with a traceback in its log, where what is yielded is not called for long enough.

    A thread of the interpreter's own does it, so that a library which never gives back the interpreter's lock
    is bounded as well. Between two calls there are at least ``seconds``, and at most a third more.

    Args:
        seconds: How long; None sets no bound.
    """
    if seconds is None:
        yield lambda: None
        return
    armed = 0.0

    def alive() -> None:
        nonlocal armed
        now = time.monotonic()
        if now - armed > seconds / 3:  # arming takes a thread, and a sample may take microseconds
            faulthandler.dump_traceback_later(seconds * 4 / 3, exit=True, file=STDERR)
            armed = now

    alive()
    try:
        yield alive
    finally:
        faulthandler.cancel_dump_traceback_later()
