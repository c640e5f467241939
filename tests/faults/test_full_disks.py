"""A disk without room: the run says so and ends, and goes on when there is some."""

import os
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

from pipelines.run import BY_NAME

from . import head
from .conftest import environment, needs_root
from .curations import PATIENCE, STAGES, curate, driving, moment, results, write_config

pytestmark = pytest.mark.cluster
RESERVE = 40_000  # bytes for the log and the config, which are written before any stage begins


@contextmanager
def disk(folder, megabytes):
    """A file system of so much, in memory."""
    needs_root()
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder, room):
    """Fills a disk but for some bytes; deleting the file gives the rest back."""
    ballast = folder / "ballast"
    with ballast.open("wb") as file:
        file.write(bytes(max(0, shutil.disk_usage(folder).free - room)))
    return ballast


def size(run, outputs):
    """Bytes of what a stage writes."""
    paths = [run.local / output for output in outputs]
    files = [file for path in paths for file in (path.rglob("*") if path.is_dir() else [path])]
    return sum(file.stat().st_size for file in files if file.is_file())


def undone(run, stage):
    """A run in which all is done that comes before a stage."""
    for name in STAGES[STAGES.index(stage) :]:
        for output in BY_NAME[name].outputs:
            run.delete(output)


@pytest.mark.parametrize("stage", STAGES)
def test_the_disk_of_the_output_is_full(cluster, pool, undisturbed, survived, tmp_path, stage):
    with disk(tmp_path / "disk", 60) as full:
        shutil.copytree(undisturbed.run.local, full / "run")
        file, run = write_config(tmp_path / "job", pool, full / "run")
        undone(run, stage)
        share = moment(f"disk of {stage}", 0)
        ballast = fill(full, RESERVE + int(share * size(undisturbed.run, BY_NAME[stage].outputs)))
        with driving(cluster.environment, file, run) as driver:
            said, began = driver.wait(code=1), driver.began
        assert "the disk is full" in said
        assert "run the same command again" in said
        assert not list(run.local.rglob(".*.tmp"))
        ballast.unlink()
        curate(cluster.environment, file, run)
        took = time.monotonic() - began
        assert results(run) == undisturbed.rows
    seed = f"{stage}: after {share:.0%} of what it writes (seed 0)"
    survived("disk", seed, "a sentence that names the disk; the same rows", took, undisturbed.seconds)


HOLD = """
import time, numpy, ray
ray.init(log_to_driver=False)
held = [ray.put(numpy.zeros(4_000_000, numpy.uint8)) for _ in range(18)]
print("held", flush=True)
time.sleep(600)
"""
"""Another job, whose objects leave 8 of the store's 80 MB."""


@contextmanager
def held(environment):
    """The other job, while the block lasts."""
    command = [sys.executable, "-c", HOLD]
    with subprocess.Popen(command, env=os.environ | environment, stdout=subprocess.PIPE, text=True) as job:
        try:
            assert job.stdout.readline() == "held\n"
            yield
        finally:
            job.kill()


def test_the_disk_of_spilled_objects_is_full(pool, undisturbed, survived, tmp_path):
    file, run = write_config(tmp_path / "job", pool)
    with disk(tmp_path / "disk", 8) as full:
        options = [f"--object-spilling-directory={full}", "--object-store-memory=80000000"]
        with head.cluster(environment(), options=options) as there:
            fill(full, 0)
            with held(there.environment), driving(there.environment, file, run) as driver:
                code, began = driver.process.wait(PATIENCE), driver.began
            assert code == 0 or (code == 1 and "the disk is full" in driver.said), driver.said
            if code:
                curate(there.environment, file, run)
            took = time.monotonic() - began
    assert results(run) == undisturbed.rows
    outcome = "the run goes on, or ends with a sentence and is done again; the same rows"
    survived("spill", "another job fills the store", outcome, took, undisturbed.seconds)
