"""A Ray cluster that asks for no token, where others reach it, is named; one that asks is not."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import ray

from pipelines.access import answers_anybody, beyond_loopback, warning
from tests.faults.head import RAY
from tests.pipelines.conftest import blobs
from tests.pipelines.test_job import free_ports

ROOT = Path(__file__).resolve().parents[2]


def test_which_addresses_others_reach():
    assert beyond_loopback(["127.0.0.1", "127.0.0.53", "::1", "localhost"]) == []
    assert beyond_loopback(["10.0.0.2", "127.0.0.1", "fd00::2", "10.0.0.2"]) == ["10.0.0.2", "fd00::2"]
    said = warning([f"10.0.0.{i}" for i in range(6)])
    assert "10.0.0.2 and 3 more" in said
    assert "RAY_AUTH_MODE=token" in said


def test_nobody_answers():
    (port,) = free_ports(1)
    assert answers_anybody(f"127.0.0.1:{port}") is None


def test_the_cluster_that_evenset_starts_asks_for_a_token(ray_cluster):
    if os.environ.get("RAY_AUTH_MODE", "token") != "token":
        pytest.skip("RAY_AUTH_MODE is set to something else")
    assert answers_anybody(ray.get_runtime_context().gcs_address) is False


def own_address():
    """This machine's address on its network; nothing is sent to find it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return "127.0.0.1"
        return probe.getsockname()[0]


@contextmanager
def head(ip, mode):
    """The address of a fresh head, and the environment of those who join it."""
    gcs, client, agent, agent_http = free_ports(4)
    folder = tempfile.mkdtemp(prefix="evenset")  # tmp_path is too long for Ray's sockets
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    environment |= {"RAY_AUTH_MODE": mode, "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    options = {"port": gcs, "ray-client-server-port": client, "node-ip-address": ip, "num-cpus": 2}
    options |= {"dashboard-agent-grpc-port": agent, "dashboard-agent-listen-port": agent_http}
    options |= {"object-store-memory": 150_000_000, "temp-dir": folder, "include-dashboard": "false"}
    command = [RAY, "start", "--head", "--block", "--disable-usage-stats"]
    command += [f"--{name}={value}" for name, value in options.items()]
    said = Path(folder, "said")
    with (
        said.open("wb") as out,
        subprocess.Popen(command, env=environment, stdout=out, stderr=out, start_new_session=True) as process,
    ):
        try:
            for _ in range(240):
                if "Ray runtime started" in said.read_text():  # the head answers before it can be joined
                    break
                assert process.poll() is None, said.read_text()
                time.sleep(0.5)
            yield f"{ip}:{gcs}", environment
        finally:
            os.killpg(process.pid, signal.SIGKILL)  # the whole head, and nothing else
            process.wait(timeout=60)
            shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "warned"), [("disabled", True), ("token", False)])
def test_joining_a_cluster_warns_where_anybody_could(write_config, tmp_path, mode, warned):
    ip = own_address()
    if ip.startswith("127."):
        pytest.skip("this machine has no address but loopback")
    np.save(tmp_path / "pool.npy", blobs(60))
    config = write_config(tmp_path / "pool.npy", source={"format": "embeddings"})
    with head(ip, mode) as (address, environment):
        assert answers_anybody(address) is warned
        command = [sys.executable, "-m", "pipelines", "embed", str(config), f"ray.address={address}"]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert (warning([ip]) in done.stderr) == warned
    assert ("asks for no token" in (tmp_path / "run/log.jsonl").read_text()) == warned
    assert environment["RAY_AUTH_TOKEN"] not in done.stderr
