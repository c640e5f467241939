"""Zador's law in one dimension: the density of centroids is p^(1/3) after one level, p^(1/9) after two.

The pool: Gaussians cut to three intervals (points outside are dropped), 243,000 points; k = [5000, 500].
The slope is a least-squares line of log centroid density on log data density over 100 equal bins of
[-14, 23], taking bins with at least 20 centroids at level 1 and 5 at level 2: a sparse bin that
happens to hold a centroid is a bin selected for holding one, and bends the line.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from benchmarks.tables import conclude, environment, near, shown, table
from curation import HierarchicalKMeans

N_CLUSTERS = (5000, 500)
LEAST = (20, 5)  # centroids a bin
TOLERANCE = 0.05
_EDGES = np.linspace(-14, 23, 101)
_PARTS = (  # (points, mean, standard deviation) of Gaussians, cut to an interval
    (((60_000, 2, 1.0), (30_000, 5, 0.8), (40_000, 9, 2.0)), (0, 12)),
    (((90_000, 20, 1.0),), (17, 23)),
    (((30_000, -10, 2.0),), (-14, -7)),
)


def points(seed: int) -> NDArray[np.float64]:
    """The pool (n,)."""
    random = np.random.default_rng(seed)
    kept = []
    for gaussians, (low, high) in _PARTS:
        drawn = np.concatenate([random.normal(mean, spread, count) for count, mean, spread in gaussians])
        kept.append(drawn[(drawn >= low) & (drawn <= high)])
    return np.concatenate(kept)


def slope(data: ArrayLike, centroids: ArrayLike, least: int, edges: ArrayLike = _EDGES) -> float:
    """Slope of log centroid density on log data density over the bins with enough centroids.

    Densities may stay counts here: the bins are equally wide, and factors only shift the line.

    Args:
        data: Points (n,).
        centroids: Their centroids (k,).
        least: Least centroids of a bin.
        edges: Edges of the bins, equally wide.
    """
    of_data, of_centroids = (np.histogram(values, edges)[0] for values in (data, centroids))
    used = (of_centroids >= least) & (of_data > 0)
    return float(np.polyfit(np.log(of_data[used]), np.log(of_centroids[used]), 1)[0])


def measure(seed: int) -> list[tuple[float, float]]:
    """For each level the slope over the bins with enough centroids, and over all with any."""
    pool = points(seed)
    tree = HierarchicalKMeans(N_CLUSTERS, random_state=seed).fit(pool[:, None]).tree_
    slopes = []
    for level, least in zip(tree.levels, LEAST, strict=True):
        assert level.centroids is not None  # grown in memory
        centroids = level.centroids[:, 0]
        slopes.append((slope(pool, centroids, least), slope(pool, centroids, 1)))
    print(f"seed {seed}: slopes {slopes[0][0]:.4f}, {slopes[1][0]:.4f}", file=sys.stderr, flush=True)
    return slopes


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the experiment; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.zador1d", description=__doc__)
    parser.add_argument("--seeds", type=int, default=5, help="runs; a run's seed is its data's too")
    seeds = parser.parse_args(arguments).seeds

    start = time.perf_counter()
    runs = np.array([measure(seed) for seed in range(seeds)])
    seconds = (time.perf_counter() - start) / seeds
    rows = [
        [name, shown(runs[:, level, 0]), law, shown(runs[:, level, 1]), all_bins]
        for level, (name, law, all_bins) in enumerate(
            (("level 1 [5000]", "1/3 = .333", ".47"), ("level 2 [5000, 500]", "1/9 = .111", ".27"))
        )
    ]
    print(f"zador1d: slope of centroid density, {seeds} seeds, mean +- standard error; {seconds:.0f} s a run")
    print(environment() + "\n")
    print(table(["", "ours", "Zador's law", "ours, all bins", "reference, all bins"], rows))
    return conclude(
        [
            near("slope of one level", runs[:, 0, 0], 1 / 3, TOLERANCE),
            near("slope of two levels", runs[:, 1, 0], 1 / 9, TOLERANCE),
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
