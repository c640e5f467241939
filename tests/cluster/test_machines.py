"""Machines that are lost, cut off, slow or late: the rows of a run are those of one without faults."""

import sys
import time
from contextlib import contextmanager

import pytest

from pipelines.manifest import read_manifest

from .conftest import ROOT, results, written

UNDER_WAY = "unfinished/checkpoint/header.json"
PATIENCE = 300.0  # seconds


@contextmanager
def running(machine, file, log):
    """The run of a config, driven from a machine; its processes end with the machine's."""
    command = [sys.executable, "-m", "pipelines", "run", str(file)]
    process = machine.spawn("env", "-C", str(ROOT), *command, log=log)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def under_way(process, run, log):
    """Waits until a fit of the cluster stage has been written down."""
    deadline = time.monotonic() + PATIENCE
    while not run.exists(UNDER_WAY):
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)


def ended(process, log):
    """Waits for the end of the run; what it said."""
    assert process.wait(timeout=PATIENCE) == 0, log.read_text()
    return log.read_text()


def three_machines(network, pool, folder):
    """Starts them; a config of the pool, where its results will be, and a log."""
    for _ in range(3):
        network.add(cpus=1)
    return *written(folder / "job", pool), folder / "log"


def faults(*names):
    return pytest.mark.parametrize("fault", names)


@faults("kill", "cut", "slow")
def test_a_machine_is_lost_or_slow(network, pool, expected, tmp_path, fault):
    file, run, log = three_machines(network, pool, tmp_path)
    with running(network.head, file, log) as process:
        under_way(process, run, log)
        lost = network.machines[2]
        lost.slow(50) if fault == "slow" else getattr(lost, fault)()
        said = ended(process, log)
    assert results(run) == expected
    told = read_manifest(run, "tree").counts
    assert (told["regrouped"] > 0) == (fault != "slow")
    assert ("a machine was lost" in said) == (fault != "slow")


@pytest.mark.soak  # `tests/faults/test_kills.py` has it in a shorter run
def test_two_machines_are_lost_at_once(network, pool, expected, tmp_path):
    file, run, log = three_machines(network, pool, tmp_path)
    with running(network.head, file, log) as process:
        under_way(process, run, log)
        for lost in network.machines[1:]:
            lost.kill()
        ended(process, log)
    assert results(run) == expected
    assert read_manifest(run, "tree").counts["shards"] == 1


def test_a_machine_joins(network, pool, expected, tmp_path):
    file, run = written(tmp_path / "job", pool)
    network.add(cpus=1)
    log = tmp_path / "log"
    with running(network.head, file, log) as process:
        under_way(process, run, log)
        network.add(cpus=1)
        said = ended(process, log)
    assert results(run) == expected
    assert read_manifest(run, "tree").counts["shards"] == 2
    assert "2 point shards can work now in place of 1" in said


@pytest.mark.soak  # as above
def test_the_head_is_lost(network, pool, expected, tmp_path):
    file, run = written(tmp_path / "job", pool)
    network.add(cpus=1)
    log = tmp_path / "log"
    with running(network.head, file, log) as process:
        under_way(process, run, log)
        network.head.kill()
        assert process.wait(timeout=PATIENCE) != 0
    with running(network.add_head(cpus=2), file, log) as process:
        said = ended(process, log)
    assert "goes on from a checkpoint" in said
    assert results(run) == expected
