"""The tree that a hierarchical clustering leaves behind: clusters of every level and who is under whom."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curation.errors import CurationError


@dataclass(frozen=True)
class Level:
    """Clusters of one level.

    Attributes:
        sizes: Pool samples under each cluster (k,), int64; 0 only where all were left out (`Tree.without`).
        parents: Cluster of the level above (k,), int64; None at the top.
        centroids: Centroids (k, d), float32, in the pool's scale; None where only the shape is needed.
    """

    sizes: NDArray[np.int64]
    parents: NDArray[np.int64] | None
    centroids: NDArray[np.float32] | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.sizes)


@dataclass(frozen=True)
class Leaves:
    """The pool under a tree that was grown in one process.

    Attributes:
        ids: Names of the samples (n,).
        keys: Their keys (n, 2), uint64.
        clusters: Their clusters at level 1 (n,), int64.
        distances: Squared distances to those clusters' centroids (n,), float32, in the pool's scale:
            the precision that a tree on disk keeps, so that both draw the same.
    """

    ids: NDArray[Any]
    keys: NDArray[np.uint64]
    clusters: NDArray[np.int64]
    distances: NDArray[np.float32]


@dataclass(frozen=True)
class Tree:
    """Levels from the leaves (level 1) up, and what the clustering had to say.

    Attributes:
        levels: `levels[0]` is level 1.
        notes: Sentences for the report: clamped levels, clusters that ended empty.
        leaves: The pool, where the tree was grown in memory.

    Raises:
        CurationError: Sizes and parents do not add up.
    """

    levels: Sequence[Level]
    notes: Sequence[str] = ()
    leaves: Leaves | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not self.levels:
            raise CurationError("a tree needs at least one level")
        for number, (lower, upper) in enumerate(itertools.pairwise(self.levels), start=1):
            if lower.parents is None or len(lower.parents) != len(lower):
                raise CurationError(f"level {number} of the tree has no parent for every cluster")
            if not ((lower.parents >= 0) & (lower.parents < len(upper))).all():
                raise CurationError(
                    f"a cluster of level {number} names a parent that level {number + 1} does not have; "
                    "the tree is damaged, cluster again"
                )
            held = np.zeros(len(upper), np.int64)
            np.add.at(held, lower.parents, lower.sizes)
            if not np.array_equal(held, upper.sizes):
                wrong = int(np.flatnonzero(held != upper.sizes)[0])
                raise CurationError(
                    f"cluster {wrong} of level {number + 1} claims {upper.sizes[wrong]} samples but its "
                    f"children hold {held[wrong]}; the tree is damaged, cluster again"
                )

    @property
    def size(self) -> int:
        """Number of samples in the pool."""
        return int(self.levels[0].sizes.sum())

    def without(self, taken: NDArray[np.int64]) -> Tree:
        """The tree without some samples of each leaf (leaves,); clusters keep their numbers, even if empty.

        Raises:
            CurationError: A leaf has fewer.
        """
        levels: list[Level] = []
        for level in self.levels:
            if (taken > level.sizes).any():
                wrong = int(np.argmax(taken - level.sizes))
                raise CurationError(
                    f"cluster {wrong} of level {len(levels) + 1} holds {level.sizes[wrong]} samples, and "
                    f"{taken[wrong]} are to be left out: they were counted over another tree"
                )
            levels.append(replace(level, sizes=level.sizes - taken))
            if level.parents is not None:
                above = np.zeros(len(self.levels[len(levels)]), np.int64)
                np.add.at(above, level.parents, taken)
                taken = above
        return Tree(levels, self.notes)

    def paths(self) -> NDArray[np.int64]:
        """For every leaf its cluster at each level, top first, shape (leaves, levels)."""
        columns = [np.arange(len(self.levels[0]))]
        for level in self.levels[:-1]:
            assert level.parents is not None  # checked when the tree was made
            columns.append(level.parents[columns[-1]])
        return np.stack(columns[::-1], axis=1)
