"""Do two point shards halve the time? A whole fit on Ray by one shard and by two, a core each.

    python -m benchmarks.shards [--rows 1000000] [--clusters 5000] [--seeds 3]

The pool is the long tail of Gaussian clusters of case A, in 256 dimensions. The clock runs from when the
shards hold their points to the exact labels of all of them. Claims: at least 1.7 times as fast, and the
same centroids to the last bit.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray

from benchmarks import cells
from benchmarks.cases import mixture
from benchmarks.cells import Cell
from benchmarks.tables import Verdict, conclude, table
from curation.chance import keys_of
from curation.descent import Plan, View
from curation.exact import Grid
from curation.fit import directions_of, fit_centroids, labelled, without_empty
from curation.points import EVERYTHING
from curation.shards import RayWorkers

WIDTH = 256
LEAST = 1.7
_SMALL = 50  # times fewer points and clusters in a trial run


@dataclass(frozen=True)
class Share:
    """Reads rows low..high-1 of the pool's file."""

    path: str
    low: int
    high: int

    def __call__(self) -> tuple[NDArray[np.float32], NDArray[np.uint64]]:
        """The rows and their keys."""
        rows = np.load(self.path, mmap_mode="r")[self.low : self.high]
        return np.array(rows), keys_of(str(i) for i in range(self.low, self.high))


def measure(rows: int, clusters: int, shards: int, threads: int, seed: int) -> dict[str, Any]:
    """A fit by so many shards: seconds, iterations, and a digest of its centroids."""
    edges = [rows * i // shards for i in range(shards + 1)]
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pool.npy"
        np.save(path, Grid(0).encode(mixture(rows, WIDTH, seed)[0]))
        shares = [Share(str(path), low, high) for low, high in itertools.pairwise(edges)]
        workers = RayWorkers(shares, shards)
        workers.ask("describe")  # they hold their points then, and the compiled loops are there
        start = time.perf_counter()
        view = View(workers, EVERYTHING, rows, (seed, 1, 0), directions_of(workers, (seed, 1)))
        fit = fit_centroids(view, clusters, Plan())
        own = labelled(view, fit.slices, fit.n_clusters, exactly=True)
        centroids = np.concatenate(workers.get(without_empty(workers, own, fit.slices)[0]))
        seconds = time.perf_counter() - start
        workers.close()
    ray.shutdown()
    return {"seconds": seconds, "n_iter": fit.n_iter, "digest": hashlib.blake2b(centroids.data).hexdigest()}


def plan(asked: argparse.Namespace) -> Iterator[Cell]:
    """The cells: a seed after the other, one shard and two side by side."""
    by = _SMALL if asked.small else 1
    for seed in range(asked.seeds):
        for shards in (1, 2):
            for threads in asked.threads:
                key = {"rows": asked.rows // by, "clusters": asked.clusters // by, "shards": shards}
                yield Cell(key | {"threads": threads, "seed": seed}, "curation")


def report(lines: Sequence[dict[str, Any]], claims: bool) -> int:
    """Prints the table and the verdicts; returns the exit code."""
    groups: dict[tuple[int, int, int], dict[int, dict[int, dict[str, Any]]]] = {}
    for line in lines:
        key = line["cell"]
        group = groups.setdefault((key["rows"], key["clusters"], key["threads"]), {})
        group.setdefault(key["shards"], {})[key["seed"]] = line["found"]
    rows, verdicts = [], []
    for (n, k, threads), group in sorted(groups.items()):
        name = f"{n:,} x {WIDTH}, k = {k:,}, {threads} thread(s) a shard"
        for shards, runs in sorted(group.items()):
            numbers = [f"{median(run[what] for run in runs.values()):g}" for what in ("n_iter", "seconds")]
            rows.append([f"{name}, {shards} shard(s)", str(len(runs)), *numbers])
        verdicts += judge(name, group.get(1, {}), group.get(2, {}))
    print("shards: a fit on Ray by one point shard and by two; medians over seeds")
    print(cells.described(lines) + "\n")
    print(table(["", "seeds", "iterations", "seconds"], rows))
    return conclude(verdicts) if claims else 0


def judge(name: str, one: dict[int, dict[str, Any]], two: dict[int, dict[str, Any]]) -> list[Verdict]:
    """The claims on the runs by one shard and by two, by seed."""
    if not (paired := sorted(set(one) & set(two))):
        return []
    times = median(one[seed]["seconds"] / two[seed]["seconds"] for seed in paired)
    same = all(one[seed]["digest"] == two[seed]["digest"] for seed in paired)
    return [
        Verdict(
            f"{name}: two shards are at least {LEAST} times as fast", times >= LEAST, f"{times:.2f} times"
        ),
        Verdict(f"{name}: the same centroids", same, "bit for bit" if same else "they differ"),
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the cells that are missing and prints the table; returns 1 where a claim or a cell failed."""
    parser = cells.parser("shards", __doc__, threads="1")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--clusters", type=int, default=5000)
    asked = parser.parse_args(arguments)
    return cells.main(asked, measure, plan, report)


if __name__ == "__main__":
    sys.exit(main())
