"""Is one GPU used fully? Assignment and whole fits against flash-kmeans, FAISS and plain torch.

    python -m benchmarks.gpu [--seeds 1]        one H200, about 25 minutes, a cell under 8
    python -m benchmarks.gpu --kinds assign     only these; a later run goes on
    python -m benchmarks.gpu --small            tries the script out on a CPU

Rows are float16 and made on the device. A cell of `assign` times one assignment of all rows (the median
of three after one to warm up, or a single one where it takes long), and beside it, in the same process,
the rate of a large bfloat16 product. Its labels are compared with float64 scores of a sample on the device
and, for ours, with the CPU's labels. A cell of `fit` times a whole fit: ours is `KMeans` with its default
recipe, from rows on the host; lloyd, flash-kmeans and torch make the same number of Lloyd iterations from
the same rows as start, without a start of their own. Rates count 2 n k d operations an assignment: rivals
too slow for 10 million rows take one million. Rivals that are not installed are left out, and named.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from statistics import median
from typing import Any

import numpy as np
import torch

from benchmarks import cells
from benchmarks.cells import Cell
from benchmarks.gpu_rivals import ASSIGN, Labels, backend, device, made, ours
from benchmarks.tables import Verdict, conclude, table
from curation import KMeans
from curation.assign import Assigner, Centroids
from curation.exact import squared_norms
from curation.kernels import gpu

ROWS = 10_000_000
FEWER = 1_000_000  # rows for whoever would take minutes
WIDTHS = {768: 0.65, 128: 0.40}  # and the share of the bfloat16 rate to reach
CLUSTERS = {10_000: 10, 100_000: 3}  # and Lloyd iterations of a fit
USUAL = 50  # iterations that a fit of flash-kmeans would make
RIVALS = {"flash-kmeans": "flash_kmeans", "torch": "torch", "faiss": "faiss"}
LIMIT = 470  # seconds a cell may take

_SAMPLE = 2048
_JUDGED = 1_000_000
_SQUARE = 16_384
_ASSIGN_COLUMNS = ("{n:.0f}", "{seconds:.3f}", "{tflops:.1f}", "{share:.2f}", "{wrong:.0f}")
_FIT_COLUMNS = (
    *("{n:.0f}", "{seconds:.2f}", "{iterations:.0f}"),
    *("{an_iteration:.3f}", "{tflops:.1f}", "{objective:.5f}"),
)


def measure(kind: str, **key: Any) -> dict[str, Any]:
    """One cell, cut off where it takes too long."""
    signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(LIMIT)
    try:
        found = {"assign": assign, "fit": fit}[kind](**key)
    finally:
        signal.alarm(0)
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    return found | {"device": name, "version": f"{_version(key['method'])}, triton {version('triton')}"}


def assign(method: str, n: int, k: int, d: int, seed: int, threads: int) -> dict[str, Any]:
    """Seconds and TFLOP/s of one assignment, and how many labels of a sample are not exact."""
    del threads
    square = product_rate(_SQUARE if device().type == "cuda" else 256)
    rows = made(n, d, max(1, k // 4), seed)
    centroids = rows[:k].float()
    labels = ASSIGN[method](rows)
    seconds, found = _timed(lambda: labels(rows, centroids))
    index = torch.linspace(0, n - 1, min(n, _SAMPLE), dtype=torch.float64).long().to(rows.device)
    sample, mine = rows[index], found[index].cpu().numpy()
    wrong = {"wrong": int((mine != _nearest_exactly(sample, centroids)).sum())}
    if method == "ours":
        host = sample.float().cpu().numpy()
        cpu = Assigner().nearest(host, np.sqrt(squared_norms(host)), Centroids(centroids.cpu().numpy()))
        wrong["cpu_differs"] = int((mine != cpu.labels).sum())
    rate = 2e-12 * n * k * d / seconds
    return {"seconds": seconds, "tflops": rate, "bf16": square, "share": rate / square, **wrong}


def fit(method: str, n: int, k: int, d: int, iterations: int, seed: int, threads: int) -> dict[str, Any]:
    """Seconds of a whole fit, and the mean squared distance of a million rows to what it found."""
    del threads
    rows = made(n, d, max(1, k // 4), seed)
    random = torch.Generator().manual_seed(seed)
    start = rows[torch.randperm(n, generator=random)[:k].to(rows.device)].float()
    if method == "ours":
        host = rows.cpu().numpy()
        assigner = Assigner(device="cuda" if rows.is_cuda else "cpu")
        some = host[: max(n // 50, 100)]
        KMeans(n_clusters=min(1000, len(some) // 4), assigner=assigner).fit(some)  # compiles: more than `FEW`
        began = time.perf_counter()
        fitted = KMeans(n_clusters=k, random_state=seed, assigner=assigner).fit(host)
        seconds, iterations = time.perf_counter() - began, fitted.n_iter_
        centroids = torch.from_numpy(fitted.cluster_centers_).to(rows.device)
    elif method == "flash-kmeans":
        from flash_kmeans import batch_kmeans_Euclid

        batch_kmeans_Euclid(
            rows[None, : 2 * k], k, max_iters=1, init_centroids=start.half()[None]
        )  # compiles
        seconds, result = _once(
            lambda: batch_kmeans_Euclid(
                rows[None], k, max_iters=iterations, tol=-1.0, init_centroids=start.half()[None]
            )
        )
        centroids = result[1][0].float()
    else:
        find = ASSIGN["ours" if method == "lloyd" else method]
        sums_by = backend(rows) if method == "lloyd" else "torch"
        some = rows[: 2 * k]
        lloyd(some, start, find(some), 1, sums_by)  # compiles
        labels = find(rows)
        seconds, centroids = _once(lambda: lloyd(rows, start, labels, iterations, sums_by))
    an_iteration = seconds / iterations
    return {
        "seconds": seconds,
        "iterations": iterations,
        "an_iteration": an_iteration,
        "tflops": 2e-12 * n * k * d / an_iteration,
        "objective": objective(rows[:_JUDGED], centroids),
    }


def lloyd(
    rows: torch.Tensor, centroids: torch.Tensor, labels: Labels, iterations: int, sums_by: gpu.Backend
) -> torch.Tensor:
    """Lloyd's iterations with exact sums; a cluster without rows stays where it is."""
    for _ in range(iterations):
        sums, counts = gpu.cluster_sums(rows, labels(rows, centroids), len(centroids), backend=sums_by)
        moved = (sums.double() / counts.clamp(min=1)[:, None]).round() / 2.0**24
        centroids = torch.where(counts[:, None] > 0, moved.float(), centroids)
    return centroids


