"""What must hold of a curated set beside its balance? A modality says so, of what its columns say of samples.

A sample that breaks a rule with a luckier one is left out before the set is drawn; a hash of the ids decides
who is luckier. `Modality.rules` returns such rules, and knows nothing of chance or of parts of the pool.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Values: TypeAlias = pa.Array | pa.ChunkedArray | NDArray[Any] | Sequence[Any]
"""A value for each sample, of any type that Arrow has."""


@dataclass(frozen=True)
class Apart:
    """Samples of one group are no nearer to each other than a distance.

    Attributes:
        points: where each sample lies (n, d), float64, for Euclidean distances; d is small.
        distance: in the unit of the points, above 0.
        reason: why a sample is left out, one sentence, the same for all.
        within: the group of each sample; None: all are in one.
        unknown: what samples lack that cannot be judged, for "12 samples ...": those with a point that is not
            finite, or a group that is null. They stay.
    """

    points: NDArray[np.float64]
    distance: float
    reason: str
    within: Values | None = None
    unknown: str = "have no place"


@dataclass(frozen=True)
class AtMost:
    """There are no more than so many samples of one group.

    Attributes:
        count: of a group at most, 1 or more.
        of: the group of each sample.
        reason: why a sample is left out, one sentence, the same for all.
        unknown: what samples lack whose group is null, for "12 samples ...". They stay.
    """

    count: int
    of: Values
    reason: str
    unknown: str = "have no group"


Rule = Apart | AtMost
