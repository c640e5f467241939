"""How soon does k-means come as far as the others do, and how far does it come?

    python -m benchmarks.kmeans [--cases A,B] [--methods ours,faiss] [--threads 1,2] [--seeds 3]

Cells are (case, threads, method, seed), each in a process of its own after a small fit that warms it
up. The clock runs for the training alone; the objective is the mean squared distance to the nearest
final centroid, computed by one function for everyone. Ours is also judged after each iteration, the
clock stopped meanwhile: what counts is when it first comes to a rival's final objective. Claims are
about medians over seeds. The table takes hours; finished cells are kept, and a rerun goes on.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from collections.abc import Iterator, Sequence
from statistics import median
from typing import Any

from joblib import Memory
from threadpoolctl import threadpool_limits

from benchmarks import cells
from benchmarks.cases import CASES, named
from benchmarks.cells import Cell
from benchmarks.objective import mean_squared_distance
from benchmarks.rivals import GREEDY, METHODS, OURS, STRETCH, Stopwatch
from benchmarks.tables import Verdict, conclude, table

RACES = ("A", "B", "C")
FACTORS = {("A", "faiss"): 5.0, ("B", "faiss"): 5.0}  # how many times sooner; once, for the others
QUALITY = {"noise": 1.002}  # the final objective over the reference's, at most; 1.001 for the others
WARM_UP = (20_000, 1200)  # rows and clusters: enough that everyone takes the path of a large fit

Group = tuple[str, int, str]
Found = dict[int, dict[str, Any]]


def measure(case: str, threads: int, method: str, seed: int) -> dict[str, Any]:
    """Trains a method on a case: seconds, CPU seconds, objective, iterations, and the curve of ours."""
    chosen = named(case)
    rows, _ = chosen.load()
    train = METHODS[method].train
    warm_rows, warm_clusters = WARM_UP
    train(rows[:warm_rows], min(warm_clusters, chosen.n_clusters), seed, threads, Stopwatch())

    busy, watch = time.process_time(), Stopwatch()
    trained = train(rows, chosen.n_clusters, seed, threads, watch)
    seconds, busy = watch.seconds, time.process_time() - busy

    # ours comes to the same centroids with one thread and with two: to judge them again would take minutes
    judge = Memory(cells.RESULTS / "objectives", verbose=0).cache(mean_squared_distance)
    with threadpool_limits(os.cpu_count()):  # the clock has stopped
        objective = mean_squared_distance(rows, trained.centroids)
        curve = [(when, judge(rows, centroids)) for when, centroids in trained.curve]
    return {
        "seconds": seconds,
        "cpu_seconds": busy,
        "objective": objective,
        "n_clusters": len(trained.centroids),
        "n_iter": trained.n_iter,
        "curve": curve,
    }


def plan(asked: argparse.Namespace) -> Iterator[Cell]:
    """The cells in order: a seed after the other, cheap cases first, methods side by side."""
    for seed in range(asked.seeds):
        for case in (named(name) for name in asked.cases or CASES):
            raced = case.name in RACES
            for threads in asked.threads:
                for method in asked.methods or (METHODS if raced else (OURS, GREEDY)):
                    most = threads == max(asked.threads)
                    if (method == GREEDY or not (raced or asked.methods)) and not most:
                        continue  # quality does not depend on threads
                    if METHODS[method].slow and case.rows > 100_000 and not asked.slow:
                        continue
                    name = case.small().name if asked.small else case.name
                    key = {"case": name, "threads": threads, "method": method, "seed": seed}
                    yield Cell(key, METHODS[method].package)


def reached(run: dict[str, Any], objective: float) -> float:
    """Seconds after which a run of ours had come to an objective; infinite if it never had."""
    curve = [*run["curve"], (run["seconds"], run["objective"])]
    return next((seconds for seconds, value in curve if value <= objective), math.inf)


def races(groups: dict[Group, Found]) -> tuple[list[list[str]], list[Verdict]]:
    """Rows of the table of races, and the claims on them."""
    rows, verdicts = [], []
    for (case, threads, method), theirs in groups.items():
        us = groups.get((case, threads, OURS), {})
        paired = sorted(set(us) & set(theirs))
        if method in (OURS, GREEDY) or not paired:
            continue
        seconds = median(theirs[seed]["seconds"] for seed in paired)
        objective = median(theirs[seed]["objective"] for seed in paired)
        ours = median(reached(us[seed], theirs[seed]["objective"]) for seed in paired)
        factor = FACTORS.get((case.partition("/")[0], method), 1.0)
        # superkmeans at its defaults is a stretch: shown, not claimed
        holds = (
            None
            if method == STRETCH
            else seconds / ours > factor
            if factor == 1
            else seconds / ours >= factor
        )
        word = {True: "yes", False: "NO", None: "stretch"}[holds]
        shown = ["never", "0"] if math.isinf(ours) else [f"{ours:.2f}", f"{seconds / ours:.1f}"]
        rows.append(
            [
                f"{case} x{threads} {method}",
                str(len(paired)),
                f"{seconds:.2f}",
                f"{objective:.5f}",
                *shown,
                word,
            ]
        )
        claim = f"{case}, {threads} thread(s): "
        claim += f"sooner than {method}" if factor == 1 else f"at least {factor:g}x sooner than {method}"
        if method != STRETCH:
            verdicts.append(Verdict(claim, holds, f"{shown[1]}x, median of {len(paired)}"))
    return rows, verdicts


def qualities(groups: dict[Group, Found]) -> tuple[list[list[str]], list[Verdict]]:
    """Rows of the table of final objectives, and the claims on them."""
    rows, verdicts = [], []
    for (case, threads, method), reference in groups.items():
        us = groups.get((case, threads, OURS), {})
        paired = sorted(set(us) & set(reference))
        if method != GREEDY or not paired:
            continue
        goals, finals = ([runs[seed]["objective"] for seed in paired] for runs in (reference, us))
        ratio, limit = median(finals) / median(goals), QUALITY.get(case.partition("/")[0], 1.001)
        seconds = [f"{median(runs[seed]['seconds'] for seed in paired):.2f}" for runs in (us, reference)]
        iterations = f"{median(us[seed]['n_iter'] for seed in paired):g}"
        values = [seconds[0], f"{median(finals):.5f}", seconds[1], f"{median(goals):.5f}", f"{ratio:.5f}"]
        rows.append([f"{case} x{threads}", str(len(paired)), iterations, *values])
        claim = f"{case}: final objective at most {limit:g}x that of greedy k-means++ and 50 iterations"
        verdicts.append(Verdict(claim, ratio <= limit, f"{ratio:.5f}x, median of {len(paired)}"))
    return rows, verdicts


def report(lines: Sequence[dict[str, Any]], claims: bool) -> int:
    """Prints the tables and the verdicts; returns the exit code."""
    groups: dict[Group, Found] = {}
    for line in lines:
        key = line["cell"]
        groups.setdefault((key["case"], key["threads"], key["method"]), {})[key["seed"]] = line["found"]
    order = {name: place for place, name in enumerate(METHODS)}
    cases = {name: place for place, name in enumerate(CASES)}
    groups = dict(
        sorted(groups.items(), key=lambda g: (cases[g[0][0].partition("/")[0]], g[0][1], order[g[0][2]]))
    )
    print("kmeans: time to a rival's final objective, and the final objective; medians over seeds")
    print(cells.described(lines) + "\n")
    raced, verdicts = races(groups)
    headers = ["case, threads, rival", "seeds", "its s", "its objective", "ours there, s", "times sooner", ""]
    print(table(headers, raced) + "\n")
    final, more = qualities(groups)
    headers = ["case, threads", "seeds", "iterations", "ours, s", "ours", "greedy, s", "greedy", "ratio"]
    print(table(headers, final))
    return conclude(verdicts + more) if claims else 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this benchmark."""
    parser.add_argument("--cases", type=cells.names, help=f"of {', '.join(CASES)}")
    parser.add_argument("--methods", type=cells.names, help=f"of {', '.join(METHODS)}")
    parser.add_argument("--slow", action="store_true", help="scikit-learn's Lloyd on B and C, too")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the cells that are missing and prints the tables; returns 1 where a claim or a cell failed."""
    parser = cells.parser("kmeans", __doc__)
    add_arguments(parser)
    asked = parser.parse_args(arguments)
    for name, known in ((asked.cases, CASES), (asked.methods, METHODS)):
        if unknown := set(name or ()) - set(known):
            parser.error(f"there is no {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    return cells.main(asked, measure, plan, report)


if __name__ == "__main__":
    sys.exit(main())
