"""The report stage: reads the run directory, writes `metrics.json` and `report.html`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curation import chance
from curation.balance import balance
from pipelines import written
from pipelines.blocks import keys_in, part_index, part_name
from pipelines.config import Config
from pipelines.errors import RunError
from pipelines.manifest import read_manifest
from pipelines.progress import Progress
from pipelines.report import figures, maps, occupancy, page, provenance, shown
from pipelines.report.places import has_places, read_places
from pipelines.sample import read_tree
from pipelines.secrets import hidden
from pipelines.store import Store

# Samples that the page shows of the pool, and of the curated set.
SHOWN = 40
ASSIGNMENTS = "tree/level-1/assignments"
SETS = ("pool", "random", "curated")
HEADINGS = ("Random samples of the pool", "Random samples of the curated set")


def report(config: Config, store: Store, progress: Progress) -> dict[str, Any]:
    """Writes `metrics.json` and `report.html` of a run that is clustered and sampled.

    Args:
        config: config of the run.
        store: run directory.
        progress: gets one step a file that is read.

    Returns:
        Counts for the manifest: pool, embedded, rejected, curated (distinct samples), copies.

    Raises:
        RunError: the tree or the curated set is missing, or they contradict each other.
    """
    curated_files, assignments = written.parts(store, "curated"), written.parts(store, ASSIGNMENTS)
    if not assignments:
        raise RunError("there is no tree to report on: run `cluster` first")
    tree = read_tree(store)
    sizes = tree.levels[0].sizes
    embeddings = [part_name("embeddings", part_index(file)) for file in assignments]
    passes = 2 if has_places(store, embeddings) else 1
    progress.start("report", passes * (len(curated_files) + 2 * len(assignments)), "files")
    copies, distinct, favoured = _read_curated(config, store, curated_files, len(sizes), progress.advance)
    random, rows = _read_pool(
        config, store, assignments, sizes, int(copies.sum()), favoured, progress.advance
    )
    levels = occupancy.by_level(tree, random, copies)
    places = read_places(store, embeddings, curated_files, progress.advance)
    sheets = shown.fetch(config, store, rows)
    progress.finish()

    rejects, thinned = provenance.read_rejects(store), provenance.read_thinned(store)
    manifests = provenance.read_manifests(store)
    embedded, rejected = int(sizes.sum()), sum(reason.count for reason in rejects)
    metrics: dict[str, Any] = {
        "pool": embedded + rejected,
        "embedded": embedded,
        "rejected": rejected,
        "thinned": sum(reason.count for reason in thinned),
        "curated": distinct,
        "copies": int(copies.sum()),
        "levels": [
            {"level": c.level, "clusters": len(c.pool)}
            | {name: dataclasses.asdict(balance(getattr(c, name))) for name in SETS}
            for c in levels
        ],
        "places": places.metrics() if places else None,
        "rejects": [dataclasses.asdict(reason) for reason in rejects],
        "left_out": [dataclasses.asdict(reason) for reason in thinned],
        "stages": manifests.stages,
        "versions": manifests.versions,
        "notes": manifests.notes + sheets.notes,
    }
    metrics = hidden(metrics)
    store.write_bytes("metrics.json", json.dumps(metrics, indent=1, allow_nan=False).encode())
    html = page.render(
        title=hidden(PurePosixPath(store.url).name),
        config=hidden(config),
        encoded=_was_encoded(store),
        metrics=metrics,
        histograms=[(c.level, len(c.pool), figures.size_histogram(c)) for c in reversed(levels)],
        treemap=figures.treemap(levels),
        overview=maps.overview(places) if places else [],
        regions=maps.regions(places) if places else [],
        layout=sheets.layout,
        samples=list(zip(HEADINGS, sheets.groups, strict=True)),
    )
    store.write_bytes("report.html", html.encode())
    return {key: metrics[key] for key in ("pool", "embedded", "rejected", "curated", "copies")}


def _was_encoded(store: Store) -> bool:
    """Whether an encoder made the embeddings, and not the one who brought the pool."""
    manifest = read_manifest(store, "embeddings")
    return manifest is not None and "encoder.model" in manifest.basis.config


def _read_curated(
    config: Config, store: Store, files: list[str], leaves: int, advance: Callable[[], None]
) -> tuple[NDArray[np.int64], int, NDArray[np.uint64]]:
    """Copies in every leaf, (leaves,); the number of distinct samples; keys of those to show, (m, 2)."""
    copies = np.zeros(leaves, np.int64)
    distinct = 0
    few = shown.Smallest(SHOWN, chance.salt(config.seed, chance.Purpose.SHOWN))
    for file in files:
        table = store.read_table(file, columns=["key", "repeats", "path"])
        copies += occupancy.copies_by_leaf(table, leaves)
        distinct += table.num_rows
        few.offer(0, keys_in(table["key"]))
        advance()
    if not distinct:
        raise RunError("there is no curated set to report on: run `sample` first")
    return copies, distinct, few.keys


def _read_pool(
    config: Config,
    store: Store,
    files: list[str],
    sizes: NDArray[np.int64],
    draw: int,
    favoured: NDArray[np.uint64],
    advance: Callable[[], None],
) -> tuple[NDArray[np.int64], list[list[shown.Row]]]:
    """A random draw's counts in every leaf, (k,); the rows to show of the pool, and of the curated set.

    Args:
        config: config of the run.
        store: run directory.
        files: assignments, in their order.
        sizes: samples in every leaf, shape (k,).
        draw: size of the random draw.
        favoured: keys of the curated samples to show, shape (m, 2): here they get their places.
        advance: called after every file, in both passes.
    """
    random = occupancy.RandomDraw(sizes, draw, config.seed)
    few = shown.Smallest(SHOWN, chance.salt(config.seed, chance.Purpose.SHOWN))
    curated = shown.Smallest(SHOWN, chance.salt(config.seed, chance.Purpose.SHOWN))
    found = 0
    for file in files:
        part = part_index(file)
        keys = keys_in(store.read_table(file, columns=["key"])["key"])
        random.first_pass(keys)
        few.offer(part, keys)
        places = shown.locate(favoured, keys)
        curated.offer(part, keys[places], places)
        found += len(keys)
        advance()
    if found != sizes.sum():
        raise RunError(
            f"the tree counts {sizes.sum():,} samples and its assignments {found:,}: run `cluster` again"
        )
    for file in files:
        table = store.read_table(file, columns=["key", "cluster"])
        random.second_pass(keys_in(table["key"]), table.column("cluster").to_numpy())
        advance()
    return random.counts(), [few.rows, curated.rows]
