"""Cells of a long benchmark: each in a process of its own, its answer kept, so that a rerun goes on.

Threads and the BLAS kernel are chosen by the environment before anything is imported, the same for
everyone who is measured. A finished cell appends one line of JSON to the results file:

    {"cell": {what was measured}, "found": {the numbers}, "machine": {versions, kernels, ...}, "when": ...}

or "error" in place of "found". A later line of a cell replaces an earlier one, and cells that failed
are tried again. Machines of different kinds have different folders, since seconds of two do not compare.
The files are committed: a table that takes hours may be measured in parts, by several people.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_info

from pipelines.blas import CORETYPE, ability, better, flags

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).with_name("results")
PACKAGES = (
    *("evenset", "numpy", "scipy", "numba", "torch", "scikit-learn"),
    *("faiss-cpu", "faiss-gpu", "superkmeans", "fastkmeans", "pt-kmeans"),
)
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
_ERROR_LENGTH = 2000
_LIMIT = 3 * 3600  # seconds a cell may take


@dataclass(frozen=True)
class Cell:
    """One measurement.

    Attributes:
        key: What is measured: names and numbers, `threads` among them.
        package: The module whose BLAS decides the kernel, imported once to look.
    """

    key: dict[str, Any]
    package: str = "numpy"

    def __str__(self) -> str:
        return " ".join(
            f"{value}" if isinstance(value, str) else f"{k}={value}" for k, value in self.key.items()
        )


def parser(name: str, about: str | None, threads: str = "1,2") -> argparse.ArgumentParser:
    """The options that every benchmark of cells has.

    Args:
        name: The benchmark, `benchmarks.NAME`, and the name of its results file.
        about: Its docstring.
        threads: The default of `--threads`.
    """
    found = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}",
        description=about,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    found.add_argument("--threads", type=numbers, default=threads, help="such as 1,2")
    found.add_argument("--seeds", type=int, default=3, help="runs of each method")
    found.add_argument("--small", action="store_true", help="a trial run on little data, without claims")
    found.add_argument(
        "--results", type=Path, help=f"file of the cells (default {RESULTS}/MACHINE/{name}.jsonl)"
    )
    found.add_argument(
        "--again",
        type=names,
        default=[],
        help="cells to measure anew, by a name such as ours, or all",
    )
    found.add_argument("--report", action="store_true", help="run nothing, print what is there")
    found.add_argument("--cell", type=json.loads, help=argparse.SUPPRESS)
    found.add_argument("--answer", type=Path, help=argparse.SUPPRESS)
    found.set_defaults(name=name)
    return found


def names(text: str) -> list[str]:
    """A list of names from the command line, separated by commas."""
    return [name for name in text.split(",") if name]


def numbers(text: str) -> list[int]:
    """Whole numbers from the command line, separated by commas."""
    return [int(number) for number in names(text)]


def results_file(asked: argparse.Namespace) -> Path:
    """Where the cells go: to those of this kind of machine; trial runs have a file of their own."""
    return asked.results or RESULTS / kind() / f"{asked.name}{'-small' if asked.small else ''}.jsonl"


def kind() -> str:
    """This kind of machine as the name of a folder: its CPU, the widest arithmetic of that, and the cores."""
    told = f"{re.sub('[(](R|TM)[)]', '', _cpu())} {ability(flags())} {os.cpu_count()} cores"
    return "-".join(re.findall("[a-z0-9]+", told.lower()))


def main(
    asked: argparse.Namespace,
    measure: Callable[..., dict[str, Any]],
    plan: Callable[[argparse.Namespace], Iterable[Cell]],
    report: Callable[[Sequence[dict[str, Any]], bool], int],
) -> int:
    """What the command line asked for; returns 1 where a claim or a cell failed.

    Args:
        asked: The options.
        measure: Measures a cell, given its key.
        plan: The cells in order.
        report: Prints the tables of finished cells, with the claims on them or without; 1 where one fails.
    """
    if asked.cell:
        return _answer(asked, measure)
    failed = run(asked, plan(asked))
    return max(report(read(results_file(asked)), not asked.small), int(failed > 0))


def _answer(asked: argparse.Namespace, measure: Callable[..., dict[str, Any]]) -> int:
    """In a cell's own process: measures it and writes down what was found."""
    load = round(os.getloadavg()[0], 2)  # before this one adds to it
    found = measure(**asked.cell)
    asked.answer.write_text(json.dumps({"found": found, "machine": machine() | {"load_before": load}}))
    return 0


def run(asked: argparse.Namespace, cells: Iterable[Cell]) -> int:
    """Measures the cells that are not in the results yet, one after another; returns how many failed.

    Args:
        asked: What the command line asked for: where the results are, what to measure anew.
        cells: What to measure, in order.

    Raises:
        SystemExit: There is nothing of a name that is to be measured anew.
    """
    if asked.report:
        return 0
    results, cells, again = results_file(asked), list(cells), set(asked.again)
    names = [{value for value in cell.key.values() if isinstance(value, str)} for cell in cells]
    if unknown := again - (known := {"all"}.union(*names)):
        there = ", ".join(sorted(known))
        raise SystemExit(f"--again {','.join(sorted(unknown))}: no such cell; there are {there}")
    have = {_name(line["cell"]) for line in read(results)}
    wanted = [
        cell
        for cell, mine in zip(cells, names, strict=True)
        if _name(cell.key) not in have or again & (mine | {"all"})
    ]
    failed = 0
    for number, cell in enumerate(wanted, 1):
        print(f"[{number}/{len(wanted)}] {cell}", end=" ", file=sys.stderr, flush=True)
        start = time.perf_counter()
        line = {
            "cell": cell.key,
            **_measure(f"benchmarks.{asked.name}", cell),
            "when": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        }
        _append(results, json.dumps(line))
        failed += "error" in line
        shown = line["error"].splitlines()[-1:] if "error" in line else _brief(line["found"])
        print(f"{shown} ({time.perf_counter() - start:.0f} s in all)", file=sys.stderr, flush=True)
    return failed


