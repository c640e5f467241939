"""The whole method, levels and resampling: how long does it take, and how well does it spread?

    python -m benchmarks.hierarchical [--sizes 20000,50000,100000] [--seeds 3] [--slow]

Beside pt-kmeans' `hierarchical_kmeans(method="resampled")`, told the same: clusters a level, points of
each cluster that resampling takes, ten steps. Two kinds of pools:

- the long tail of Gaussian clusters of case A, 256 dimensions, [n/20, n/100] clusters, 10 and 3 points;
  its measure is how many of the 2,000 components are the most common one of some leaf;
- the 2-D toy of benchmarks/toy2d.py with three levels; its measure is KL(density || uniform).

A run's seed is its data's, too. The KL of one tree of the toy varies by an eighth, so it has twenty seeds.
pt-kmeans takes minutes at 50,000 points, and four times as long at twice as many (clusters grow with the
points); it runs at 100,000 and more with --slow, of which the largest size is where the factor is claimed.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import mean, median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import cells
from benchmarks.cases import mixture
from benchmarks.cells import Cell
from benchmarks.tables import Verdict, at_most, conclude, table
from benchmarks.toy2d import kl_to_uniform, points
from curation import HierarchicalKMeans

STEPS = 10
WHOLE, WHOLE_SECONDS = 100_000, 40.0
TOY, TOY_SECONDS, TOY_KL, TOY_SEEDS = 9000, 10.0, 0.05, 20
FACTOR = 50.0
EQUAL = 0.01  # of the other one's measure, by which ours may be worse and still count as equal
OURS, THEIRS = "ours", "pt-kmeans"

Group = tuple[str, int, int, str]


@dataclass(frozen=True)
class Work:
    """What to grow: clusters a level, and points that resampling takes of each."""

    n_clusters: list[int]
    resample_points: list[int]


@dataclass(frozen=True)
class Grown:
    """What was grown: the leaf (n,) of each row, and the top level's centroids (k, d)."""

    leaves: NDArray[Any]
    top: NDArray[Any]


