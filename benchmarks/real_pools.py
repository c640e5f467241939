"""Real pools, thinned to a long tail: how even are the hidden classes of a 10 % draw?

CIFAR-10 (10 classes, features of ImageNet's MobileNetV2) and 20 Newsgroups (20 topics, headers
stripped, features of all-MiniLM-L6-v2), class sizes proportional to rank^-1.2. The measure is
KL(class || uniform). Levels have the ratios of the paper's 2-D experiment, a cluster for every 3, 9 and
30 samples, or with --levels auto those that the product chooses for a pool of that size; nothing is
tuned to a pool or a seed. "Flat" draws evenly from one level of clusters: the leaves that the hierarchy
has, which is the better baseline and the one claimed, or as many as its top has, as test C's.

A run's seed is that of clustering and draws. With --thinnings 1 all runs share a pool; with more, run
i has pool i modulo that many, another ranking of the classes each, embedded anew.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.draws import flat_top_draw, random_draw, trees
from benchmarks.features import LabelledPool, MissingDataError, cifar10, newsgroups
from benchmarks.tables import Verdict, below, conclude, environment, shown, table
from curation.balance import kl_to_uniform
from curation.chance import keys_of
from curation.levels import auto_clusters
from curation.recipe import Recipe
from curation.sampling import balanced_sample

SHARE = 0.1
STEPS = 10
POOLS = {"cifar10": cifar10, "newsgroups": newsgroups}

EVERYTHING = "the pool"
RANDOM = "random draw"
FLAT_FEW = "flat k-means, k = top level's"
FLAT = "flat k-means, k = leaves"
FLAT_TOP = "hierarchy, flat-top"
HIERARCHICAL = "hierarchical"
RESAMPLED = "hierarchical, + resampling"
METHODS = (EVERYTHING, RANDOM, FLAT_FEW, FLAT, FLAT_TOP, HIERARCHICAL, RESAMPLED)


def paper_clusters(n_points: int) -> list[int]:
    """Levels of a pool in the ratios of the paper's 2-D experiment, [3000, 1000, 300] of 9,000 points."""
    return [n_points // 3, n_points // 9, n_points // 30]


LEVELS = {"paper": paper_clusters, "auto": auto_clusters}


def measure(pool: LabelledPool, levels: Sequence[int], seed: int) -> dict[str, float]:
    """KL(class || uniform) of every method's draw from a pool."""
    size = round(SHARE * len(pool.ids))
    plain, resampled, leaves = trees(
        pool.embeddings,
        [
            Recipe(levels, random_state=seed),
            Recipe(levels, random_state=seed, resample_steps=STEPS),
            Recipe(levels[:1], random_state=seed),
        ],
        pool.ids,
    )
    (few,) = trees(pool.embeddings, [Recipe(levels[-1:], random_state=seed)], pool.ids)
    drawn = {
        EVERYTHING: np.arange(len(pool.ids)),
        RANDOM: random_draw(keys_of(pool.ids), size, seed),
        FLAT_FEW: balanced_sample(few, size, seed=seed),
        FLAT: balanced_sample(leaves, size, seed=seed),
        FLAT_TOP: flat_top_draw(plain, size, seed),
        HIERARCHICAL: balanced_sample(plain, size, seed=seed),
        RESAMPLED: balanced_sample(resampled, size, seed=seed),
    }
    return {
        name: kl_to_uniform(np.bincount(pool.classes[rows], minlength=pool.n_classes))
        for name, rows in drawn.items()
    }


def judge(name: str, runs: dict[str, list[float]]) -> list[Verdict]:
    """The claims about one pool."""
    verdicts = [
        below(low, runs[low], high, runs[high])
        for low, high in itertools.pairwise((HIERARCHICAL, FLAT, RANDOM))
    ]
    verdicts.append(below(HIERARCHICAL, runs[HIERARCHICAL], FLAT_FEW, runs[FLAT_FEW]))
    return [Verdict(f"{name}: {v.claim}", v.holds, v.evidence) for v in verdicts]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark; returns the exit code, 2 where the data is missing."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.real_pools", description=__doc__)
    parser.add_argument("--seeds", type=int, default=5, help="paired runs")
    parser.add_argument("--thinnings", type=int, default=1, help="different pools among the runs")
    parser.add_argument("--pools", nargs="+", choices=list(POOLS), default=list(POOLS))
    parser.add_argument("--levels", choices=list(LEVELS), default="paper", help="how levels are chosen")
    parser.add_argument("--most", type=int, default=5000, help="most samples of a pool")
    parser.add_argument(
        "--cache",
        type=Path,
        default=Path(tempfile.gettempdir()) / "evenset-features",
        help="folder of computed features, named by the content they are of",
    )
    asked = parser.parse_args(arguments)
    print(f"real_pools: KL(class || uniform) of a {SHARE:.0%} draw, {asked.seeds} paired seeds, ", end="")
    print(f"{asked.thinnings} thinning(s), mean +- standard error\n{environment()}")
    verdicts = []
    for name in asked.pools:
        runs: dict[str, list[float]] = {method: [] for method in METHODS}
        start = time.perf_counter()
        for seed in range(asked.seeds):
            try:
                pool = POOLS[name](asked.cache, seed % asked.thinnings, asked.most)
            except MissingDataError as error:
                print(error, file=sys.stderr)
                return 2
            levels = LEVELS[asked.levels](len(pool.ids))
            for method, value in measure(pool, levels, seed).items():
                runs[method].append(value)
        seconds = (time.perf_counter() - start) / asked.seeds
        shape = f"{len(pool.ids)} samples, {pool.n_classes} classes, {pool.embeddings.shape[1]} dimensions"
        print(f"\n{name}: {shape}, levels {levels}; {seconds:.0f} s a run, with features")
        print(table(["", "KL"], [[method, shown(runs[method])] for method in METHODS]))
        verdicts += judge(name, runs)
    return conclude(verdicts)


if __name__ == "__main__":
    sys.exit(main())
