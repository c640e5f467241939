"""Do two point shards halve the time? A whole fit on Ray by one shard and by two, a core each.

    python -m benchmarks.shards [--rows 1000000] [--clusters 5000] [--turns 1]

The pool is the long tail of Gaussian clusters of case A, in 256 dimensions. The clock runs from when the
shards hold their points to the exact labels of all of them. Claims: at least 1.7 times as fast, and the
same centroids to the last bit.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray

from benchmarks.cases import mixture
from benchmarks.tables import Verdict, conclude, environment, table
from curation.chance import keys_of
from curation.descent import Plan, View
from curation.exact import Grid
from curation.fit import directions_of, fit_centroids, labelled, settled
from curation.points import EVERYTHING
from curation.shards import RayWorkers

WIDTH = 256
LEAST = 1.7
_BLOCK = 100_000  # rows generated at a time


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


def write_pool(path: Path, rows: int) -> None:
    """A pool on the grid, as one .npy file; blocks of it share their components."""
    out = np.lib.format.open_memmap(path, "w+", np.float32, (rows, WIDTH))
    made = Grid(0).encode(mixture(rows, WIDTH, 1)[0])
    out[:] = made
    out.flush()


def measure(path: Path, rows: int, n_clusters: int, shards: int) -> tuple[float, int, NDArray[np.float32]]:
    """Seconds of a fit by so many shards, its iterations, and its centroids."""
    edges = [rows * i // shards for i in range(shards + 1)]
    workers = RayWorkers([Share(str(path), edges[i], edges[i + 1]) for i in range(shards)], shards)
    try:
        warm_up(workers)
        began = time.perf_counter()
        directions = directions_of(workers, (0, 1))
        view = View(workers, EVERYTHING, rows, (0, 1, 0), directions)
        fit = fit_centroids(view, n_clusters, Plan())
        own = labelled(view, fit.slices, fit.n_clusters, exactly=True)
        slices = settled(workers, own, fit.slices)[0]
        found = np.concatenate(workers.get(slices))
        return time.perf_counter() - began, fit.n_iter, found
    finally:
        workers.close()


def warm_up(workers: RayWorkers) -> None:
    """Waits for the shards to hold their points, and for the compiled loops to be there."""
    workers.get(workers.points("describe"))


def main(arguments: list[str] | None = None) -> int:
    """Prints the table; 1 where a claim fails."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.shards", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--clusters", type=int, default=5000)
    parser.add_argument("--turns", type=int, default=1)
    asked = parser.parse_args(arguments)
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    seconds: dict[int, list[float]] = {1: [], 2: []}
    centroids: list[Any] = []
    iterations = 0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pool.npy"
        write_pool(path, asked.rows)
        for _ in range(asked.turns):
            for shards in (1, 2):
                took, iterations, found = measure(path, asked.rows, asked.clusters, shards)
                seconds[shards].append(took)
                centroids.append(found)
    ray.shutdown()
    print(f"shards: one fit of {asked.rows:,} x {WIDTH}, k = {asked.clusters:,}, {iterations} iterations")
    print(environment())
    print()
    speedup = median(seconds[1]) / median(seconds[2])
    rows = [[str(shards), f"{median(took):.1f}"] for shards, took in seconds.items()]
    print(table(["point shards", "seconds"], rows))
    same = all(np.array_equal(found, centroids[0]) for found in centroids)
    return conclude(
        [
            Verdict(
                f"two shards are at least {LEAST} times as fast", speedup >= LEAST, f"{speedup:.2f} times"
            ),
            Verdict("the same centroids", same, "bit for bit" if same else "they differ"),
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
