"""A budget spread evenly over a tree, and the draws that fill it.

Top-down (Vo et al., section 3.3): a node's budget N goes to its children, who hold s_j draws each,
as min(n, s_j) with the largest n for which that fits, and the remainder one each to children with
s_j > n in the order of their hashes. A leaf gives its points in the order of their hashes (or of
their distances). Both are monotone in N and follow fixed orders, so the set of a smaller budget is
contained in that of every larger one; a copy's rank is the smallest budget at which it enters.

Every step works on a whole level at once: sorting and running sums, no loop over clusters.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from curation import chance
from curation.errors import CurationError
from curation.tree import Level, Tree

Within = Literal["random", "closest", "furthest"]


@dataclass(frozen=True)
class Drawn:
    """What a budget draws, a row for every sample taken, in the order of rank.

    Attributes:
        leaf: Leaf of each sample (m,), int64.
        index: Where the caller had it, (m,), int64.
        repeats: Copies taken of it (m,), int64.
        rank: Rank of each copy, all samples' copies laid end to end (budget,), ascending in a sample.
        weight: Pool samples that the sample stands for (m,), float64; they add up to the pool.
    """

    leaf: NDArray[np.int64]
    index: NDArray[np.int64]
    repeats: NDArray[np.int64]
    rank: NDArray[np.int64]
    weight: NDArray[np.float64]

    def ranks(self) -> list[NDArray[np.int64]]:
        """The ranks of each sample."""
        return np.split(self.rank, np.cumsum(self.repeats)[:-1]) if len(self.repeats) else []


def budgets(tree: Tree, size: int, max_repeats: int = 1, seed: int = 0) -> list[NDArray[np.int64]]:
    """The budget (k,) of every cluster of every level, from the leaves up; each level's add up to `size`.

    Raises:
        CurationError: `size` is negative or above pool x max_repeats.
    """
    most = tree.size * max_repeats
    if not 0 <= size <= most:
        raise CurationError(
            f"a sample of {size} was asked for, but {tree.size} samples taken up to {max_repeats} times "
            f"make {most}; ask for at most that, or raise max_repeats"
        )
    repeats = max(1, min(max_repeats, size))
    given = np.array([size], np.int64)
    out: list[NDArray[np.int64]] = []
    for number in range(len(tree.levels), 0, -1):
        level = tree.levels[number - 1]
        parents = _parents(level)
        # no child takes more than its parent has, and products stay far below 2^63
        most_here = given[parents]
        capacity = np.where(level.sizes > most_here // repeats, most_here, level.sizes * repeats)
        given = _share(given, parents, capacity, sibling_draws(number, len(level), seed))
        out.append(given)
    return out[::-1]


def _parents(level: Level) -> NDArray[np.int64]:
    """Parents of a level's clusters; the top level hangs on one root."""
    return level.parents if level.parents is not None else np.zeros(len(level), np.int64)


def sibling_draws(level: int, count: int, seed: int) -> NDArray[np.float64]:
    """The hashes (count,) that order siblings of a level when a remainder is spread."""
    keys = chance.centroid_keys(level, count)
    return chance.draws(chance.mixed(keys), chance.salt(seed, chance.Purpose.REMAINDER, level))


def _share(
    given: NDArray[np.int64],
    parents: NDArray[np.int64],
    capacity: NDArray[np.int64],
    hashes: NDArray[np.float64],
) -> NDArray[np.int64]:
    """Spreads every parent's budget (p,) over its children (c,), as the module's docstring says."""
    by_size = np.lexsort((capacity, parents))
    parent, held = parents[by_size], capacity[by_size]
    position = chance.rank_in_group(parent)
    siblings = np.bincount(parents, minlength=len(given))[parent]
    before = np.cumsum(held) - held  # held by smaller siblings, after subtracting the parent's start
    before -= before[np.arange(len(held)) - position]
    left = siblings - position
    filled = before + held * left <= given[parent]
    # the first child that is not filled sets n for its parent; where all are filled nothing is left over
    level = np.zeros(len(given), np.int64)
    unfilled = np.flatnonzero(~filled)
    first = unfilled[np.unique(parent[unfilled], return_index=True)[1]]
    level[parent[first]] = (given[parent[first]] - before[first]) // left[first]
    full = np.ones(len(given), bool)
    full[parent[first]] = False
    share = np.where(full[parents], capacity, np.minimum(level[parents], capacity))
    rest = given.copy()
    np.subtract.at(rest, parents, share)
    open_child = np.flatnonzero((capacity > level[parents]) & ~full[parents])
    turn = open_child[np.lexsort((open_child, hashes[open_child], parents[open_child]))]
    lucky = turn[chance.rank_in_group(parents[turn]) < rest[parents[turn]]]
    share[lucky] += 1
    return share


def flat_top_budgets(tree: Tree, size: int, seed: int = 0) -> NDArray[np.int64]:
    """The baseline of the paper: budgets (k,) of the top level's clusters, to be drawn at random below."""
    top = tree.levels[-1]
    root = np.zeros(len(top), np.int64)
    return _share(
        np.array([size], np.int64), root, top.sizes, sibling_draws(len(tree.levels), len(top), seed)
    )


def preferences(
    within: Within, seed: int, keys: NDArray[np.uint64], distances: NDArray[np.float32]
) -> NDArray[np.float64]:
    """What orders the points (n,) of a leaf, smallest first; ties go by key.

    Raises:
        CurationError: There is no such order.
    """
    if within not in get_args(Within):
        raise CurationError(f"there is no order {within!r}; there are {', '.join(get_args(Within))}")
    if within == "closest":
        return distances.astype(np.float64)
    if within == "furthest":
        return -distances.astype(np.float64)
    return chance.draws(chance.mixed(keys), chance.salt(seed, chance.Purpose.LEAF_DRAW))


