"""The 2-D experiment of the paper: how evenly do the top level's centroids cover the support?

The pool: 7,000 + 1,000 + 500 points of three Gaussians and 500 of a uniform background on [-3, 3]^2.
The measure: KL(density of the 300 top centroids || uniform), the density a Gaussian kernel estimate
(bandwidth 0.5) on the grid [-3, 3)^2 at step 0.02, renormalised there.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from benchmarks.tables import Verdict, at_most, below, conclude, environment, shown, table
from curation import HierarchicalKMeans

TOP = 300
LIMIT = 0.05


@dataclass(frozen=True)
class Method:
    """A row of the table: what to grow, and what others measured for it."""

    name: str
    n_clusters: tuple[int, ...]
    authors: str
    reference: str
    resample: Literal["closest", "random"] | None = None


METHODS = (
    Method("1 level [300]", (300,), ".340", ".348 / .353"),
    Method("2 levels [1500, 300]", (1500, 300), ".132", ".156 / .147"),
    Method("3 levels [3000, 1000, 300]", (3000, 1000, 300), ".081", ".104 / .106"),
    Method("3 levels, resampling random", (3000, 1000, 300), "", ".046 / .042", "random"),
    Method("3 levels, resampling closest", (3000, 1000, 300), ".042", ".050 / .047", "closest"),
)


def points(seed: int) -> NDArray[np.float32]:
    """The pool (9000, 2)."""
    random = np.random.default_rng(seed)
    gaussians = [((-1, -1), 7000), ((1, -1), 1000), ((0, 1), 500)]
    parts = [random.normal(mean, 0.5, (count, 2)) for mean, count in gaussians]
    return np.concatenate([*parts, random.uniform(-3, 3, (500, 2))]).astype(np.float32)


def kl_to_uniform(centres: NDArray[Any], bandwidth: float = 0.5, step: float = 0.02) -> float:
    """KL(kernel density of centres (n, 2) || uniform) on [-3, 3)^2, in nats."""
    axis = -3 + step * np.arange(round(6 / step))
    # the kernel is a product of two, so the density on the grid is one matrix product
    across, along = (
        np.exp(-0.5 * ((axis[:, None] - centres[:, i].astype(np.float64)) / bandwidth) ** 2) for i in (0, 1)
    )
    density = across @ along.T
    density /= density.sum()
    held = density[density > 0]
    return float((held * np.log(held * density.size)).sum())


def measure(method: Method, seed: int) -> float:
    """KL of a method's top centroids on the pool of a seed."""
    clustering = HierarchicalKMeans(
        method.n_clusters,
        resample_steps=10 if method.resample else 0,
        resample_points=[2] * len(method.n_clusters),
        resample_strategy=method.resample or "closest",
        random_state=seed,
    ).fit(points(seed))
    centroids = clustering.tree_.levels[-1].centroids
    assert centroids is not None  # grown in memory
    return kl_to_uniform(centroids)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the experiment; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.toy2d", description=__doc__)
    parser.add_argument("--seeds", type=int, default=5, help="runs; a run's seed is its data's too")
    seeds = range(parser.parse_args(arguments).seeds)

    runs: dict[str, list[float]] = {"the data": [kl_to_uniform(points(seed)) for seed in seeds]}
    rows = [["the data", shown(runs["the data"]), ".942", "", ""]]
    for method in METHODS:
        start = time.perf_counter()
        runs[method.name] = [measure(method, seed) for seed in seeds]
        seconds = (time.perf_counter() - start) / len(seeds)
        rows.append(
            [method.name, shown(runs[method.name]), method.authors, method.reference, f"{seconds:.1f}"]
        )
    uniform = [np.random.default_rng(seed).uniform(-3, 3, (TOP, 2)) for seed in seeds]
    runs["floor"] = [kl_to_uniform(each) for each in uniform]
    rows.append([f"{TOP} uniform points (floor)", shown(runs["floor"]), ".040", "", ""])

    print(f"toy2d: KL(density of {TOP} top centroids || uniform), {len(seeds)} seeds, mean +- standard error")
    print(environment() + "\n")
    print(table(["", "ours", "authors", "reference code, 2 seeds", "s a run"], rows))
    one, two, three, _, last = (method.name for method in METHODS)
    falling = [last, three, two, one, "the data"]
    verdicts: list[Verdict] = [
        below(low, runs[low], high, runs[high]) for low, high in itertools.pairwise(falling)
    ]
    verdicts.append(at_most(last, runs[last], LIMIT, "asked for"))
    return conclude(verdicts)


if __name__ == "__main__":
    sys.exit(main())
