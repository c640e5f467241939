"""The draws that are compared, and trees that share their leaves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curation import chance
from curation.errors import CurationError
from curation.hierarchy import Grown, grow
from curation.inputs import held
from curation.recipe import Recipe
from curation.sampling import flat_top_budgets, leaf_candidates, preferences
from curation.tree import Leaves, Level, Tree
from curation.workers import LocalWorkers


class _OnceClustered(LocalWorkers):
    """Workers that cluster level 1 once and keep their points, for one tree after another."""

    _leaves: tuple[Grown, list[NDArray[np.int64]]] | None = None

    def conduct(self, conductor: Any, *arguments: Any) -> tuple[Grown, list[NDArray[np.int64]]]:
        """Level 1: as it was found the first time, for `grow` to write parents on."""
        if self._leaves is None:
            self._leaves = super().conduct(conductor, *arguments)
        found, labels = self._leaves
        return replace(found), labels

    def close(self) -> None:
        """Keeps the points."""


def trees(
    embeddings: NDArray[Any], recipes: Sequence[Recipe], ids: Sequence[str] | None = None
) -> list[Tree]:
    """What `HierarchicalKMeans` would grow for each recipe over rows (n, d), clustering level 1 once.

    Args:
        embeddings: The rows.
        recipes: What to grow; they must agree on level 1 and not resample it.
        ids: What chance hangs on, the row numbers by default; trees name their samples by row either way.

    Raises:
        CurationError: The recipes do not agree on level 1.
    """
    if len({_level_1(recipe, len(embeddings)) for recipe in recipes}) != 1:
        raise CurationError(f"the recipes do not share level 1: {recipes}")
    if recipes[0].points_of(1, len(embeddings)):
        raise CurationError("level 1 is resampled; set its resample points to 0 to share it")
    one, grid = held(embeddings, recipes[0].distance, ids)
    workers, keys = _OnceClustered(one.blocks), one.blocks[0].everything.keys
    saved: list[tuple[NDArray[np.int64], NDArray[np.float64]]] = []

    def save(leaves: Grown) -> None:
        if not saved:
            pair = workers.points(
                "save", lambda *told: told, leaves.renumbered, *leaves.slices, own=leaves.own
            )
            saved.extend(pair)

    grown = [grow(workers, recipe, save) for recipe in recipes]
    clusters, distances = saved[0]
    pool = Leaves(np.arange(len(keys)), keys, clusters, grid.decode_squared(distances).astype(np.float32))
    return [
        Tree([Level(g.sizes, g.parents, grid.decode(np.concatenate(g.slices))) for g in levels], (), pool)
        for levels in grown
    ]


def _level_1(recipe: Recipe, n_points: int) -> tuple[Any, ...]:
    """What decides level 1."""
    level_1 = (recipe.n_clusters[0], recipe.points_of(1, n_points), recipe.random_state)
    return (*level_1, recipe.plan)


def random_draw(keys: NDArray[np.uint64], size: int, seed: int) -> NDArray[np.int64]:
    """Rows of a uniform draw of points with these keys (n, 2)."""
    salt = chance.salt(seed, chance.Purpose.RANDOM_BASELINE)
    return chance.smallest(chance.draws(chance.mixed(keys), salt), keys, size)


def flat_top_draw(tree: Tree, size: int, seed: int) -> NDArray[np.int64]:
    """Rows of the paper's baseline: the top clusters share the budget, and each draws at random below."""
    if tree.leaves is None:
        raise CurationError("this tree came without its pool")
    leaves = tree.leaves
    top = tree.paths()[leaves.clusters, 0]
    values = preferences("random", seed, leaves.keys, leaves.distances)
    return leaf_candidates(top, values, leaves.keys, flat_top_budgets(tree, size, seed))