def read(results: Path) -> list[dict[str, Any]]:
    """The finished cells of a file, the last line of each."""
    if not results.exists():
        return []
    lines: dict[str, dict[str, Any]] = {}
    for number, text in enumerate(results.read_text().splitlines(), 1):
        try:
            line = json.loads(text)
        except json.JSONDecodeError:  # of a run that was killed while it wrote
            print(f"{results}, line {number}: cut short, left out", file=sys.stderr)
            continue
        lines[_name(line["cell"])] = line
    return [line for line in lines.values() if "found" in line]


def _append(results: Path, line: str) -> None:
    results.parent.mkdir(parents=True, exist_ok=True)
    cut = results.exists() and not results.read_bytes().endswith(b"\n")
    with results.open("a") as file:
        file.write("\n" * cut + line + "\n")


def machine() -> dict[str, Any]:
    """What a cell was measured with: versions, CPU and BLAS kernels with their threads."""
    blas = {
        f"{Path(pool['filepath']).parent.name.removesuffix('.libs')}: {pool['internal_api']} "
        f"{pool.get('architecture') or ''} {pool['version'] or ''} x{pool['num_threads']}"
        for pool in threadpool_info()
        if pool["user_api"] == "blas"
    }
    return {
        "python": platform.python_version(),
        "packages": _versions(),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "blas": sorted(blas),
        CORETYPE: os.environ.get(CORETYPE, ""),
    }


def described(lines: Sequence[dict[str, Any]]) -> str:
    """The machines and versions of finished cells, a line for each that differs."""
    packages: dict[str, set[str]] = {}
    for line in lines:
        for name, number in line["machine"]["packages"].items():
            packages.setdefault(name, set()).add(number)
    cpus = {f"{m['cpu']}, {m['cores']} cores, Python {m['python']}" for m in (li["machine"] for li in lines)}
    blas = {kernel for line in lines for kernel in line["machine"]["blas"]}
    versions = ", ".join(f"{name} {'/'.join(sorted(seen))}" for name, seen in packages.items())
    return "\n".join([*sorted(cpus), versions, "BLAS: " + "; ".join(sorted(blas))])


@functools.cache
def coretype(package: str) -> str:
    """What `OPENBLAS_CORETYPE` must say for this module; empty where its own choice uses the whole CPU.

    A wheel's OpenBLAS may be older than the CPU, not know it, and fall back to a kernel from long ago.
    """
    code = f"from benchmarks.cells import probe; probe({package!r})"
    environment = {k: v for k, v in os.environ.items() if k != CORETYPE}
    told = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    found = better(json.loads(told.stdout.splitlines()[-1]), flags())
    return found[1] if found else ""


def probe(package: str) -> None:
    """Prints the kernels of the OpenBLAS libraries that a module brings along."""
    importlib.import_module(package)
    print(json.dumps([p["architecture"] for p in threadpool_info() if p["internal_api"] == "openblas"]))


def environment(threads: int, package: str) -> dict[str, str]:
    """The environment of a cell's process."""
    told = {k: v for k, v in os.environ.items() if k != CORETYPE}
    told.update(dict.fromkeys(_THREADS, str(threads)))
    if kernel := coretype(package):
        told[CORETYPE] = kernel
    return told


def _measure(module: str, cell: Cell) -> dict[str, Any]:
    """What a cell's process found, or how it failed."""
    with tempfile.TemporaryDirectory() as folder:
        told = Path(folder) / "answer.json"
        command = [sys.executable, "-m", module, "--cell", json.dumps(cell.key), "--answer", str(told)]
        told_environment = environment(cell.key["threads"], cell.package)
        try:
            ended = subprocess.run(
                command, cwd=ROOT, env=told_environment, capture_output=True, text=True, timeout=_LIMIT
            )
        except subprocess.TimeoutExpired:
            return {"error": f"took more than {_LIMIT} seconds"}
        if ended.returncode or not told.exists():
            error = ended.stderr[-_ERROR_LENGTH:] or f"ended with {ended.returncode}, without a word"
            return {"error": error}
        found: dict[str, Any] = json.loads(told.read_text())
        return found


def _brief(found: dict[str, Any]) -> str:
    """The plain numbers of what was found."""
    return ", ".join(f"{k} {v:.6g}" for k, v in found.items() if isinstance(v, int | float))


def _name(key: dict[str, Any]) -> str:
    return json.dumps(key, sort_keys=True)


def _versions() -> dict[str, str]:
    """Versions of what takes part; ours with the commit that last changed the engine."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    command = ["git", "-C", str(ROOT), "log", "-1", "--format=%h", "--", "curation"]
    with suppress(KeyError, OSError, subprocess.CalledProcessError):  # a copy without its history, or no git
        told = subprocess.run(command, capture_output=True, text=True, check=True)
        found["evenset"] += f"+{told.stdout.strip()}"
    return found


def _cpu() -> str:
    told = Path("/proc/cpuinfo")
    lines = told.read_text().splitlines() if told.exists() else []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.processor() or platform.machine())
