"""Machines come when a run has work for them and go when it has none; what encodes is never starved.

The GPUs are some that Ray counts: the encoder of `pixels` computes on the CPU.
"""

import itertools
import subprocess
import sys
import time
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from pipelines.manifest import read_manifest
from pipelines.store import Store
from tests.faults.head import head
from tests.pipelines.conftest import rows_of
from tests.pipelines.test_startup import install_plugin

from . import autoscaler, pixels
from .conftest import ROOT

PATIENCE = 240.0  # seconds
TO_GO = 60.0  # seconds for machines to go that have nothing to do
GONE = {"gpu_machines": 0, "actors": [], "groups": 0, "asked": 0, "waiting": 0}


@pytest.fixture
def plugged(tmp_path):
    """The environment of a process that has the encoder, which notes what it does in `notes`."""
    (tmp_path / "notes").mkdir()
    site = install_plugin(tmp_path / "site", point="pixels = tests.cluster.pixels:Pixels")
    return pixels.environment(site) | {"EVENSET_NOTES": str(tmp_path / "notes")}


@pytest.fixture
def job(tmp_path, digits):
    """Writes a config with some sections, of a pool of 15 parts with 20 images each."""
    names = [f"digit {i}" for i in range(len(digits))]
    table = pa.table({"name": names, "image": digits})
    pq.write_table(table, tmp_path / "digits.parquet", row_group_size=20)

    def write(name, encoder, **sections):
        tree = {
            "source": {
                "path": str(tmp_path / "digits.parquet"),
                "format": "parquet",
                "column": "image",
                "id_column": "name",
            },
            "encoder": {"model": "pixels", "dtype": "float32", **encoder},
            "cluster": {"n_clusters": [60, 12], "resample": {"steps": 1}},
            "sample": {"size": 40},
            "output": str(tmp_path / name),
            **sections,
        }
        file = tmp_path / f"{name}.yaml"
        file.write_text(yaml.safe_dump(tree))
        return file, Store(tree["output"])

    return write


def curated_on_this_machine(job, environment):
    """What a run without a cluster and without GPUs makes of the pool."""
    file, run = job("plain", {"num_gpus": 0})
    done = evenset(environment, "run", file)
    assert done.returncode == 0, done.stderr
    return rows_of(run, "curated")


def evenset(environment, *arguments):
    command = [sys.executable, "-m", "pipelines", *map(str, arguments)]
    shell = {"PATH": f"{autoscaler.RAY.parent}", **environment}
    return subprocess.run(command, cwd=ROOT, env=shell, capture_output=True, text=True, timeout=PATIENCE)


@contextmanager
def driver(environment, code, *arguments):
    """A process that says when it has come to a point and goes on when it is told so: `point()`."""
    lines = "def point(name):\n    print(name, flush=True)\n    input()\n"
    command = [sys.executable, "-c", lines + code, *map(str, arguments)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=ROOT, env=environment, text=True, **pipes) as process:
        try:
            yield process
        finally:
            process.kill()


def reached(process, name):
    """Waits until the driver is at a point."""
    for line in process.stdout:
        if line.strip() == name:
            return
    raise AssertionError(process.stderr.read())


def go_on(process):
    process.stdin.write("\n")
    process.stdin.flush()


def test_gpu_machines_come_for_a_run_and_go_after_it(job, plugged):
    expected = curated_on_this_machine(job, plugged)
    file, run = job("elastic", {"actors": [2, 2]})
    with autoscaler.cluster(plugged | {"EVENSET_ENCODE": "1"}) as cluster:
        done = evenset(cluster.environment, "run", file)
        assert done.returncode == 0, done.stderr
        assert "asks for 2 encoder actors with 1 GPUs each" in done.stderr
        cluster.wait(TO_GO, **GONE)
        counts = cluster.counts()
    assert rows_of(run, "curated") == expected
    assert counts[0] == counts[-1] == 0
    assert max(counts) == 2
    # `num_gpus` was left open: GPUs that could come have settled it
    assert read_manifest(run, "embeddings").basis.config["encoder.device"] == "cuda"


