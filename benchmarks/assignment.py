"""What does exactness cost? One exact assignment against the bare float32 product that it rests on.

    python -m benchmarks.assignment [--threads 1,2] [--seeds 3]

The bare product takes the same route over the same tiles with the same threads, and leaves its output
in a buffer that stays in cache; ours adds the labels and the float64 recheck of close calls. Both run in
turn in one process, after a turn that warms them up. A cell is (d, k, threads, seed); rows and centroids
are drawn together from the long tail of Gaussian clusters of case A.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import cells
from benchmarks.cases import mixture
from benchmarks.cells import Cell
from benchmarks.tables import Verdict, conclude, table
from curation.assign import Assigner, Centroids
from curation.exact import Grid, squared_norms
from curation.kernels.cpu import route
from curation.kernels.threads import each

WIDTHS = (256, 384)
CLUSTERS = (1000, 5000, 20_000)
LIMIT = 1.10
TURNS = 5
_OPERATIONS = 2e11  # a turn: two seconds of one core


def bare_product(assigner: Assigner, rows: NDArray[np.float32], values: NDArray[np.float32]) -> None:
    """The products of `Assigner.nearest` alone: its tiles, route and threads, the output overwritten."""
    matmul = route(assigner.matmul, values.shape[1])
    step = assigner.tile_rows(len(values))
    starts = range(0, len(rows), step)

    def work(mine: Iterator[int]) -> None:
        scores = np.empty((step, len(values)), np.float32)
        for start in mine:
            block = rows[start : start + step]
            matmul(block, values.T, scores[: len(block)])

    each(assigner.n_threads, work, starts)


def measure(d: int, k: int, threads: int, seed: int, operations: float = _OPERATIONS) -> dict[str, Any]:
    """Medians over turns: seconds of the product and of the assignment, and their ratio."""
    n = max(1000, round(operations * threads / (2 * k * d)))
    drawn = Grid(0).encode(mixture(n + k, d, seed)[0])
    centroids, rows = Centroids(drawn[:k]), drawn[k:]
    norms = np.sqrt(squared_norms(rows))
    assigner = Assigner(threads=threads)
    contenders: list[Callable[[], Any]] = [
        lambda: bare_product(assigner, rows, centroids.values),
        lambda: assigner.nearest(rows, norms, centroids),
    ]
    turns = [[_seconds(contender) for contender in contenders] for _ in range(TURNS + 1)][1:]
    product, ours = (median(column) for column in zip(*turns, strict=True))
    return {"n": n, "product": product, "ours": ours, "ratio": ours / product, "turns": turns}


def _seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def plan(asked: argparse.Namespace) -> Iterator[Cell]:
    """The cells in order, one seed after the other."""
    for seed in range(asked.seeds):
        for d in WIDTHS:
            for k in CLUSTERS:
                for threads in asked.threads:
                    key = {"d": d, "k": k, "threads": threads, "seed": seed}
                    yield Cell(
                        key | ({"operations": _OPERATIONS / 40} if asked.small else {}), "curation.assign"
                    )


def report(lines: Sequence[dict[str, Any]], claims: bool) -> int:
    """Prints the table and the verdicts; returns the exit code."""
    groups: dict[tuple[int, ...], list[dict[str, Any]]] = {}
    for line in lines:
        key = line["cell"]
        groups.setdefault((key["d"], key["k"], key["threads"]), []).append(line["found"])
    print("assignment: exact labels over the bare float32 product of the same tiles; medians over seeds")
    print(cells.described(lines) + "\n")
    rows, verdicts = [], []
    for (d, k, threads), runs in sorted(groups.items()):
        product, ours, ratio = (median(run[name] for run in runs) for name in ("product", "ours", "ratio"))
        rate = 2 * runs[0]["n"] * k * d / product / 1e9
        name = f"d = {d}, k = {k}, {threads} thread(s)"
        rows.append([name, str(len(runs)), f"{rate:.0f}", f"{product:.3f}", f"{ours:.3f}", f"{ratio:.3f}"])
        verdicts.append(Verdict(f"{name}: at most {LIMIT:.2f}x", ratio <= LIMIT, f"{ratio:.3f}x"))
    print(table(["", "seeds", "GFLOP/s", "product, s", "ours, s", "ratio"], rows))
    return conclude(verdicts) if claims else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the cells that are missing and prints the table; returns 1 where a claim or a cell failed."""
    parser = cells.parser("assignment", __doc__)
    asked = parser.parse_args(arguments)
    return cells.main(asked, measure, plan, report)


if __name__ == "__main__":
    sys.exit(main())