def work(pool: str, n: int) -> Work:
    """What to grow over a pool of n points."""
    if pool == "toy":
        return Work([n // 3, n // 9, n // 30], [2, 2, 2])
    return Work([n // 20, n // 100], [10, 3])


def ours(rows: NDArray[np.float32], asked: Work, seed: int) -> Grown:
    """This project's method."""
    fitted = HierarchicalKMeans(
        asked.n_clusters, resample_steps=STEPS, resample_points=asked.resample_points, random_state=seed
    ).fit(rows)
    top = fitted.tree_.levels[-1].centroids
    assert top is not None  # grown in memory
    return Grown(fitted.labels_, top)


def pt_kmeans(rows: NDArray[np.float32], asked: Work, seed: int) -> Grown:
    """The package pt-kmeans: greedy k-means++, at most 50 iterations as in the paper, its own tolerance."""
    import torch
    from pt_kmeans import hierarchical_kmeans

    levels = hierarchical_kmeans(
        torch.from_numpy(rows),
        asked.n_clusters,
        method="resampled",
        n_samples=asked.resample_points,
        n_resamples=STEPS,
        max_iters=50,
        random_seed=seed,
    )
    return Grown(levels[0]["assignment"].numpy(), levels[-1]["centers"].numpy())


METHODS: dict[str, Callable[[NDArray[np.float32], Work, int], Grown]] = {OURS: ours, THEIRS: pt_kmeans}
PACKAGES = {OURS: "curation", THEIRS: "pt_kmeans"}


def covered(leaves: NDArray[Any], components: NDArray[np.int32]) -> int:
    """Components that are the most common one of some leaf; the lower number of two as common."""
    pairs, counts = np.unique(np.stack([leaves, components]), axis=1, return_counts=True)
    order = np.lexsort((pairs[1], -counts, pairs[0]))
    firsts = order[np.flatnonzero(np.diff(pairs[0][order], prepend=-1))]
    return len(np.unique(pairs[1][firsts]))


def measure(pool: str, n: int, threads: int, method: str, seed: int) -> dict[str, Any]:
    """Grows a tree, after a small one that warms up: seconds, and the pool's measure."""
    if pool == "toy":
        rows, components = points(seed)[:: TOY // n], None
    else:
        rows, components = mixture(n, 256, seed)
    METHODS[method](rows[:1000], work(pool, 1000), seed)
    start, busy = time.perf_counter(), time.process_time()
    grown = METHODS[method](rows, work(pool, n), seed)
    found: dict[str, Any] = {"seconds": time.perf_counter() - start}
    found["cpu_seconds"] = time.process_time() - busy
    if components is None:
        return found | {"kl": kl_to_uniform(grown.top)}
    return found | {"covered": covered(grown.leaves, components)}


def plan(asked: argparse.Namespace) -> Iterator[Cell]:
    """The cells in order: a seed after the other, small pools first, methods side by side."""
    pools = [("toy", 900 if asked.small else TOY), *(("mixture", size) for size in sorted(asked.sizes))]
    for seed in range(max(asked.seeds, TOY_SEEDS)):
        for pool, n in pools:
            if seed >= asked.seeds and (pool != "toy" or asked.small):
                continue
            for threads in asked.threads:
                for method in METHODS:
                    if method == THEIRS and pool != "toy" and n >= WHOLE and not asked.slow:
                        continue
                    key = {"pool": pool, "n": n, "threads": threads, "method": method, "seed": seed}
                    yield Cell(key, PACKAGES[method])


def report(lines: Sequence[dict[str, Any]], claims: bool) -> int:
    """Prints the table and the verdicts; returns the exit code."""
    groups: dict[Group, dict[int, dict[str, Any]]] = {}
    for line in lines:
        key = line["cell"]
        group = (key["pool"], key["n"], key["threads"], key["method"])
        groups.setdefault(group, {})[key["seed"]] = line["found"]
    print(f"hierarchical: levels with {STEPS} resampling steps; median seconds, mean measure")
    print(cells.described(lines) + "\n")
    rows = []
    for (pool, n, threads, method), runs in sorted(groups.items()):
        levels = work(pool, n).n_clusters
        measures = [
            mean(run[name] for run in runs.values()) if name in next(iter(runs.values())) else None
            for name in ("covered", "kl")
        ]
        shown = ["" if value is None else f"{value:.4g}" for value in measures]
        seconds = f"{median(run['seconds'] for run in runs.values()):.2f}"
        name = f"{pool}, n = {n}, k = {levels}, {threads} thread(s), {method}"
        rows.append([name, str(len(runs)), seconds, *shown])
    print(table(["", "seeds", "seconds", "components covered", "KL"], rows))
    return conclude(judge(groups)) if claims else 0


def judge(groups: dict[Group, dict[int, dict[str, Any]]]) -> list[Verdict]:
    """The claims on what was measured."""
    verdicts = []
    largest = max((n for pool, n, _, method in groups if (pool, method) == ("mixture", THEIRS)), default=0)
    for (pool, n, threads, method), us in sorted(groups.items()):
        if method != OURS:
            continue
        name = f"{pool}, n = {n}, {threads} thread(s)"
        seconds = median(run["seconds"] for run in us.values())
        limit = {("mixture", WHOLE): WHOLE_SECONDS, ("toy", TOY): TOY_SECONDS}.get((pool, n))
        if limit is not None and threads > 1:
            verdicts.append(Verdict(f"{name}: at most {limit:g} s", seconds <= limit, f"{seconds:.2f} s"))
        if pool == "toy":
            verdicts.append(at_most(f"{name}: KL", [run["kl"] for run in us.values()], TOY_KL, "asked for"))
        them = groups.get((pool, n, threads, THEIRS), {})
        if not (paired := sorted(set(us) & set(them))):
            continue
        if (pool, n) == ("mixture", largest):
            times = median(them[seed]["seconds"] / us[seed]["seconds"] for seed in paired)
            claim = f"{name}: at least {FACTOR:g}x faster than {THEIRS}"
            verdicts.append(Verdict(claim, times >= FACTOR, f"{times:.1f}x"))
        measure = "kl" if pool == "toy" else "covered"
        ours, theirs = (mean(runs[seed][measure] for seed in paired) for runs in (us, them))
        worse = ours / theirs - 1 if pool == "toy" else 1 - ours / theirs
        claim = f"{name}: {measure} equal to that of {THEIRS} or better, within {EQUAL:.0%}"
        verdicts.append(Verdict(claim, worse <= EQUAL, f"{ours:.4g} against {theirs:.4g}"))
    return verdicts


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this benchmark."""
    parser.add_argument(
        "--sizes", type=cells.numbers, default="20000,50000,100000", help="points of mixtures"
    )
    parser.add_argument("--slow", action="store_true", help=f"{THEIRS} at {WHOLE} points, too")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the cells that are missing and prints the table; returns 1 where a claim or a cell failed."""
    parser = cells.parser("hierarchical", __doc__, threads="2")
    add_arguments(parser)
    asked = parser.parse_args(arguments)
    if asked.small:
        asked.sizes = [2000]
    return cells.main(asked, measure, plan, report)


if __name__ == "__main__":
    sys.exit(main())
