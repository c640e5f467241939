"""What all tests share: one small Ray cluster, and the folder of real data."""

import logging
import os
from pathlib import Path

import hypothesis
import pytest

# the first call of a compiled loop compiles it, or reads it from disk
hypothesis.settings.register_profile("compiled", deadline=None)
hypothesis.settings.load_profile("compiled")

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")


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
