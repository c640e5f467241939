"""Whatever way a run ends, nothing of it is left on a cluster that outlives it, nor half a file on a disk."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from pipelines.scratch import UNFINISHED

from . import head
from .conftest import environment
from .curations import curate, driving, moment, results, write_config

SOON = 15.0  # seconds for the cluster to hear that a driver is gone
LATER = 90.0  # and for the processes of a Ray whose own driver was killed to notice
INTERRUPTED = 130
MOMENTS = ("embed", "cluster", "export")
RAY_DATA = {
    "AutoscalingCoordinator",
    "ActorLocationTracker",
    "datasets_stats_actor",
    "DataUsageCollectionActor",
}
"""What Ray Data starts once a cluster, for the jobs of everybody; they take no CPU."""


@pytest.fixture(scope="module")
def cluster():
    """Two CPUs, and a dashboard, which answers what is there."""
    # Ray tells after a while that the tasks of a driver that is gone are over
    soon = {"RAY_gcs_mark_task_failed_on_job_done_delay_ms": "1000"}
    with head.cluster(environment() | soon, dashboard=True) as there:
        yield there


LIST = """
import json, sys
from ray.util.state import list_actors, list_placement_groups, list_tasks
asked = {"address": sys.argv[1], "limit": 10_000, "raise_on_missing_output": False}
actors = list_actors(filters=[("state", "!=", "DEAD")], **asked)
groups = list_placement_groups(filters=[("state", "!=", "REMOVED")], **asked)
tasks = list_tasks(filters=[("state", "!=", "FINISHED"), ("state", "!=", "FAILED")], **asked)
told = [[a.class_name, a.name, a.state] for a in actors]
told += [[g.placement_group_id, g.state] for g in groups] + [[t.name, t.state] for t in tasks]
print(json.dumps(told))
"""
"""Asks for what is not over; in a process of its own, since this one keeps the token of another cluster."""


def left_on(cluster):
    """Actors, placement groups and tasks that are not over; Ray Data's own are one of a kind a cluster."""
    until = time.monotonic() + SOON
    while True:
        command = [sys.executable, "-c", LIST, cluster.dashboard]
        environment = os.environ | cluster.environment
        listed = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert listed.returncode == 0, listed.stderr
        found = json.loads(listed.stdout.splitlines()[-1])
        services = [one for one in found if one[1] in RAY_DATA]
        assert len(services) == len({name for _, name, _ in services}), services
        left = [one for one in found if one not in services and one[0].partition(".")[0] not in RAY_DATA]
        if not left or time.monotonic() > until:
            return left


def half_files(run):
    """Files that are not whole: their names start with a dot."""
    scratch = list((run.local / UNFINISHED / "scratch").rglob("*"))
    return [*scratch, *(path for path in run.local.rglob(".*") if path.name != ".lock")]


@pytest.mark.cluster
def test_after_a_success(cluster, pool, tmp_path):
    file, run = write_config(tmp_path, pool)
    curate(cluster.environment, file, run)
    assert not left_on(cluster)
    assert not half_files(run)
    assert not run.exists("unfinished")


@pytest.mark.cluster
def test_after_a_failure(cluster, pool, tmp_path):
    """The pool is gone when the export wants to read it again."""
    mine = tmp_path / "digits.parquet"
    shutil.copy(pool, mine)
    file, run = write_config(tmp_path, mine)
    with driving(cluster.environment, file, run) as driver:
        driver.until("cluster", 0, 0)
        mine.unlink()
        assert "cannot be read again" in driver.wait(code=1)
    assert not left_on(cluster)
    assert not half_files(run)


@pytest.mark.cluster
@pytest.mark.parametrize("stage", MOMENTS)
def test_after_an_interrupt(cluster, pool, undisturbed, survived, tmp_path, stage):
    file, run = write_config(tmp_path, pool)
    share = moment(f"Ctrl-C in {stage}", 0)
    with driving(cluster.environment, file, run) as driver:
        driver.until(stage, share, undisturbed.took[stage])
        driver.process.send_signal(signal.SIGINT)
        said, began = driver.wait(INTERRUPTED, timeout=30), driver.began
    assert f"stopped; run the same command again to go on from here: evenset run {file}" in said
    assert not left_on(cluster)
    assert not half_files(run)
    curate(cluster.environment, file, run)
    assert results(run) == undisturbed.rows
    assert not left_on(cluster)
    took = time.monotonic() - began
    survived(
        "Ctrl-C",
        f"0: {share:.0%} of the {stage} stage",
        "nothing is left; the same rows",
        took,
        undisturbed.seconds,
    )


@pytest.mark.cluster
def test_a_second_interrupt_ends_it_at_once(cluster, pool, undisturbed, tmp_path):
    file, run = write_config(tmp_path, pool)
    with driving(cluster.environment, file, run) as driver:
        driver.until("cluster", 0.5, undisturbed.took["cluster"])
        driver.process.send_signal(signal.SIGINT)
        while "Ctrl-C again ends it at once" not in driver.said:
            time.sleep(0.01)
        driver.process.send_signal(signal.SIGINT)
        said = driver.wait(INTERRUPTED, timeout=3)
    assert "stopped;" not in said
    assert not left_on(cluster)
    curate(cluster.environment, file, run)
    assert results(run) == undisturbed.rows
    assert not half_files(run)


@pytest.mark.cluster
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_ray_of_its_own_ends_with_it(pool, tmp_path, how):
    """A run that started Ray on this machine leaves no process of it, however it ends."""
    file, run = write_config(tmp_path, pool)
    with driving({**environment(), "RAY_ADDRESS": "local"}, file, run) as driver:
        driver.until("embed", 1, 1)
        started = head.titled(driver.process.pid)
        assert len(started) > 3
        # a terminal sends Ctrl-C to all processes that it sees
        os.killpg(driver.process.pid, how) if how == signal.SIGINT else driver.process.send_signal(how)
        code = driver.process.wait(60)
    assert code == {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -9}[how], driver.said
    assert "Traceback" not in driver.said
    until = time.monotonic() + (LATER if how == signal.SIGKILL else SOON)
    while any(process.is_running() for process in started) and time.monotonic() < until:
        time.sleep(0.1)
    assert not [process for process in started if process.is_running()]
    assert how == signal.SIGKILL or not half_files(run)
