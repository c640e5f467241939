"""What Ctrl-C does to a run: it ends in order and says how to go on; pressed again, it ends at once."""

from __future__ import annotations

import os
import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

import typer

INTERRUPTED, TERMINATED = 130, 143
"""Exit codes, as shells give them for SIGINT and SIGTERM."""
STOPPING = b"\nstopping, which takes a few seconds; Ctrl-C again ends it at once\n"


@contextmanager
def stoppable(*command: str) -> Iterator[None]:
    """Within the block the first Ctrl-C is a `KeyboardInterrupt` and the second one the end.

    Args:
        command: What was typed, to be typed again.

    Raises:
        typer.Exit: The run was stopped, and that was said.
    """
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:  # a shell has its background jobs ignore it, and so do we
        signal.signal(signal.SIGINT, _stop)
    try:
        yield
    except KeyboardInterrupt:
        from pipelines.secrets import told  # takes a while to import, and help is quick

        again = told(shlex.join(command))
        typer.echo(f"\nstopped; run the same command again to go on from here: {again}", err=True)
        raise typer.Exit(INTERRUPTED) from None
    except SystemExit:  # Ray makes it of SIGTERM, which `ray job stop` sends
        typer.echo("\nstopped; run the same command again to go on from here", err=True)
        raise typer.Exit(TERMINATED) from None
    finally:
        signal.signal(signal.SIGINT, before)


def end(code: int) -> NoReturn:
    """End the process of a run that was stopped, in whatever its threads are.

    Python would take itself apart under those of Ray that have not heard of it yet, and abort now and then.
    """
    if "ray" in sys.modules:
        import ray

        with suppress(Exception):
            ray.shutdown()  # nothing to do but for a run that was stopped before it worked
    with suppress(OSError, ValueError):  # nobody may listen any more
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def _stop(*_: Any) -> None:
    signal.signal(signal.SIGINT, _end)
    os.write(2, STOPPING)  # the stream of that name may be in the middle of a line of its own
    raise KeyboardInterrupt


def _end(*_: Any) -> None:
    os._exit(INTERRUPTED)  # nothing is lost: what a run goes on from is on disk
