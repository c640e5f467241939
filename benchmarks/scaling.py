"""How do time and memory grow with the number of points and of clusters?

    python -m benchmarks.scaling [--largest 1000000] [--picture docs/scaling.svg]

KMeans as it comes on case A's long tail in 64 dimensions, 10^4 to 10^7 points (or as many as --largest
says), 100, 1,000 and 10,000 clusters of at least ten points each. Every cell is a process of its own; its
memory is the most that was ever resident, the pool included. Prints a table and draws a picture.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import cells
from benchmarks.cases import mixture
from benchmarks.cells import Cell
from benchmarks.kmeans import WARM_UP
from benchmarks.tables import table
from curation import KMeans

WIDTH = 64
POINTS = (10_000, 100_000, 1_000_000, 10_000_000)
CLUSTERS = (100, 1000, 10_000)
PICTURE = cells.ROOT / "docs" / "scaling.svg"
_LEAST = 10  # points a cluster
_COPIES = 6  # of the pool, that memory must have room for
_MEMORY_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes, of getrusage


def measure(n: int, k: int, threads: int, seed: int) -> dict[str, Any]:
    """Clusters n points, after some that warm up: seconds, and bytes resident at most."""
    rows, _ = mixture(n, WIDTH, seed)
    warm_rows, warm_clusters = WARM_UP
    KMeans(min(k, warm_clusters), random_state=seed, max_iter=4).fit(rows[:warm_rows])
    before = _peak()
    start = time.perf_counter()
    fitted = KMeans(k, random_state=seed).fit(rows)
    seconds = time.perf_counter() - start
    return {
        "seconds": seconds,
        "peak": _peak(),
        "peak_before": before,
        "pool": rows.nbytes,
        "n_iter": fitted.n_iter_,
    }


def _peak() -> int:
    """Bytes that this process has had resident at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _MEMORY_UNIT


def plan(asked: argparse.Namespace) -> Iterator[Cell]:
    """The cells in order: a seed after the other, small pools first."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for seed in range(asked.seeds):
        for n in POINTS:
            if n > asked.largest:
                continue
            if n * WIDTH * 4 * _COPIES > memory:
                print(
                    f"{n} points are left out: {memory / 2**30:.0f} GiB hold too few copies", file=sys.stderr
                )
                continue
            for k in CLUSTERS:
                for threads in asked.threads:
                    if k * _LEAST <= n:
                        yield Cell({"n": n, "k": k, "threads": threads, "seed": seed}, "curation")


def medians(lines: Sequence[dict[str, Any]]) -> dict[tuple[int, int, int], dict[str, float]]:
    """Medians over seeds of every (threads, k, n)."""
    groups: dict[tuple[int, int, int], list[dict[str, Any]]] = {}
    for line in lines:
        key = line["cell"]
        groups.setdefault((key["threads"], key["k"], key["n"]), []).append(line["found"])
    return {
        group: {name: median(run[name] for run in runs) for name in runs[0]}
        for group, runs in sorted(groups.items())
    }


def draw(found: dict[tuple[int, int, int], dict[str, float]], picture: Path) -> None:
    """Two panels, seconds and GiB over the number of points, a line for every number of clusters."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "evenset"  # the same numbers, the same file
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    series = sorted({(threads, k) for threads, k, _ in found})
    for panel, (name, unit, factor) in zip(
        panels, (("seconds", "seconds", 1.0), ("peak", "peak memory, GiB", 2.0**30)), strict=True
    ):
        for threads, k in series:
            points = sorted(n for t, c, n in found if (t, c) == (threads, k))
            values = [found[threads, k, n][name] / factor for n in points]
            panel.plot(points, values, marker="o", label=f"k = {k:,}, {threads} thread(s)")
        if name == "peak":
            points = sorted({n for _, _, n in found})
            panel.plot(points, [n * WIDTH * 4 / factor for n in points], "k:", label="the pool itself")
        panel.set(xscale="log", yscale="log", xlabel=f"points of {WIDTH} dimensions", ylabel=unit)
        panel.grid(alpha=0.3)
        panel.legend(fontsize="small", frameon=False)
    picture.parent.mkdir(parents=True, exist_ok=True)
    dated = {"Date": None} if picture.suffix == ".svg" else {}
    figure.savefig(picture, dpi=150, metadata=dated)


def report(lines: Sequence[dict[str, Any]], picture: Path) -> int:
    """Prints the table and draws the picture."""
    found = medians(lines)
    print(f"scaling: KMeans over points of {WIDTH} dimensions; medians over seeds")
    print(cells.described(lines) + "\n")
    rows = [
        [f"n = {n:,}, k = {k:,}, {threads} thread(s)", f"{one['n_iter']:g}", f"{one['seconds']:.2f}"]
        + [f"{one[name] / 2**30:.2f}" for name in ("peak", "peak_before", "pool")]
        for (threads, k, n), one in found.items()
    ]
    headers = ["", "iterations", "seconds", "peak, GiB", "before it, GiB", "the pool, GiB"]
    print(table(headers, rows))
    if found:
        draw(found, picture)
        print(f"\n{picture}")
    return 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this benchmark."""
    parser.add_argument("--largest", type=int, default=POINTS[-1], help="most points")
    parser.add_argument("--picture", type=Path, default=PICTURE)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the cells that are missing and shows what there is; returns 1 where a cell failed."""
    parser = cells.parser("scaling", __doc__, threads="2")
    add_arguments(parser)
    asked = parser.parse_args(arguments)
    if asked.small:
        asked.largest = min(asked.largest, POINTS[0])
    return cells.main(asked, measure, plan, lambda lines, _: report(lines, asked.picture))


if __name__ == "__main__":
    sys.exit(main())
