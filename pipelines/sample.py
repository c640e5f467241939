"""The sample stage: ``tree/`` becomes ``curated/``, a balanced set of the size asked for.

Every part of the assignments offers, of each leaf, as many points as the leaf's budget could take;
offers are merged a few at a time and never exceed the target by more than a merge's width. Samples that
break a rule of the modality are left out before (`pipelines.thinning`). Writes ``curated/part-*.parquet``
(id, uri, key, repeats, ranks, path, weight, and what ``embeddings/`` says of the sample) in the order of
rank: without repeats, the first m rows are the curated set of size m.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from numpy.typing import NDArray

import modalities
from curation.errors import CurationError
from curation.sampling import Drawn, budgets, draw, leaf_candidates, preferences
from curation.tree import Level, Tree
from modalities.base import Modality
from pipelines import thinning, written
from pipelines.blocks import keys_in, part_index, part_name
from pipelines.config import Config
from pipelines.errors import RunError
from pipelines.groups import groups
from pipelines.progress import Progress
from pipelines.store import Store

_MERGED_AT_ONCE = 16
_ROWS_A_FILE = 100_000

# leaf (m,), value (m,), keys (m, 2), part (m,), row of the part (m,)
Offer = tuple[
    NDArray[np.int64], NDArray[np.float64], NDArray[np.uint64], NDArray[np.int64], NDArray[np.int64]
]


def sample(
    config: Config, store: Store, progress: Progress, modality: Modality | None = None
) -> dict[str, Any]:
    """Draws the curated set.

    Args:
        config: What was asked for.
        store: The run directory, with a tree.
        progress: Advances by parts of the pool.
        modality: Of the pool, where it is made already.

    Returns:
        What the manifest counts: `pool`, `curated` (copies), `distinct` and `files`; where the modality has
        rules also `thinned` (samples that they leave out), `reasons` and `notes`.

    Raises:
        RunError: The tree cannot give as many samples as asked for, or a rule cannot be kept.
    """
    modality = modality or modalities.modality(config.modality, config.own)
    parts = written.parts(store, "tree/level-1/assignments")
    pool = read_tree(store)
    tree, out, thinned = pool, None, None
    if modality.thinned_by:
        out, thinned = thinning.thin(modality, store, parts, len(pool.levels[0]), config.seed)
        tree = pool.without(thinned.leaves)
        for sentence in thinned.sentences(pool.size):
            progress.say(f"sample: {sentence}")
    size = config.sample.count(tree.size)
    try:
        leaf_budgets = budgets(tree, size, config.sample.max_repeats, config.seed)[0]
    except CurationError as error:
        before = f" ({pool.size - tree.size:,} were left out before, see thinned/)" if thinned else ""
        raise RunError(f"sample.size: {error}{before}") from error
    progress.start("sample", len(parts), "parts")
    wanted = ray.put(leaf_budgets)
    grouped = groups(parts)
    offers = [
        _offer.remote(store, group, wanted, config.sample.within, config.seed, out) for group in grouped
    ]
    while len(offers) > 1:
        some = [offers[i : i + _MERGED_AT_ONCE] for i in range(0, len(offers), _MERGED_AT_ONCE)]
        offers = [_merge.remote(wanted, *together) for together in some]
    drawn, rows = _draw.options(num_returns=2).remote(ray.put(tree), wanted, offers[0], config.seed)
    told = _told(store, parts[0])
    named = [_name.remote(store, group, rows, told) for group in grouped]
    waiting = dict(zip(named, map(len, grouped), strict=True))
    while waiting:
        done, _ = ray.wait([*waiting])
        progress.advance(sum(waiting.pop(one) for one in done))
    counts: dict[str, Any] = ray.get(_write.remote(store, ray.put(tree), size, told, drawn, *named))
    progress.finish()
    if thinned:
        counts |= {"pool": pool.size, "files": counts["files"] | thinned.files()} | thinned.counts()
    return counts


def read_tree(store: Store) -> Tree:
    """The shape of the tree (sizes and parents, no centroids) from a run directory."""
    levels: list[Level] = []
    while files := written.parts(store, f"tree/level-{len(levels) + 1}/centroids"):
        table = pa.concat_tables([store.read_table(file, ["size", "parent"]) for file in files])
        parent = table.column("parent")
        parents = None if parent.null_count else parent.to_numpy()
        levels.append(Level(table.column("size").to_numpy(), parents))
    try:
        return Tree(levels)
    except CurationError as error:
        raise RunError(f"the tree of {store.url} cannot be used: {error}") from error


def _told(store: Store, part: str) -> list[str]:
    """Columns that say something of a sample, beside those that every pool has."""
    names = store.metadata(part_name("embeddings", part_index(part))).schema.to_arrow_schema().names
    return [name for name in names if name not in ("id", "uri", "key", "embedding")]


@ray.remote(num_cpus=1)
def _offer(
    store: Store,
    parts: Sequence[str],
    wanted: NDArray[np.int64],
    within: Any,
    seed: int,
    out: pa.Table | None,
) -> Offer:
    """What some parts offer together."""
    return _best(wanted, [_offer_of_part(store, part, wanted, within, seed, out) for part in parts])


def _offer_of_part(
    store: Store, part: str, wanted: NDArray[np.int64], within: Any, seed: int, out: pa.Table | None
) -> Offer:
    table = store.read_table(part, ["key", "cluster", "distance"])
    left = thinning.left(out, part_index(part), len(table))
    table = table.take(pa.array(left))
    leaf, keys = table.column("cluster").to_numpy(), keys_in(table["key"])
    values = preferences(within, seed, keys, table.column("distance").to_numpy())
    rows = leaf_candidates(leaf, values, keys, wanted)
    return leaf[rows], values[rows], keys[rows], np.full(len(rows), part_index(part)), left[rows]


@ray.remote(num_cpus=1)
def _merge(wanted: NDArray[np.int64], *offers: Offer) -> Offer:
    return _best(wanted, offers)


def _best(wanted: NDArray[np.int64], offers: Sequence[Offer]) -> Offer:
    leaf, values, keys, part, row = (np.concatenate(column) for column in zip(*offers, strict=True))
    best = leaf_candidates(leaf, values, keys, wanted)
    return leaf[best], values[best], keys[best], part[best], row[best]


@ray.remote(num_cpus=1)
def _draw(
    tree: Tree, wanted: NDArray[np.int64], offer: Offer, seed: int
) -> tuple[Drawn, tuple[NDArray[np.int64], NDArray[np.int64]]]:
    leaf, _, _, part, row = offer
    drawn = draw(tree, wanted, leaf, np.arange(len(leaf)), seed)
    return drawn, (part[drawn.index], row[drawn.index])


@ray.remote(num_cpus=1)
def _name(
    store: Store, parts: Sequence[str], rows: tuple[NDArray[np.int64], NDArray[np.int64]], told: list[str]
) -> pa.Table:
    """Id, uri, key and what is told of rows drawn from some parts, and their places in the curated set."""
    return pa.concat_tables([_name_of_part(store, part, rows, told) for part in parts])


def _name_of_part(
    store: Store, part: str, rows: tuple[NDArray[np.int64], NDArray[np.int64]], told: list[str]
) -> pa.Table:
    place = np.flatnonzero(rows[0] == part_index(part))
    table = store.read_table(part_name("embeddings", part_index(part)), ["id", "uri", "key", *told])
    return table.take(rows[1][place]).append_column("place", pa.array(place, pa.int64()))


@ray.remote(num_cpus=1)
def _write(
    store: Store, tree: Tree, size: int, told: list[str], drawn: Drawn, *named: pa.Table
) -> dict[str, Any]:
    if drawn.repeats.sum() != size:
        raise RunError(
            f"the assignments of {store.url} give {drawn.repeats.sum():,} of the {size:,} samples that its "
            "tree promises: they belong to different runs; delete tree/ there and run again"
        )
    table = pa.concat_tables(named).sort_by("place").drop_columns("place")
    ends = np.cumsum(drawn.repeats)
    table = table.append_column("repeats", pa.array(drawn.repeats, pa.int32()))
    table = table.append_column("ranks", _lists(drawn.rank, np.r_[0, ends]))
    path = tree.paths()[drawn.leaf]
    table = table.append_column("path", _lists(path.ravel(), np.arange(len(path) + 1) * path.shape[1]))
    table = table.append_column("weight", pa.array(drawn.weight, pa.float64()))
    table = table.select([name for name in table.column_names if name not in told] + told)
    for index, start in enumerate(range(0, max(1, len(table)), _ROWS_A_FILE)):
        store.write_table(part_name("curated", index), table.slice(start, _ROWS_A_FILE))
    return {
        "pool": tree.size,
        "curated": int(drawn.repeats.sum()),
        "distinct": len(table),
        "files": {"curated": [[0, index + 1]]},
    }


def _lists(values: NDArray[np.int64], offsets: Sequence[int] | NDArray[np.int64]) -> pa.ListArray:
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(values, pa.int64()))
