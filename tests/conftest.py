"""What all tests share: one small Ray cluster, and the folder of real data."""

import logging
import os
import signal
from pathlib import Path

import hypothesis
import pytest

# the first call of a compiled loop compiles it, or reads it from disk
hypothesis.settings.register_profile("compiled", deadline=None)
hypothesis.settings.load_profile("compiled")

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

# a shell that starts the tests in the background has them, and the runs that they interrupt, ignore Ctrl-C
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def ray_cluster():
    """A Ray of 2 CPUs in this process; yields its address, for processes that join it by RAY_ADDRESS."""
    import ray

    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=500_000_000,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    yield ray.get_runtime_context().gcs_address
    ray.shutdown()


@pytest.fixture(scope="session")
def data():
    """The folder of real data; EVENSET_DATA says where it is."""
    if not os.environ.get("EVENSET_DATA"):
        pytest.skip("EVENSET_DATA is not set: it names the folder of real data")
    return Path(os.environ["EVENSET_DATA"])


def pytest_addoption(parser):
    # with an equals sign: before this file is read, pytest takes a FILE that is there for a test to run
    parser.addoption("--faults", metavar="FILE", help="where to add what runs got over, a JSON line each")
    parser.addoption("--memory", metavar="FILE", help="where to plot the memory of a soak, as PNG")


@pytest.fixture
def survived(request):
    """Writes down that a run got over a fault: `tests.faults.table.write_row`."""
    from tests.faults.table import write_row

    def write(fault, seed, outcome, seconds, without=None):
        test = f"{request.node.path.name}::{request.node.originalname}"
        file = request.config.getoption("--faults")
        write_row(file, fault, seed, outcome, (seconds, without), test)

    return write
