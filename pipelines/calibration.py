"""How fast is this machine? Two seconds of the engine's own work on made-up points, and of its disk."""

from __future__ import annotations

import os
import statistics
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from curation import exact, sketch
from curation.assign import Assigner, Centroids
from curation.candidates import Candidates
from curation.cost import CANDIDATES, Rates
from curation.kernels.threads import each
from pipelines import blas
from pipelines.memory import memory_here

SECONDS = 2.0
"""Of `evenset plan`."""
BRIEF = 0.2
"""Of the cluster stage, whose estimate is written down beside what it took."""

_ROWS = 4096  # of a scan
_CLUSTERS = 4096  # of a scan at most: from there on the rate does not change
_SMALL, _LARGE = 16, 512  # rows of the two sizes of groups
_GROUPS = 32
_GATHERED = 64_000_000  # bytes of rows from which groups are gathered, at most
_COPIED = 64_000_000  # bytes: more than the caches hold
_FILE = 32_000_000  # bytes


def measure(n_points: int, dimensions: int, n_clusters: int, threads: int, seconds: float = SECONDS) -> Rates:
    """Rates of this machine with some threads, by the assignment that will do the work.

    Args:
        n_points: Of the pool: a small one stays in the caches.
        dimensions: Of the pool.
        n_clusters: Of the largest level.
        threads: That will work at a time, one BLAS thread in each.
        seconds: About how long it may take; the first call on a machine compiles, which takes longer.
    """
    assigner, share = Assigner(threads=threads), seconds / 8
    k = min(n_clusters, _CLUSTERS)
    rows, norms = _normed(_ROWS, dimensions)
    scans = {}
    for width in {dimensions, sketch.SIZE}:
        some, others = _points(_ROWS, width, 0), Centroids(_points(k, width, 1))
        scans[width] = _median(partial(assigner.nearest, some, norms, others), share) / (_ROWS * k)
    held = min(n_points, _GATHERED // (4 * dimensions))
    groups = {_SMALL: _GROUPS, _LARGE: max(1, held // _LARGE)}
    blocks = {size: _blocks(assigner, rows, norms, size, groups[size], share) for size in groups}
    row = max(0.0, blocks[_LARGE] - blocks[_SMALL]) / (_LARGE - _SMALL)
    return Rates(
        threads=threads,
        gemm=_gemm(rows, _points(k, dimensions, 1), assigner, share),
        pair=scans[dimensions],
        sketch=scans[sketch.SIZE],
        near=row / CANDIDATES,
        block=max(0.0, blocks[_SMALL] - _SMALL * row),
        update=_update(rows, n_clusters, threads, share),
        memory=_memory(threads, share),
        double=_double(rows, share),
    )


def disk_rates(folder: Path) -> tuple[float, float]:
    """Bytes a second (written, read back) of a file in a folder, or in the nearest one above that exists.

    What is read back comes from the page cache, as it does where memory has room for the pool.
    """
    place = existing(folder) / f".evenset-{uuid.uuid4().hex}.tmp"
    data = os.urandom(1_000_000) * (_FILE // 1_000_000)
    try:
        began = time.perf_counter()
        with place.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        written = time.perf_counter() - began
        began = time.perf_counter()
        place.read_bytes()
        return _FILE / written, _FILE / (time.perf_counter() - began)
    finally:
        place.unlink(missing_ok=True)


def existing(folder: Path) -> Path:
    """The folder, or the nearest above it that is there."""
    return next(place for place in (folder, *folder.parents) if place.is_dir())


@dataclass(frozen=True)
class Machine:
    """What this machine has.

    Attributes:
        cpu: Its name.
        cpus: That this process may use.
        memory: Bytes, of the machine or of the limit of its control group.
        flags: What the CPU can do, as in /proc/cpuinfo.
        kernels: Kernels of NumPy's OpenBLAS, which does the products.
    """

    cpu: str
    cpus: int
    memory: int
    flags: frozenset[str]
    kernels: tuple[str, ...]


def machine() -> Machine:
    """This machine."""
    told = Path("/proc/cpuinfo")
    lines = told.read_text().splitlines() if told.exists() else []
    name = next((li.partition(":")[2].strip() for li in lines if li.startswith("model name")), "a CPU")
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Machine(name, cpus, memory_here(), blas.flags(), blas.kernels())


def _median(work: Callable[[], Any], seconds: float) -> float:
    """Seconds of some work: the median of as many times as fit, after one to warm up."""
    work()
    times: list[float] = []
    while not times or sum(times) < seconds:
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def _points(n: int, d: int, seed: int) -> NDArray[np.float32]:
    """Made-up unit rows (n, d) on the grid."""
    rows = np.random.Generator(np.random.PCG64(seed)).standard_normal((n, d), np.float32)
    return exact.Grid(0).encode(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def _normed(n: int, d: int) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    rows = _points(n, d, 0)
    return rows, np.sqrt(exact.squared_norms(rows))


def _blocks(
    assigner: Assigner,
    rows: NDArray[np.float32],
    norms: NDArray[np.float64],
    size: int,
    groups: int,
    seconds: float,
) -> float:
    """Seconds a group of `size` rows that look at its candidates; the rows of all groups lie mixed."""
    clusters = max(2 * CANDIDATES, groups)
    centroids = Centroids(_points(clusters, rows.shape[1], 1))
    members = [np.sort((np.arange(CANDIDATES) + 7 * group) % clusters) for group in range(groups)]
    candidates = Candidates(
        (np.arange(clusters) % groups).astype(np.int32),
        np.arange(groups + 1, dtype=np.int64) * CANDIDATES,
        np.concatenate(members).astype(np.int32),
    )
    many = np.resize(rows, (groups * size, rows.shape[1]))
    theirs = np.resize(norms, len(many))
    mine = (np.arange(len(many)) * 7919 % groups).astype(np.int32)

    def look() -> None:
        assigner.nearest(many, theirs, centroids, candidates=candidates, groups=mine, seconds=True)

    return _median(look, seconds) / groups


def _gemm(
    rows: NDArray[np.float32], others: NDArray[np.float32], assigner: Assigner, seconds: float
) -> float:
    """Operations a second of the bare products of a scan, every thread with its own tiles."""
    tile = min(len(rows), assigner.tile_rows(len(others)))

    def products(starts: Any) -> None:
        out = np.empty((tile, len(others)), np.float32)
        for start in starts:
            np.matmul(rows[start : start + tile], others.T, out=out)

    starts = range(0, len(rows) - tile + 1, tile)
    took = _median(lambda: each(assigner.n_threads, products, starts), seconds)
    return 2.0 * len(starts) * tile * others.size / took


def _update(rows: NDArray[np.float32], n_clusters: int, threads: int, seconds: float) -> float:
    """Bytes of rows a second that are added up in clusters of about ten rows or more."""
    k = min(n_clusters, len(rows) // 10)
    labels = (np.arange(len(rows)) * 7919 % k).astype(np.int32)
    return rows.nbytes / _median(lambda: exact.cluster_sums(rows, labels, k, threads=threads), seconds)


def _memory(threads: int, seconds: float) -> float:
    """Bytes a second that copies read and write, every thread its own part."""
    source = np.zeros((threads, _COPIED // threads), np.uint8)
    target = np.empty_like(source)

    def copy(numbers: Any) -> None:
        for number in numbers:
            target[number] = source[number]

    return 2.0 * source.size / _median(lambda: each(threads, copy, range(threads)), seconds)


def _double(rows: NDArray[np.float32], seconds: float) -> float:
    """Operations a second of a float64 product on one thread."""
    some = rows[:512].astype(np.float64)
    with threadpool_limits(limits=1, user_api="blas"):
        return 2.0 * some.size * len(some) / _median(lambda: some @ some.T, seconds)
