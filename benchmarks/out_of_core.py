"""A pool larger than the memory that it may take: does clustering it complete, and how much slower is it?

    python -m benchmarks.out_of_core [--folder /a/disk/with/20GB] [--seeds 1]

Ten million embeddings of 256 dimensions, float16 (5 GB), are written as a run's embed stage leaves them.
The cluster stage then grows [20000, 2000, 200] clusters over them on two point shards of 1 GiB each, as
it does over their first million. Resampling leaves level 1 alone. All processes are watched on the way:

- anonymous memory: RssAnon of the driver, Ray's processes and the workers;
- shared memory: what the files of Ray's object store take;
- cached: pages of the shards' files in the page cache, which the system may take back at any time.
"""

from __future__ import annotations

import argparse
import ctypes
import mmap
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from benchmarks import cells
from benchmarks.cells import Cell
from benchmarks.estimate import WITHIN
from benchmarks.tables import Verdict, conclude, table
from curation.chance import digests

WIDTH, COMPONENTS = 256, 5000
PART = 16_384
POINTS, CLUSTERS, MEMORY = (1_000_000, 10_000_000), [20_000, 2000, 200], 2**30
SMALL_POINTS, SMALL_CLUSTERS, SMALL_MEMORY = (20_000, 200_000), [1000, 100], 2**26
SHARDS = 2
OBJECT_STORE = 1_200_000_000
MOST, SLOWER = 4.5 * 2**30, 11.0
FOLDER = "EVENSET_OUT_OF_CORE"
"""Names the folder of the pools in the environment: what is measured does not hang on it."""
_EVERY = 0.5  # seconds between two looks
_LOOKS = 10  # after so many, one at the page cache


def part(index: int, rows: int, seed: int) -> NDArray[np.float16]:
    """Unit rows of one part of the pool: a long tail of Gaussian clusters in a spectrum of a power law."""
    shape = np.random.default_rng(seed)
    spectrum = (np.arange(1.0, WIDTH + 1) ** -0.4).astype(np.float32)
    means = shape.standard_normal((COMPONENTS, WIDTH), np.float32) * spectrum
    spread = shape.uniform(0.4, 0.9, COMPONENTS).astype(np.float32)
    share = 1 / np.arange(1.0, COMPONENTS + 1)
    random = np.random.default_rng([seed, index])
    which = random.choice(COMPONENTS, rows, p=share / share.sum())
    points = random.standard_normal((rows, WIDTH), np.float32)
    points *= spectrum
    points *= spread[which, None]
    points += means[which]
    points /= np.sqrt(np.einsum("ij,ij->i", points, points))[:, None]
    return points.astype(np.float16)


def written(folder: Path, n: int, seed: int) -> Any:
    """The run directory of a pool of n points, whose embeddings are there."""
    from pipelines.blocks import part_name
    from pipelines.encode import fixed_lists
    from pipelines.store import Store

    store = Store(str(folder / f"{n}-{seed}"))
    for index, start in enumerate(range(0, n, PART)):
        name = part_name("embeddings", index)
        if store.exists(name):
            continue
        rows = min(PART, n - start)
        ids = [str(i) for i in range(start, start + rows)]
        keys = pa.array(digests(ids), pa.binary(16))
        embedding = fixed_lists(part(index, PART, seed)[:rows])
        store.write_table(name, pa.table({"id": ids, "uri": ids, "key": keys, "embedding": embedding}))
    return store


@dataclass
class Watch:
    """Looks at the memory of this process and all below it, now and then.

    Attributes:
        scratch: Folder of the files whose pages in the cache are counted.
        anonymous: Bytes at the moment when they and `shared` were most.
        shared: As above.
        cached: Most bytes at a time.
        streamed: Most bytes of the files.
    """

    scratch: Path
    anonymous: int = 0
    shared: int = 0
    cached: int = 0
    streamed: int = 0
    _over: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Watch:
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        looks = 0
        while not self._over.wait(_EVERY):
            below = _processes()
            anonymous, shared = sum(map(_anonymous, below)), _shared(below)
            if anonymous + shared > self.anonymous + self.shared:
                self.anonymous, self.shared = anonymous, shared
            if looks % _LOOKS == 0:
                files = [path for path in self.scratch.rglob("*") if path.is_file()]
                self.cached = max(self.cached, sum(map(_cached, files)))
                self.streamed = max(self.streamed, sum(map(_size, files)))
            looks += 1


