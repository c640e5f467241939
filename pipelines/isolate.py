"""Which rows kill the process that works on them? Halves are tried until single rows remain."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")

TRIES = 3
"""Deaths at a row alone before it is given up: one may have another cause, such as memory that ran out."""

FRUITLESS = 24
"""Deaths in a row, nothing having worked between them, before it is not the rows that are at fault. The worst
case of single bad rows, the first two of 4,096, takes 2 x 3 deaths and one for each of 12 halvings."""


class Died(Exception):
    """The process died; ``str()`` of it is what is known about that."""


class Hopeless(Exception):
    """Whatever is tried kills its process; ``str()`` of it is what is known about the last time."""


def isolate(
    rows: Sequence[int], attempt: Callable[[Sequence[int]], T]
) -> tuple[list[tuple[Sequence[int], T]], list[int]]:
    """Do something with all rows but those that kill the process that does it.

    Args:
        rows: The rows, tried all at once before anything else.
        attempt: Does it with some of them, in their order; raises `Died` where its process died.

    Returns:
        What the attempts gave that worked, with their rows, and the rows that died `TRIES` times alone.
        Together they are all rows, in their order.

    Raises:
        Hopeless: `FRUITLESS` processes died in a row.
    """
    done: list[tuple[Sequence[int], T]] = []
    lost: list[int] = []
    waiting = [rows] if len(rows) else []
    deaths = tried = 0  # in a row, and of the single row that is next
    while waiting:
        piece = waiting.pop()
        try:
            done.append((piece, attempt(piece)))
            deaths = tried = 0
            continue
        except Died as death:
            deaths += 1
            if deaths > FRUITLESS:
                raise Hopeless(str(death)) from death
        if len(piece) > 1:
            half = len(piece) // 2
            waiting += [piece[half:], piece[:half]]
            continue
        tried += 1
        if tried < TRIES:
            waiting.append(piece)
        else:
            lost += piece
            tried = 0
    return done, lost
