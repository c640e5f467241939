"""Processes and machines that die at any moment: the rows are those of a run in which none did."""

import time
from contextlib import contextmanager

import pytest

from . import head
from .conftest import environment
from .curations import driving, in_time, moment, results, write_config

AT_ONCE = 60.0  # seconds for the processes of a stage to be there
WORKERS = {
    "encoder": ("embed", "ray::MapWorker"),
    "point shard": ("cluster", "ray::PointShard"),
    "centroid shard": ("cluster", "ray::CentroidShard"),
}
"""The stage of each kind of actor, and how its processes are called."""


def when(fault, seed):
    """Share of the time of the run, or of the stage of an actor, which is gone before its stage has ended."""
    return moment(fault, seed, high=0.6 if fault in WORKERS else 0.9)


def seeds(fault, few, many):
    """Seeds of a fault, named with the moment that each stands for; all but a few for the soak."""
    return [
        pytest.param(
            seed,
            id=f"{fault}-{seed}-at-{when(fault, seed):.0%}",
            marks=[pytest.mark.cluster if seed < few else pytest.mark.soak],
        )
        for seed in range(many)
    ]


def told(fault, seed, of="the run"):
    return f"{seed}: {when(fault, seed):.0%} of {of}"


def kill_worker(driver, cluster, fault, seed, seconds):
    """Kills an actor when a share of the seconds of its stage has passed, or as soon as there is one."""
    stage, title = WORKERS[fault]
    driver.until(stage, when(fault, seed), seconds)
    until = time.monotonic() + AT_ONCE
    while not (found := cluster.processes(title)):
        driver.check(stage)
        assert time.monotonic() < until, f"there is no {title}"
        time.sleep(0.01)
    driver.check(stage)
    found[seed % len(found)].kill()


@pytest.mark.parametrize(
    ("fault", "seed"),
    [
        pytest.param(fault, *param.values, id=param.id, marks=param.marks)
        for fault, few in (("encoder", 3), ("point shard", 1), ("centroid shard", 1))
        for param in seeds(fault, few, 10)
    ],
)
def test_an_actor_is_killed(cluster, pool, undisturbed, survived, tmp_path, fault, seed):
    def play(seconds, folder):
        file, run = write_config(folder, pool)
        with driving(cluster.environment, file, run) as driver:
            kill_worker(driver, cluster, fault, seed, seconds)
            driver.wait()
            return run, time.monotonic() - driver.began

    stage = WORKERS[fault][0]
    run, took = in_time(play, undisturbed.took[stage], tmp_path)
    assert results(run) == undisturbed.rows
    seed = told(fault, seed, f"the {stage} stage")
    survived(fault, seed, "the run goes on, the same rows", took, undisturbed.seconds)


@pytest.mark.parametrize("seed", seeds("driver", 5, 20))
def test_the_driver_is_killed(cluster, pool, undisturbed, survived, tmp_path, seed):
    def play(seconds, folder):
        file, run = write_config(folder, pool)
        with driving(cluster.environment, file, run) as driver:
            driver.last(when("driver", seed) * seconds)
            driver.kill()
            return file, run, driver.began

    file, run, began = in_time(play, undisturbed.seconds, tmp_path)
    with driving(cluster.environment, file, run) as driver:
        driver.wait()
        took = time.monotonic() - began
    assert results(run) == undisturbed.rows
    assert not list(run.local.rglob(".*.tmp"))
    survived(
        "driver", told("driver", seed), "the second run goes on, the same rows", took, undisturbed.seconds
    )


@contextmanager
def machines():
    """A head that has one CPU, and two nodes with as much."""
    with head.cluster(environment(), cpus=1) as there:
        yield there, [there.add(cpus=1) for _ in range(2)]


def lost(fault, count, seed, pool, undisturbed, survived, folder):
    """A run on three machines, of which some die at once."""

    def play(seconds, folder):
        file, run = write_config(folder, pool)
        with machines() as (there, nodes), driving(there.environment, file, run) as driver:
            driver.last(when(fault, seed) * seconds)
            for node in nodes[seed % 2 :][:count] if count == 1 else nodes:
                node.kill()
            driver.wait()
            return run, time.monotonic() - driver.began

    run, took = in_time(play, undisturbed.seconds, folder)
    assert results(run) == undisturbed.rows
    survived(
        fault, told(fault, seed), "the run goes on with the others, the same rows", took, undisturbed.seconds
    )


@pytest.mark.parametrize("seed", seeds("node", 1, 10))
def test_a_node_is_killed(pool, undisturbed, survived, tmp_path, seed):
    lost("node", 1, seed, pool, undisturbed, survived, tmp_path)


@pytest.mark.parametrize("seed", seeds("two nodes", 1, 10))
def test_two_nodes_are_killed_at_once(pool, undisturbed, survived, tmp_path, seed):
    lost("two nodes", 2, seed, pool, undisturbed, survived, tmp_path)


@pytest.mark.cluster
@pytest.mark.parametrize("stage", ["embed", "cluster"])
def test_two_nodes_are_killed_as_a_stage_begins_to_work(pool, undisturbed, tmp_path, stage):
    """What is left is one CPU, for which encoders and tasks, or shards without a place, all wait."""
    file, run = write_config(tmp_path, pool)
    with machines() as (there, nodes), driving(there.environment, file, run) as driver:
        driver.until(stage, 0, 0)
        while stage == "embed" and not run.list("embeddings"):
            assert not driver.is_over(), driver.said
            time.sleep(0.02)
        for node in nodes:
            node.kill()
        driver.wait()
    assert results(run) == undisturbed.rows


@pytest.mark.parametrize("seed", seeds("head", 1, 5))
def test_the_head_is_killed(pool, undisturbed, survived, tmp_path, seed):
    def play(seconds, folder):
        file, run = write_config(folder, pool)
        with head.cluster(environment()) as there, driving(there.environment, file, run) as driver:
            driver.last(when("head", seed) * seconds)
            there.head.kill()
            driver.kill()
            return file, run, driver.began

    file, run, began = in_time(play, undisturbed.seconds, tmp_path)
    with head.cluster(environment()) as there, driving(there.environment, file, run) as driver:
        driver.wait()
        took = time.monotonic() - began
    assert results(run) == undisturbed.rows
    survived("head", told("head", seed), "the second run goes on, the same rows", took, undisturbed.seconds)
