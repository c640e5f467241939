"""A small curation, what it makes without faults, and a cluster to run it on."""

import os
from pathlib import Path

import pytest

from . import curations, head

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def pool(tmp_path_factory):
    """2,400 images in 12 parts."""
    return curations.pictures(tmp_path_factory.mktemp("pictures") / "digits.parquet", 2400, 200)


@pytest.fixture(scope="module")
def cluster():
    """Two CPUs."""
    with head.cluster(environment()) as there:
        yield there


def environment():
    """What workers need to import this code."""
    return {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


class Undisturbed:
    """What a run without faults makes, and how long it and its stages take."""

    def __init__(self, run, took):
        self.run, self.rows, self.took, self.seconds = run, curations.results(run), took, took["run"]


@pytest.fixture(scope="session")
def undisturbed(pool, tmp_path_factory):
    """The second run on a cluster: the first one also waits for what is compiled and read from disk."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with head.cluster(environment()) as there:
        for name in ("first", "second"):
            file, run = curations.write_config(folder / name, pool)
            took = curations.curate(there.environment, file, run)
    return Undisturbed(run, took)


def needs_root():
    if os.geteuid() != 0:
        pytest.skip("a file system of its own is mounted by root alone")
