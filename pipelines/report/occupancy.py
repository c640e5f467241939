"""How many samples of the pool, of a random draw and of the curated set does every cluster hold?

Comes in: the tree, and keys and clusters of the pool part by part. Goes out: one `LevelCounts` a level.
Memory is O(clusters) plus one part.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from curation import chance
from curation.tree import Tree

# A draw U lies below 2^53: its first 16 bits name one of 65,536 bins of about equal counts.
_BINS = 1 << 16
_BIN_WIDTH = float(1 << (53 - 16))


@dataclass(frozen=True)
class LevelCounts:
    """Samples in every cluster of one level; all arrays have shape (k,), int64.

    Attributes:
        level: 1 for the leaves.
        parent: cluster one level up, -1 at the top.
        pool: samples of the pool.
        random: samples of a random draw of the curated set's size.
        curated: samples of the curated set, every copy counted.
    """

    level: int
    parent: NDArray[np.int64]
    pool: NDArray[np.int64]
    random: NDArray[np.int64]
    curated: NDArray[np.int64]


def copies_by_leaf(curated: pa.Table, leaves: int) -> NDArray[np.int64]:
    """Curated copies in every leaf, shape (leaves,), int64, from the `repeats` and `path` of curated rows."""
    path = curated.column("path").combine_chunks()
    leaf = path.flatten().to_numpy().reshape(curated.num_rows, -1)[:, -1] if curated.num_rows else []
    return _sum_by(np.asarray(leaf, np.int64), curated.column("repeats").to_numpy(), leaves)


class RandomDraw:
    """The m samples with the smallest hashes, counted by cluster in two passes over the assignments.

    The first pass counts the hashes by their first 16 bits, which tells the bin where the m-th smallest
    lies; the second takes everything below that bin and sorts only the bin itself. A draw of more than
    the pool takes everybody the same number of times first, as `sample.max_repeats` does.
    """

    def __init__(self, sizes: NDArray[np.int64], size: int, seed: int) -> None:
        """Prepares a draw.

        Args:
            sizes: samples of the pool in every cluster, shape (k,).
            size: number of samples to draw.
            seed: seed of the run.
        """
        self._sizes = sizes
        self._rounds, self._wanted = divmod(size, max(1, int(sizes.sum())))
        self._salt = chance.salt(seed, chance.Purpose.RANDOM_BASELINE)
        self._histogram = np.zeros(_BINS, np.int64)
        self._below = np.zeros(len(sizes), np.int64)
        self._bin: int | None = None
        self._edge: list[tuple[NDArray[np.float64], NDArray[np.uint64], NDArray[np.int64]]] = []

    def first_pass(self, keys: NDArray[np.uint64]) -> None:
        """Counts the hashes of one part; keys of shape (n, 2)."""
        draws = chance.draws(chance.mixed(keys), self._salt)
        self._histogram += np.bincount((draws // _BIN_WIDTH).astype(np.int64), minlength=_BINS)

    def second_pass(self, keys: NDArray[np.uint64], cluster: NDArray[np.int64]) -> None:
        """Counts the drawn samples of one part; keys of shape (n, 2), cluster of shape (n,)."""
        if self._bin is None:
            self._bin = int(np.searchsorted(np.cumsum(self._histogram), self._wanted))
        draws = chance.draws(chance.mixed(keys), self._salt)
        bins = draws // _BIN_WIDTH
        self._below += np.bincount(cluster[bins < self._bin], minlength=len(self._sizes))
        edge = bins == self._bin
        self._edge.append((draws[edge], keys[edge], cluster[edge]))

    def counts(self) -> NDArray[np.int64]:
        """Samples drawn from every cluster, shape (k,), int64."""
        counts = self._below + self._rounds * self._sizes
        if self._edge:
            draws, keys, cluster = (np.concatenate(column) for column in zip(*self._edge, strict=True))
            left = self._wanted - int(self._below.sum())
            counts += np.bincount(
                cluster[chance.smallest(draws, keys, left)], minlength=len(self._sizes)
            ).astype(np.int64)
        return counts


def by_level(tree: Tree, random: NDArray[np.int64], curated: NDArray[np.int64]) -> list[LevelCounts]:
    """Carries counts of the leaves, shape (k,), up the tree; the leaves come first."""
    levels = []
    for number, level in enumerate(tree.levels, start=1):
        if level.parents is None:
            levels.append(LevelCounts(number, np.full(len(level), -1), level.sizes, random, curated))
            break
        levels.append(LevelCounts(number, level.parents, level.sizes, random, curated))
        above = len(tree.levels[number])
        random, curated = _sum_by(level.parents, random, above), _sum_by(level.parents, curated, above)
    return levels


def _sum_by(cluster: NDArray[np.int64], counts: NDArray[np.integer], clusters: int) -> NDArray[np.int64]:
    total = np.zeros(clusters, np.int64)
    np.add.at(total, cluster, counts)
    return total
