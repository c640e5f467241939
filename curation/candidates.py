"""Which centroids are worth a look for a point, in the place of all of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Candidates:
    """Groups of centroids and whom their points look at.

    Attributes:
        groups: Group of each centroid (k,), int32.
        offsets: Where the candidates of each group start and the last ones end (groups + 1,), int64.
        members: The candidates, group after group, ascending within each, int32.
        middles: Means of the groups (groups, d), by which a point without a last centroid finds one's group.
    """

    groups: NDArray[np.int32]
    offsets: NDArray[np.int64]
    members: NDArray[np.int32]
    middles: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Lists:
    """In the place of candidates: all centroids, filed in lists by FAISS, of which a point looks at a few.

    Approximate: most points find their nearest centroid, not all. See `curation.kernels.faiss.near`.

    Attributes:
        probes: Lists that a point looks through.
    """

    probes: int = 8
