"""The pool is the same however much of it is written, and what is watched is what there is."""

import json
import mmap
import os
import time

import numpy as np
import pytest

from benchmarks import out_of_core
from benchmarks.out_of_core import MOST, POINTS, WIDTH, Watch, main, part, written
from pipelines.encode import matrix


def test_a_smaller_pool_is_the_beginning_of_a_larger_one(tmp_path, monkeypatch):
    monkeypatch.setattr(out_of_core, "PART", 500)
    few, many = (
        np.concatenate([matrix(store.read_table(rel)["embedding"]) for rel in store.list("embeddings")])
        for store in (written(tmp_path, n, 3) for n in (700, 1200))
    )
    assert few.shape == (700, WIDTH)
    assert many.shape == (1200, WIDTH)
    assert np.array_equal(few, many[:700])
    assert np.array_equal(many[500:1000], part(1, 500, 3))
    assert np.abs(np.linalg.norm(many.astype(np.float32), axis=1) - 1).max() < 1e-3


def test_memory_and_cached_pages_are_seen(tmp_path, monkeypatch):
    monkeypatch.setattr(out_of_core, "_EVERY", 0.01)
    monkeypatch.setattr(out_of_core, "_LOOKS", 1)
    assert os.getpid() in out_of_core._processes()
    # a Ray of other tests may be below it, whose processes come and go
    monkeypatch.setattr(out_of_core, "_processes", lambda: [os.getpid()])
    with Watch(tmp_path) as before:
        time.sleep(0.3)
    # fresh pages: an array could be laid into memory that was freed before
    held = mmap.mmap(-1, 50_000_000, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    held.write(b"x" * 50_000_000)
    (tmp_path / "file").write_bytes(held[:8_000_000])
    with Watch(tmp_path) as seen:
        time.sleep(0.5)
    held.close()
    assert 40_000_000 < seen.anonymous - before.anonymous < 80_000_000
    assert seen.streamed == 8_000_000
    assert 4_000_000 < seen.cached <= 8_003_584
    descriptor = os.open(tmp_path / "file", os.O_RDONLY)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)
    with Watch(tmp_path) as given_back:
        time.sleep(0.3)
    assert given_back.cached < 1_000_000


@pytest.mark.parametrize(
    ("peak", "seconds", "estimated", "holds"),
    [
        (MOST, 110, {}, 0),
        (MOST + 1, 110, {}, 1),
        (MOST, 111, {}, 1),
        (MOST, 10, {"estimated": 15}, 0),
        (MOST, 10, {"estimated": 16}, 1),
    ],
)
def test_claims_are_computed(tmp_path, capsys, peak, seconds, estimated, holds):
    results = tmp_path / "results.jsonl"
    found = dict.fromkeys(("anonymous", "shared", "streamed", "cached", "inertia"), 1)
    lines = [
        {
            "cell": {"n": n, "memory": 2**30, "seed": 0},
            "found": {**found, **estimated, "seconds": took, "peak": peak},
            "machine": {"cpu": "c", "cores": 2, "python": "3", "blas": [], "packages": {}},
        }
        for n, took in zip(POINTS, (10, seconds), strict=True)
    ]
    results.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert main(["--report", "--results", str(results)]) == holds
    assert "GiB" in capsys.readouterr().out
