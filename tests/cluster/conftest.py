"""A pool that takes some seconds to cluster, what a run without faults makes of it, and the machines."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from pipelines.store import Store
from tests.curation.pools import blobs
from tests.pipelines.conftest import digits, rows_of  # noqa: F401 - one is a fixture

from . import machines

# full scans until nothing moves: half a minute, in many iterations
SLOWLY = {"algorithm": "lloyd", "tol": 0, "max_iter": 30}
ROOT = Path(__file__).resolve().parents[2]


def pytest_collection_modifyitems(items):
    """All of these want several machines, and minutes; some are left to the soak."""
    for item in items:
        if Path(__file__).parent in item.path.parents and not item.get_closest_marker("soak"):
            item.add_marker(pytest.mark.cluster)


@pytest.fixture(scope="session")
def pool(tmp_path_factory):
    """48,000 embeddings of 160 dimensions in 12 files."""
    folder = tmp_path_factory.mktemp("pool")
    vectors = blobs(48_000, 160, 600).astype(np.float16)
    for i, part in enumerate(np.array_split(vectors, 12)):
        np.save(folder / f"{i:02d}.npy", part)
    return folder


def written(folder, pool, **sections):
    """A config of the pool and where its results will be."""
    folder.mkdir(exist_ok=True)
    tree = {
        "source": {"path": f"{pool}/*.npy", "format": "embeddings"},
        "output": str(folder / "run"),
        "cluster": {"n_clusters": [9000, 300, 30], "resample": {"steps": 1}, **SLOWLY},
        "sample": {"size": 3000},
        "export": {"formats": ["ids"]},
        **sections,
    }
    file = folder / "run.yaml"
    file.write_text(yaml.safe_dump(tree))
    return file, Store(tree["output"])


@pytest.fixture(scope="session")
def expected(pool, tmp_path_factory):
    """The rows of a run on one machine, without faults."""
    file, run = written(tmp_path_factory.mktemp("expected"), pool)
    command = [sys.executable, "-m", "pipelines", "run", str(file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return results(run)


def results(store):
    """The rows of a run, by id."""
    return {folder: rows_of(store, folder) for folder in ("tree/level-1/assignments", "curated")}


@pytest.fixture
def network():
    """A network without machines."""
    if not machines.possible():
        pytest.skip("network namespaces cannot be made here: that takes root and iproute2")
    with machines.network() as net:
        yield net
