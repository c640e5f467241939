"""A run in which an actor of each kind is killed, and which is interrupted: nothing changes or is left."""

import os
import signal
import time

import pytest
import ray
from ray._private.state import actors

from pipelines.leftovers import sweep
from pipelines.store import Store

from . import head
from .conftest import ROOT, environment
from .curations import curate, driving, pictures, results, write_config
from .table import FAULTS
from .test_kills import WORKERS, kill_worker
from .test_orphans import RAY_DATA

MANY = {"n_clusters": [100, 10], "resample": {"steps": 3}}


class Session:
    """The session's Ray, whose processes are below this one."""

    def __init__(self, address):
        self.environment = {**environment(), "RAY_ADDRESS": address}

    def processes(self, title=""):
        return head.titled(os.getpid(), title)


def left(before):
    """Actors and placement groups of drivers that are gone, but for those of Ray Data itself."""
    until = time.monotonic() + 15
    while True:
        found = [actor for name, actor in actors().items() if name not in before and is_left(actor)]
        groups = [group for group in ray.util.placement_group_table().values() if group["state"] != "REMOVED"]
        if not (found or groups) or time.monotonic() > until:
            return found + groups
        time.sleep(0.2)


def is_left(actor):
    return actor["State"] != "DEAD" and actor["Name"] not in RAY_DATA


@pytest.mark.cluster
def test_kills_and_an_interrupt_change_no_row_and_leave_nothing(ray_cluster, tmp_path):
    before = set(actors())
    session, pool = Session(ray_cluster), pictures(tmp_path / "digits.parquet", 1200, 100)
    whole, undisturbed = write_config(tmp_path / "whole", pool, cluster=MANY, sample={"size": 100})
    took = curate(session.environment, whole, undisturbed)
    assert not left(before)

    file, run = write_config(tmp_path / "killed", pool, cluster=MANY, sample={"size": 100})
    with driving(session.environment, file, run) as driver:
        for fault in ("encoder", "point shard", "centroid shard"):
            kill_worker(driver, session, fault, 0, took[WORKERS[fault][0]])
        driver.until("export", 0, 0)
        driver.process.send_signal(signal.SIGINT)
        said = driver.wait(130, timeout=60)
    assert f"go on from here: evenset run {file}" in said
    assert not left(before)
    assert not list(run.local.rglob(".*.tmp"))

    curate(session.environment, file, run)
    assert results(run) == results(undisturbed)
    assert not left(before)
    assert not list(run.local.rglob(".*.tmp"))


def test_what_a_killed_writer_left_is_deleted_and_nothing_else(tmp_path):
    """A user's own hidden files stay where they are."""
    run = Store(str(tmp_path))
    run.write_bytes("embeddings/part-00000.parquet", b"whole")
    mine = [".gitignore", ".git/index.tmp", "embeddings/.notes.tmp", "part-0." + "0" * 32 + ".tmp"]
    halves = ["embeddings/.part-1.parquet." + "0" * 32 + ".tmp", ".probe-" + "a" * 32]
    for name in mine + halves:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("half of it")
    assert sweep(run) == 2
    assert all((tmp_path / name).exists() for name in [*mine, "embeddings/part-00000.parquet"])
    assert not any((tmp_path / name).exists() for name in halves)


def test_the_page_has_a_row_for_every_fault_and_names_tests_that_are_there():
    page = (ROOT / "docs/reliability.md").read_text()
    told = page.split("<!-- table -->")[1].split("<!-- end -->")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in told.strip().splitlines()[2:]]
    assert list(dict.fromkeys(row[0] for row in rows)) == list(FAULTS.values())
    for test in filter(None, (row[-1] for row in rows)):
        file, name = test.strip("`").split("::")
        (found,) = ROOT.glob(f"tests/*/{file}")
        assert f"def {name}(" in found.read_text()
