"""What does an actor ask for of CPUs and GPUs, so that all of them find a place?

Ray adds up what the actors of a machine take, in parts of 1/10,000, and a share of a GPU must lie on one GPU.
"""

from __future__ import annotations

import math

FINEST = 10_000
"""Parts of a CPU, or of a GPU, that Ray can tell apart."""

_ROUNDING = 1e-9


def equal_share(there: float, count: int) -> float:
    """The CPUs (or GPUs) that each of `count` actors asks for, at most one, so that all of them fit.

    As many share each one, so that it does not matter on which machines these are. 0 where there are none,
    or fewer than Ray can divide: then actors ask for nothing.
    """
    sharing = math.ceil(count / there) if there else 0
    return int(FINEST / sharing) / FINEST if sharing else 0.0


def whole_share(gpus: float) -> float:
    """The smallest share of a GPU, of at least so much, that divides it; more than one are whole ones."""
    if gpus >= 1 or not gpus:
        return float(math.ceil(gpus))
    return max(1, int(FINEST / int(1 / gpus + _ROUNDING))) / FINEST


def places_on(there: float, each: float) -> int:
    """Actors of `each` GPUs (or CPUs), a `whole_share` above 0, for which a machine of so many has room."""
    return int(there / each) if each >= 1 else int(there) * int(1 / each + _ROUNDING)