def test_between_two_stages_nothing_is_held(job, plugged):
    levels = {"n_clusters": [60, 12], "resample": {"steps": 1}, "num_gpus": 1}
    file, run = job("stages", {"actors": [2, 2]}, cluster=levels)
    code = """
import sys
from pipelines.configfile import load_config
from pipelines.run import run
for stage in ("embed", "cluster"):
    run(load_config(sys.argv[1], None), (stage,))
    point(stage)
"""
    slow = plugged | {"EVENSET_ENCODE": "0.5"}
    with autoscaler.cluster(slow) as cluster, driver(cluster.environment, code, file) as process:
        reached(process, "embed")
        assert max(cluster.counts()) == 2
        cluster.wait(TO_GO, **GONE)
        began = len(cluster.seen)
        go_on(process)
        reached(process, "cluster")
        during = cluster.seen[began:]
        assert max(one["asked"] for one in during) == 1
        assert max(one["gpu_machines"] for one in during) == 1
        cluster.wait(TO_GO, **GONE)
        go_on(process)
        assert process.wait(PATIENCE) == 0
    assert read_manifest(run, "tree") is not None


def test_what_is_asked_for_stays_until_it_is_withdrawn(plugged):
    """Also where Ray Data has run, whose own requests would replace it every 20 seconds."""
    code = """
import ray
from pipelines.resources import asked, resources
ray.init()
ray.data.range(10).take_all()
there = resources()
assert (there.gpus, there.most_gpus, there.most_cpus) == (0, 2, 4), there
with asked(there, {"GPU": 1}, 2):
    point("asked")
point("withdrawn")
"""
    with autoscaler.cluster(plugged) as cluster, driver(cluster.environment, code) as process:
        reached(process, "asked")
        cluster.wait(TO_GO, gpu_machines=2, asked=2)
        kept = time.time() + 45
        while time.time() < kept:
            time.sleep(1)
            assert (cluster.seen[-1]["gpu_machines"], cluster.seen[-1]["asked"]) == (2, 2)
        go_on(process)
        reached(process, "withdrawn")
        cluster.wait(TO_GO, gpu_machines=0, asked=0)


def test_a_request_of_a_driver_that_was_killed_ends(plugged):
    code = """
import ray
from pipelines import resources
resources.KEPT, resources.RENEWED = 6.0, 2.0
ray.init()
with resources.asked(resources.resources(), {"GPU": 1}, 1):
    point("asked")
"""
    with autoscaler.cluster(plugged, most=1) as cluster:
        with driver(cluster.environment, code) as process:
            reached(process, "asked")
            cluster.wait(TO_GO, gpu_machines=1, asked=1)
            process.kill()
        cluster.wait(TO_GO, gpu_machines=0, asked=0)


def overlapping(times):
    """How many of some spans of time lie over one another at most."""
    edges = sorted([(begin, 1) for begin, _ in times] + [(end, -1) for _, end in times])
    return max(itertools.accumulate(step for _, step in edges))


@pytest.mark.parametrize(
    ("cpus", "gpus", "share", "actors"),
    [pytest.param(2, 1, 1, 1, marks=pytest.mark.soak), (1, 1, 1, 1), (2, 1, 0.5, 2)],
)
def test_readers_leave_the_encoders_their_place(job, plugged, tmp_path, cpus, gpus, share, actors):
    """Every CPU is wanted by tasks that read, and an encoder that dies finds its place again."""
    expected = curated_on_this_machine(job, plugged)
    for note in (tmp_path / "notes").iterdir():
        note.unlink()
    (tmp_path / "kill").touch()
    work = {"EVENSET_PREPARE": "0.05", "EVENSET_ENCODE": "0.2", "EVENSET_KILL": str(tmp_path / "kill")}
    file, run = job("shared", {"num_gpus": share})
    with head(plugged | work, cpus=cpus, gpus=gpus) as joined:
        done = evenset({**plugged, **joined}, "run", file)
    assert done.returncode == 0, done.stderr
    assert rows_of(run, "curated") == expected
    assert not (tmp_path / "kill").exists()
    loaded, prepared = (pixels.noted(tmp_path / "notes", kind) for kind in ("load", "prepare"))
    assert len(loaded) == actors + 1  # it died once
    beside = [span for span in prepared if span[0] > loaded[actors - 1][1]]
    assert beside, "all was read before there was an encoder"
    assert overlapping(beside) <= max(1, cpus - 1)
