"""Does `evenset plan` tell the truth? The time it estimates for clustering, beside what clustering takes.

    python -m benchmarks.estimate [--cases A,B] [--threads 1,2] [--seeds 3]

The cases are those of benchmarks/kmeans.py, one fit each, and the whole method of
benchmarks/hierarchical.py at 100,000 rows. The machine is measured for two seconds before the clock
starts, as a plan does. The claim is a factor of 1.5 either way, of medians. On noise, which has no
clusters to narrow down to, it is shown and not claimed.

When the engine changes, the constants of `curation.cost` are fitted again by this: the results file has
the seconds of each kind of work in the estimate of a fit, by which the part that is off is found.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from statistics import median
from typing import Any

from benchmarks import cells
from benchmarks.cases import CASES, mixture, named
from benchmarks.cells import Cell
from benchmarks.hierarchical import STEPS, WHOLE, work
from benchmarks.kmeans import WARM_UP
from benchmarks.tables import Verdict, conclude, table
from curation import HierarchicalKMeans, KMeans
from curation.assign import Assigner
from curation.cost import Crew, Rates, Work, fit_work, prepared_work, scan_work, seconds, tree_seconds
from curation.descent import Plan
from pipelines.calibration import measure as calibrated

WITHIN = 1.5
METHOD = "whole method"
UNCLAIMED = ("noise",)
_SMALL = 20


def measure(case: str, threads: int, seed: int) -> dict[str, Any]:
    """Estimates a case, then clusters it: both in seconds, and the parts of the estimate."""
    base, _, small = case.partition("/")
    assigner = Assigner(threads=threads)
    if base == METHOD:
        n = WHOLE // (_SMALL if small else 1)
        rows, _ = mixture(n, 256, seed)
        asked = work("mixture", n)
        grower = HierarchicalKMeans(
            asked.n_clusters,
            resample_steps=STEPS,
            resample_points=asked.resample_points,
            random_state=seed,
            assigner=assigner,
        )
        rates = calibrated(n, rows.shape[1], asked.n_clusters[0], threads)
        levels = tree_seconds(grower.recipe, n, rows.shape[1], rates, Crew(1, threads))
        found = {"estimated": sum(levels)} | {f"level {i}": part for i, part in enumerate(levels, start=1)}
        return found | _timed(grower, rows, threads)
    chosen = named(case)
    rows, _ = chosen.load()
    n, d, k = len(rows), chosen.width, chosen.n_clusters
    rates = calibrated(n, d, k, threads)
    todo = prepared_work(n) + fit_work(n, d, k, Plan()) + scan_work(n, k)
    fitter = KMeans(k, random_state=seed, assigner=assigner)
    found = {"estimated": seconds(todo, d, rates, Crew(1, threads))} | _parts(todo, d, rates)
    return found | _timed(fitter, rows, threads) | {"n_iter": fitter.n_iter_}


def _timed(fitter: Any, rows: Any, threads: int) -> dict[str, float]:
    warm_rows, warm_clusters = WARM_UP
    warm = KMeans(warm_clusters, max_iter=4, assigner=Assigner(threads=threads))
    warm.fit(rows[:warm_rows])
    start = time.perf_counter()
    fitter.fit(rows)
    return {"seconds": time.perf_counter() - start}


def _parts(todo: Work, d: int, rates: Rates) -> dict[str, float]:
    """Seconds of each kind of work, by which a constant that is off is found."""
    crew = Crew(1, rates.threads)
    kinds = ("scanned", "sketched", "restricted", "blocks", "updated", "between", "rounds")
    return {kind: seconds(Work(**{kind: getattr(todo, kind)}), d, rates, crew) for kind in kinds}


def plan(asked: argparse.Namespace) -> Iterator[Cell]:
    """The cells: a seed after the other, cheap cases first."""
    for seed in range(asked.seeds):
        for case in asked.cases or [*CASES, METHOD]:
            for threads in asked.threads:
                name = f"{case}/{_SMALL}" if asked.small else case
                yield Cell({"case": name, "threads": threads, "seed": seed}, "curation")


def report(lines: Sequence[dict[str, Any]], claims: bool) -> int:
    """Prints the table and the verdicts; returns the exit code."""
    groups: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for line in lines:
        groups.setdefault((line["cell"]["case"], line["cell"]["threads"]), []).append(line["found"])
    rows, verdicts = [], []
    for (case, threads), runs in sorted(groups.items()):
        estimated, took = (median(run[key] for run in runs) for key in ("estimated", "seconds"))
        ratio = estimated / took
        iterations = f"{median(run['n_iter'] for run in runs):g}" if "n_iter" in runs[0] else ""
        numbers = [f"{estimated:.2f}", f"{took:.2f}", f"{ratio:.2f}"]
        rows.append([f"{case} x{threads}", str(len(runs)), iterations, *numbers])
        if case.partition("/")[0] not in UNCLAIMED:
            claim = f"{case}, {threads} thread(s): the estimate is within a factor of {WITHIN:g}"
            evidence = f"{ratio:.2f}x, median of {len(runs)}"
            verdicts.append(Verdict(claim, 1 / WITHIN <= ratio <= WITHIN, evidence))
    print("estimate: seconds of clustering as planned, and as they were; medians over seeds")
    print(cells.described(lines) + "\n")
    print(table(["case, threads", "seeds", "iterations", "estimated", "took", "ratio"], rows))
    return conclude(verdicts) if claims else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the cells that are missing and prints the table; returns 1 where a claim or a cell failed."""
    parser = cells.parser("estimate", __doc__)
    known = [*CASES, METHOD]
    parser.add_argument("--cases", type=cells.names, help=f"of {', '.join(known)}")
    asked = parser.parse_args(arguments)
    if unknown := set(asked.cases or ()) - set(known):
        parser.error(f"there is no {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    return cells.main(asked, measure, plan, report)


if __name__ == "__main__":
    sys.exit(main())