def objective(rows: torch.Tensor, centroids: torch.Tensor) -> float:
    """Mean exact squared distance of rows to the nearest centroid, these rounded to the grid."""
    on_grid = (centroids.double() * 2.0**24).round().div(2.0**24).float()
    labels = ours(rows)(rows, on_grid)
    return float(gpu.squared_distances(rows, on_grid, labels, backend=backend(rows)).mean())


def product_rate(size: int) -> float:
    """TFLOP/s of a square product in bfloat16, the best of five."""
    left = torch.randn((size, size), device=device()).bfloat16()
    right = torch.randn((size, size), device=device()).bfloat16()
    return 2e-12 * size**3 / min(_once(lambda: left @ right)[0] for _ in range(5))


def _nearest_exactly(sample: torch.Tensor, centroids: torch.Tensor) -> np.ndarray[Any, Any]:
    """Nearest centroid of some rows by float64 scores, which are exact."""
    wide = centroids.double()
    half_squares = wide.square().sum(dim=1) / 2
    found = [(half_squares - part.double() @ wide.T).argmin(dim=1) for part in torch.split(sample, 256)]
    return torch.cat(found).cpu().numpy()


def _once(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of a piece of work, the device waited for."""
    _wait()
    start = time.perf_counter()
    result = work()
    _wait()
    return time.perf_counter() - start, result


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Median seconds of three turns after one to warm up; of that one where it takes a minute."""
    seconds, result = _once(work)
    if seconds < 60:
        seconds = median(_once(work)[0] for _ in range(3))
    return seconds, result


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _too_long(*_: Any) -> None:
    raise TimeoutError(f"the cell took more than {LIMIT} s")


def _version(method: str) -> str:
    """Name and version of the package behind a method."""
    packages = {"flash-kmeans": ["flash-kmeans"], "torch": ["torch"], "faiss": ["faiss-gpu", "faiss-cpu"]}
    for package in packages.get(method, ["evenset"]):
        with contextlib.suppress(PackageNotFoundError):
            return f"{package} {version(package)}"
    return f"{method} (no version)"


def contenders() -> list[str]:
    """Ours, and the rivals that are installed and can run here."""
    have = [name for name, module in RIVALS.items() if importlib.util.find_spec(module)]
    return ["ours", *(name for name in have if name != "flash-kmeans" or torch.cuda.is_available())]


def plan(asked: argparse.Namespace) -> Iterator[Cell]:
    """The cells in order: what matters most first."""
    rows, fewer = (ROWS, FEWER) if not asked.small else (3000, 1500)
    widths = WIDTHS if not asked.small else (40, 300)
    clusters = CLUSTERS if not asked.small else {30: 3, 100: 2}
    for seed in range(asked.seeds):
        for kind in asked.kinds:
            for d in widths:
                for k, iterations in clusters.items():
                    for method in contenders():
                        if (kind, method) == ("fit", "faiss"):
                            continue  # its assignment says it all
                        n = rows if method in ("ours", "flash-kmeans") else fewer
                        key: dict[str, Any] = {"kind": kind, "method": method, "n": n, "k": k, "d": d}
                        key |= {"seed": seed, "threads": asked.threads[0]}
                        if kind == "fit":
                            key["iterations"] = iterations
                        yield Cell(key)
                        if kind == "fit" and method == "ours":
                            yield Cell(key | {"method": "lloyd"})


def report(lines: Sequence[dict[str, Any]], claims: bool) -> int:
    """Prints the tables and the verdicts; returns the exit code."""
    print(cells.described(lines))
    print("; ".join(sorted({f"{line['found']['device']}, {line['found']['version']}" for line in lines})))
    missing = sorted(set(RIVALS) - {line["cell"]["method"] for line in lines})
    print(f"not measured: {', '.join(missing)}\n" if missing else "")
    verdicts = [*_assign_report(lines), *_fit_report(lines)]
    return conclude(verdicts) if claims else 0


def _medians(
    lines: Sequence[dict[str, Any]], kind: str
) -> dict[tuple[int, int], dict[str, dict[str, float]]]:
    """Medians over seeds of every number found, by (d, k) and method."""
    runs: dict[tuple[int, int], dict[str, list[dict[str, Any]]]] = {}
    for line in lines:
        key = line["cell"]
        if key["kind"] == kind:
            runs.setdefault((key["d"], key["k"]), {}).setdefault(key["method"], []).append(
                line["found"] | {"n": key["n"]}
            )
    return {
        place: {
            method: {
                name: median(run[name] for run in found)
                for name, value in found[0].items()
                if isinstance(value, int | float)
            }
            for method, found in methods.items()
        }
        for place, methods in runs.items()
    }


def _assign_report(lines: Sequence[dict[str, Any]]) -> Iterator[Verdict]:
    rows, verdicts = [], []
    for (d, k), methods in _medians(lines, "assign").items():
        for method, found in methods.items():
            rows.append([f"d = {d}, k = {k}, {method}", *(form.format(**found) for form in _ASSIGN_COLUMNS)])
        if mine := methods.get("ours"):
            name, least = f"assign, d = {d}, k = {k}", WIDTHS.get(d, 0.0)
            share = f"{mine['share']:.2f}"
            verdicts.append(Verdict(f"{name}: {least:.0%} of bfloat16", mine["share"] >= least, share))
            off = mine["wrong"] + mine["cpu_differs"]
            verdicts.append(Verdict(f"{name}: the CPU's labels", off == 0, f"{off:.0f} differ"))
            if theirs := methods.get("flash-kmeans"):
                ratio = mine["tflops"] / theirs["tflops"]
                verdicts.append(Verdict(f"{name}: flash-kmeans' rate", ratio >= 1, f"{ratio:.2f}x"))
    print(table(["assign", "rows", "s", "TFLOP/s", "of bf16", "wrong of 2048"], rows) + "\n")
    yield from verdicts


def _fit_report(lines: Sequence[dict[str, Any]]) -> Iterator[Verdict]:
    rows, verdicts = [], []
    for (d, k), methods in _medians(lines, "fit").items():
        for method, found in methods.items():
            rows.append([f"d = {d}, k = {k}, {method}", *(form.format(**found) for form in _FIT_COLUMNS)])
        theirs, name = methods.get("flash-kmeans"), f"fit, d = {d}, k = {k}"
        if theirs and (mine := methods.get("lloyd")):
            ratio = theirs["an_iteration"] / mine["an_iteration"]
            verdicts.append(
                Verdict(f"{name}: an exact iteration of the kernels as fast", ratio >= 1, f"{ratio:.2f}x")
            )
        if theirs and (mine := methods.get("ours")):
            ratio = USUAL * theirs["an_iteration"] / mine["seconds"]
            claim = f"{name}: sooner than {USUAL} iterations of flash-kmeans"
            verdicts.append(Verdict(claim, ratio >= 1, f"{ratio:.1f}x"))
    print(table(["fit", "rows", "s", "iterations", "s each", "TFLOP/s", "objective"], rows))
    yield from verdicts


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the cells that are missing and prints the tables; returns 1 where a claim or a cell failed."""
    parser = cells.parser("gpu", __doc__, threads="8")
    parser.add_argument("--kinds", type=cells.names, default="assign,fit", help="what to measure")
    parser.set_defaults(seeds=1)
    asked = parser.parse_args(arguments)
    if not (torch.cuda.is_available() or asked.small or asked.report or asked.cell):
        print(
            "benchmarks.gpu needs a CUDA GPU, and torch finds none here; --small tries it on the CPU",
            file=sys.stderr,
        )
        return 1
    return cells.main(asked, measure, plan, report)


if __name__ == "__main__":
    sys.exit(main())