def _processes() -> list[int]:
    """This process and all below it."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            told = _read(entry / "stat")
            if told:
                parents.setdefault(int(told.rpartition(")")[2].split()[1]), []).append(int(entry.name))
    found = [os.getpid()]
    for process in found:
        found += parents.get(process, [])
    return found


def _anonymous(process: int) -> int:
    lines = _read(Path(f"/proc/{process}/status")).splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


def _shared(processes: Sequence[int]) -> int:
    """Bytes that the files of shared memory take which the processes hold open, each once."""
    seen: dict[int, int] = {}
    for process in processes:
        try:
            held = list(Path(f"/proc/{process}/fd").iterdir())
        except OSError:  # it has ended
            continue
        for descriptor in held:
            try:
                if os.readlink(descriptor).startswith("/dev/shm/"):  # noqa: PTH115 (deleted files have no path)
                    about = descriptor.stat()
                    seen[about.st_ino] = about.st_blocks * 512
            except OSError:
                continue
    return sum(seen.values())


def _read(path: Path) -> str:
    """The content of a file of a process, or nothing where it has ended."""
    try:
        return path.read_text()
    except OSError:
        return ""


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _cached(path: Path) -> int:
    """Bytes of a file in the page cache."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as mapped:
            pages = (ctypes.c_ubyte * -(-len(mapped) // mmap.PAGESIZE))()
            start = ctypes.c_char.from_buffer(mapped)
            size = ctypes.c_size_t(len(mapped))
            failed = ctypes.CDLL(None).mincore(ctypes.c_void_p(ctypes.addressof(start)), size, pages)
            del start  # or the map could not be closed
            return 0 if failed else int((np.frombuffer(pages, np.uint8) & 1).sum()) * mmap.PAGESIZE
    except (OSError, ValueError):  # deleted meanwhile, or empty
        return 0


def measure(n: int, n_clusters: list[int], memory: int, threads: int, seed: int) -> dict[str, Any]:
    """The cluster stage over the first n points: seconds, and what it held at most."""
    import ray

    from pipelines.cluster import UNFINISHED, cluster
    from pipelines.config import Config
    from pipelines.progress import Progress
    from pipelines.startup import start

    store = written(Path(os.environ[FOLDER]), n, seed)
    for leftover in ("tree", UNFINISHED):
        store.delete(leftover)
    config = Config.model_validate(
        {
            "source": {"path": "generated", "format": "embeddings"},
            "cluster": {
                "n_clusters": n_clusters,
                "resample": {"steps": 2},
                "memory": memory,
                "shards": SHARDS,
            },
            "ray": {"object_store_memory": OBJECT_STORE},
            "seed": seed,
        }
    )
    start(config, store)
    with Watch(store.local / UNFINISHED / "scratch") as seen:
        began = time.perf_counter()
        told = cluster(config, store, Progress(store))
        seconds = time.perf_counter() - began
    ray.shutdown()
    store.delete("tree")
    return {
        "seconds": seconds,
        "estimated": told["estimated_s"],
        "peak": seen.anonymous + seen.shared,
        "anonymous": seen.anonymous,
        "shared": seen.shared,
        "streamed": seen.streamed,
        "cached": seen.cached,
        "inertia": told["inertia"] / n,
        "clusters": told["clusters"],
    }


def plan(asked: argparse.Namespace) -> Iterator[Cell]:
    """The cells in order, the small pool first."""
    points, clusters, memory = (
        (SMALL_POINTS, SMALL_CLUSTERS, SMALL_MEMORY) if asked.small else (POINTS, CLUSTERS, MEMORY)
    )
    for seed in range(asked.seeds):
        for n in points:
            if asked.only and n not in asked.only:
                continue
            key = {"n": n, "n_clusters": clusters, "memory": memory, "threads": 1, "seed": seed}
            yield Cell(key, "curation")


def report(lines: Sequence[dict[str, Any]], claims: bool) -> int:
    """Prints the table and the verdicts; returns the exit code."""
    print(f"out of core: the cluster stage on {SHARDS} shards, points of {WIDTH} dimensions in float16")
    print(cells.described(lines) + "\n")
    rows, seconds, peaks = [], {}, {}
    for line in lines:
        cell, found = line["cell"], line["found"]
        seconds.setdefault(cell["n"], []).append(found["seconds"])
        peaks.setdefault(cell["n"], []).append(found["peak"])
        gib = [f"{found[name] / 2**30:.2f}" for name in ("peak", "anonymous", "shared", "streamed", "cached")]
        name = f"n = {cell['n']:,}, {cell['memory'] / 2**30:.3g} GiB a shard, seed {cell['seed']}"
        estimated = f"{found['estimated']:.0f}" if "estimated" in found else ""
        rows.append([name, f"{found['seconds']:.0f}", estimated, *gib, f"{found['inertia']:.5f}"])
    headers = [
        "",
        "seconds",
        "as estimated",
        "peak, GiB",
        "anonymous",
        "shared",
        "files",
        "of them cached",
        "inertia",
    ]
    print(table(headers, rows) + "\n")
    few, many = POINTS
    if not claims or many not in seconds:
        return 0
    verdicts = [
        Verdict(
            f"{many:,} points: at most {MOST / 2**30:.3g} GiB of anonymous and shared memory",
            max(peaks[many]) <= MOST,
            f"{max(peaks[many]) / 2**30:.2f} GiB",
        )
    ]
    if few in seconds:
        ratio = float(np.median(seconds[many]) / np.median(seconds[few]))
        verdicts.append(
            Verdict(f"at most {SLOWER:g} times the time of {few:,}", ratio <= SLOWER, f"{ratio:.1f} times")
        )
    for line in lines:
        if "estimated" in line["found"]:
            ratio = line["found"]["estimated"] / line["found"]["seconds"]
            claim = f"{line['cell']['n']:,} points: the estimate is within a factor of {WITHIN:g}"
            verdicts.append(Verdict(claim, 1 / WITHIN <= ratio <= WITHIN, f"{ratio:.2f}"))
    return conclude(verdicts)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the cells that are missing and shows what there is; returns 1 where a claim fails."""
    parser = cells.parser("out_of_core", __doc__, threads="1")
    parser.set_defaults(seeds=1)
    default = Path(tempfile.gettempdir()) / "evenset-out-of-core"
    parser.add_argument("--folder", type=Path, default=default, help="of the pools: 20 GB of a local disk")
    parser.add_argument("--only", type=cells.numbers, default=[], help="numbers of points, such as 1000000")
    asked = parser.parse_args(arguments)
    if not asked.cell:
        os.environ[FOLDER] = str(asked.folder.absolute())
    return cells.main(asked, measure, plan, report)


if __name__ == "__main__":
    sys.exit(main())
