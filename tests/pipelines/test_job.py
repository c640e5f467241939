"""``ray job submit --working-dir . -- python -m pipelines run ...`` against a head of its own."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from pipelines.manifest import read_manifest
from pipelines.store import Store

from .conftest import blobs

ROOT = Path(__file__).resolve().parents[2]
RAY = Path(sys.executable).parent / "ray"


def free_ports(count):
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [s.getsockname()[1] for s in sockets]


@pytest.fixture
def head():
    """The address of the job server of a fresh `ray start --head`, which ends with the test."""
    gcs, dashboard, client, agent, agent_http = free_ports(5)
    folder = tempfile.mkdtemp(prefix="evenset")  # tmp_path is too long for Ray's sockets
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    # a head asks for a token; this one is of no use to anybody else
    environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    environment["PATH"] = f"{RAY.parent}{os.pathsep}{environment['PATH']}"
    options = {
        "port": gcs,
        "dashboard-port": dashboard,
        "ray-client-server-port": client,
        "dashboard-agent-grpc-port": agent,
        "dashboard-agent-listen-port": agent_http,
        "num-cpus": 2,
        "object-store-memory": 300_000_000,
        "temp-dir": folder,
        "node-ip-address": "127.0.0.1",
    }
    command = [RAY, "start", "--head", "--block", "--disable-usage-stats"]
    command += [f"--{name}={value}" for name, value in options.items()]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "start_new_session": True}
    with subprocess.Popen(command, env=environment, **quiet) as process:
        try:
            address = f"http://127.0.0.1:{dashboard}"
            for _ in range(120):
                try:
                    urllib.request.urlopen(f"{address}/api/version", timeout=5).close()
                except urllib.error.HTTPError:  # it is there, and asks for the token
                    break
                except OSError:
                    assert process.poll() is None, "ray start --head ended"
                    time.sleep(0.5)
            yield address, environment
        finally:
            os.killpg(process.pid, signal.SIGKILL)  # the whole head, and nothing else
            process.wait(timeout=60)
            shutil.rmtree(folder, ignore_errors=True)


def test_a_submitted_job_curates_a_pool(head, write_config, tmp_path):
    address, environment = head
    np.save(tmp_path / "pool.npy", blobs(200))
    config = write_config(tmp_path / "pool.npy", cluster={"n_clusters": [10, 3]}, sample={"size": 30})
    command = [RAY, "job", "submit", f"--address={address}", "--working-dir=.", "--"]
    command += ["python", "-m", "pipelines", "run", str(config)]
    job = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert job.returncode == 0, job.stdout + job.stderr
    assert "results: " in job.stdout
    assert "succeeded" in job.stdout
    run = Store(str(tmp_path / "run"))
    assert read_manifest(run, "report") is not None
    assert sum(run.rows(part) for part in run.list("curated")) == 30