def leaf_candidates(
    leaf: NDArray[np.int64], values: NDArray[np.float64], keys: NDArray[np.uint64], wanted: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Indices of the first `wanted[leaf]` points of every leaf, sorted by (leaf, value, key).

    Applied to parts of a pool and again to what they gave, it yields what it would on the whole pool.
    """
    taken = np.flatnonzero(wanted[leaf] > 0)
    ordered = taken[chance.order(values[taken], keys[taken], leaf[taken])]
    return ordered[chance.rank_in_group(leaf[ordered]) < wanted[leaf[ordered]]]


def draw(
    tree: Tree, leaf_budgets: NDArray[np.int64], leaf: NDArray[np.int64], index: NDArray[np.int64], seed: int
) -> Drawn:
    """Fills the leaves' budgets from candidates sorted by (leaf, preference).

    Args:
        tree: The tree.
        leaf_budgets: Budget of every leaf (k,).
        leaf: Leaf of each candidate (c,), at least min(budget, size) of every leaf, from `leaf_candidates`.
        index: The caller's name for each candidate (c,).
        seed: Seed of the siblings' order.
    """
    sizes = tree.levels[0].sizes
    turn = chance.rank_in_group(leaf)
    whole, rest = np.divmod(leaf_budgets, np.maximum(sizes, 1))
    repeats = whole[leaf] + (turn < rest[leaf])
    chosen = repeats > 0
    leaf, index, turn, repeats = leaf[chosen], index[chosen], turn[chosen], repeats[chosen]
    # copy c of the point whose turn is t enters its leaf at budget c * size + t + 1
    copy = chance.rank_in_group(np.repeat(np.arange(len(leaf)), repeats))
    of_copy = np.repeat(leaf, repeats)
    entry = copy * sizes[of_copy] + np.repeat(turn, repeats) + 1
    rank = _ranks(tree, of_copy, entry, seed)
    first = rank[np.cumsum(repeats) - repeats]
    by_rank = np.argsort(first, kind="stable")
    weight = (_mass(tree, leaf_budgets)[leaf] / np.maximum(leaf_budgets, 1)[leaf]) * repeats
    of_sample = np.repeat(np.argsort(by_rank, kind="stable"), repeats)
    return Drawn(
        leaf[by_rank],
        index[by_rank],
        repeats[by_rank],
        rank[np.lexsort((rank, of_sample))],
        weight[by_rank],
    )


def _ranks(tree: Tree, node: NDArray[np.int64], entry: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """Smallest budget of the root at which each copy enters, given that of its leaf.

    A node serves its children in rounds: round t gives each child that holds t draws its t-th, in the
    order of their hashes. The copies present are the node's first ones, so a copy's place among them,
    sorted by (round, hash), is the node's budget at which it enters. One sort of all copies a level.
    """
    for number, level in enumerate(tree.levels, start=1):
        parents = _parents(level)
        hashes = sibling_draws(number, len(level), seed)
        served = np.lexsort((node, hashes[node], entry, parents[node]))
        place = np.empty(len(node), np.int64)
        place[served] = chance.rank_in_group(parents[node][served]) + 1
        node, entry = parents[node], place
    return entry


def _mass(tree: Tree, leaf_budgets: NDArray[np.int64]) -> NDArray[np.float64]:
    """Pool samples (leaves,) that each leaf stands for.

    A node's are shared among its children with a positive budget in proportion to their sizes.
    """
    given = [leaf_budgets]
    for lower, upper in itertools.pairwise(tree.levels):
        held = np.zeros(len(upper), np.int64)
        np.add.at(held, _parents(lower), given[-1])
        given.append(held)
    mass = np.array([float(tree.size)])
    for level, budget in zip(reversed(tree.levels), reversed(given), strict=True):
        parents = _parents(level)
        sizes = np.where(budget > 0, level.sizes, 0)
        alive = np.zeros(len(mass), np.int64)
        np.add.at(alive, parents, sizes)
        mass = mass[parents] * sizes / np.maximum(alive, 1)[parents]
    return mass


def balanced_sample(
    tree: Tree, size: int, *, within: Within = "random", max_repeats: int = 1, seed: int = 0
) -> NDArray[Any]:
    """Ids of a balanced sample from a tree grown in memory, in the order of rank, copies repeated.

    Without repeats the first m ids are the sample of size m. Without ids in `fit` they are row numbers.

    Args:
        tree: `HierarchicalKMeans(...).fit(...).tree_`.
        size: Samples to draw, at most pool x `max_repeats`.
        within: Which points of a leaf: "random", "closest" to its centroid or "furthest" from it.
        max_repeats: Most copies of one sample.
        seed: Seed of the draws.

    Returns:
        Ids (size,).

    Raises:
        CurationError: The tree has no leaves in memory or cannot give that many, or `within` is no order.
    """
    if tree.leaves is None:
        raise CurationError("this tree came without its pool; grow it with HierarchicalKMeans.fit")
    leaves = tree.leaves
    wanted = budgets(tree, size, max_repeats, seed)[0]
    values = preferences(within, seed, leaves.keys, leaves.distances)
    index = leaf_candidates(leaves.clusters, values, leaves.keys, wanted)
    drawn = draw(tree, wanted, leaves.clusters[index], index, seed)
    copies = np.repeat(drawn.index, drawn.repeats)
    ids: NDArray[Any] = leaves.ids[copies[np.argsort(drawn.rank, kind="stable")]]
    return ids
