"""What every step on a worker is wrapped in: its errors as sentences, and only machines alike.

Apart from `pipelines.stream`, because most workers need nothing of Ray Data, whose import takes a second.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from curation.errors import CurationError
from modalities.base import ModalityError
from pipelines.attempts import LOADS
from pipelines.errors import RequestError
from pipelines.startup import identity, meet

RETRIES = 2
"""Of a part whose process died, where nobody keeps books. Ray's default is without end: a part that always
kills its process would never finish (and never fail)."""

DIES_AT_LOAD = (
    f"the process of the encoder died {LOADS} times in a row while it loaded its model: if memory ran out,"
    " lower encoder.actors or take a smaller encoder.model; run the same command again to go on from here"
)

DIES_AT_START = (
    f"the process that reads samples died {LOADS} times in a row before it began: its machine may have no"
    " memory left, and its log says more; run the same command again to go on from here"
)


def telling(fn: Callable[..., Any]) -> Callable[..., Any]:
    """``fn``, whose bad requests come back from a worker as the sentence that they are."""

    @functools.wraps(fn)
    def step(*args: Any, **kwargs: Any) -> Any:
        try:
            return fn(*args, **kwargs)
        except (CurationError, ModalityError) as error:
            raise RequestError(str(error)) from error

    return step


def alike(fn: Callable[..., Any]) -> Callable[..., Any]:
    """``fn``, which works on machines like this one alone: others may join after the check at the start."""
    here = identity()

    @functools.wraps(fn)
    def step(*args: Any, **kwargs: Any) -> Any:
        meet(here)
        return fn(*args, **kwargs)

    return step


def alikes(cls: type) -> Any:
    """``cls``, of which there are actors on machines like this one alone."""
    here = identity()

    @functools.wraps(cls, updated=())
    class Alike(cls):  # type: ignore[misc]  # any class may be its base
        def __init__(self, **kwargs: Any) -> None:
            meet(here)
            super().__init__(**kwargs)

    return Alike
