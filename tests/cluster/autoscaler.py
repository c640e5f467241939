"""A cluster whose autoscaler brings machines, by Ray's fake provider: processes of this machine."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ray.util import get_node_ip_address

ROOT = Path(__file__).resolve().parents[2]
RAY = Path(sys.executable).with_name("ray")
START = 90.0  # seconds until the head is there
IDLE = 3.0  # seconds after which a machine without work goes
HEAD = "f" * 51 + "00000"
WORKER = {"CPU": 1, "GPU": 1}
MARK = "EVENSET_FAKE_CLUSTER"
EMPTY = (
    "cluster_synced_files",
    "initialization_commands",
    "setup_commands",
    "head_setup_commands",
    "worker_setup_commands",
    "head_start_ray_commands",
    "worker_start_ray_commands",
)


def _settings(gcs: str, cpus: float, most: int) -> dict[str, Any]:
    """The cluster's file: a head without GPUs, and up to so many machines with one."""
    return {
        "cluster_name": "fake",
        "max_workers": most,
        "idle_timeout_minutes": IDLE / 60,
        "upscaling_speed": 10.0,
        "provider": {
            "type": "external",
            "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
            "gcs_address": gcs,
            "head_node_id": HEAD,
            "launch_multiple": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        "auth": {},
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": cpus}, "node_config": {}, "max_workers": 0},
            "gpu": {"resources": WORKER, "node_config": {}, "min_workers": 0, "max_workers": most},
        },
        "head_node_type": "ray.head.default",
        "file_mounts": {},
        **{key: [] for key in EMPTY},
    }


@dataclass
class Cluster:
    """One cluster.

    Attributes:
        environment: What a process needs to join it.
        log: What its head says.
        seen: What `tests.cluster.watch` says of it, twice a second; the last is the newest.
    """

    environment: dict[str, str]
    log: Path
    seen: list[dict[str, Any]] = field(default_factory=list)

    def counts(self) -> list[int]:
        """How many machines with GPUs there were over time, each change once."""
        found: list[int] = []
        for one in self.seen:
            if not found or found[-1] != one["gpu_machines"]:
                found.append(one["gpu_machines"])
        return found

    def wait(self, seconds: float, **wanted: Any) -> dict[str, Any]:
        """Waits until what is seen is as wanted."""
        until, before = time.monotonic() + seconds, len(self.seen)
        while time.monotonic() < until:
            for one in self.seen[before:]:
                if all(one[name] == value for name, value in wanted.items()):
                    return one
            time.sleep(0.2)
        said = f"machines {self.counts()}, now {self.seen[-1:]}; the head: {self.log.read_text()[-2000:]}"
        raise AssertionError(f"not {wanted} in {seconds} s: {said}")


@contextlib.contextmanager
def cluster(environment: dict[str, str], cpus: float = 2, most: int = 2) -> Iterator[Cluster]:
    """A head with so many CPUs, whose autoscaler may bring so many machines with a CPU and a GPU."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    gcs, mark = f"{get_node_ip_address()}:{port}", uuid.uuid4().hex
    folder = Path(tempfile.mkdtemp(prefix="evenset", dir="/tmp"))  # Ray's sockets want a short path
    file = folder / "cluster.json"
    file.write_text(json.dumps(_settings(gcs, cpus, most)))
    shell = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | environment
    shell |= {
        "PATH": f"{RAY.parent}:{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "token",  # the head listens to the network
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
    }
    own = {
        "RAY_FAKE_CLUSTER": "1",
        "RAY_enable_autoscaler_v2": "1",
        "RAY_CLOUD_INSTANCE_ID": HEAD,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD,
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        MARK: mark,
    }
    command = [str(RAY), "start", "--head", "--block", "--disable-usage-stats", "--include-dashboard=false"]
    command += [f"--port={port}", f"--num-cpus={cpus:g}", "--num-gpus=0", f"--autoscaling-config={file}"]
    command += [f"--temp-dir={folder / 'ray'}", "--object-store-memory=200000000"]
    log = (folder / "log").open("wb")
    head = subprocess.Popen(command, env=shell | own, stdout=log, stderr=log, start_new_session=True)
    made = Cluster(shell | {"RAY_ADDRESS": gcs}, folder / "log")
    watch = None
    try:
        _wait_for(head, port, folder / "log")
        watch = subprocess.Popen(
            [sys.executable, "-m", "tests.cluster.watch"],
            env=made.environment,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        threading.Thread(target=_read, args=(watch, made.seen), daemon=True).start()
        made.wait(START, gpu_machines=0)
        yield made
    finally:
        log.close()
        if watch is not None:
            watch.kill()
            watch.wait()
        _end(mark)
        head.wait(timeout=60)
        shutil.rmtree(folder, ignore_errors=True)


def _wait_for(head: subprocess.Popen[bytes], port: int, log: Path) -> None:
    until = time.monotonic() + START
    while time.monotonic() < until:
        assert head.poll() is None, log.read_text()
        with contextlib.suppress(OSError), socket.create_connection((get_node_ip_address(), port), timeout=1):
            return
        time.sleep(0.25)
    raise AssertionError(f"the head did not start: {log.read_text()}")


def _read(watch: subprocess.Popen[str], seen: list[dict[str, Any]]) -> None:
    assert watch.stdout is not None
    for line in watch.stdout:
        with contextlib.suppress(json.JSONDecodeError):
            seen.append(json.loads(line))


def _end(mark: str) -> None:
    """Ends the processes that were started with the mark, and no other."""
    wanted = f"{MARK}={mark}".encode()
    while found := [pid for pid in _processes() if wanted in _environ(pid)]:
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)


def _processes() -> list[int]:
    return [int(folder.name) for folder in Path("/proc").iterdir() if folder.name.isdecimal()]


def _environ(pid: int) -> list[bytes]:
    """The variables with which a process began; a zombie has none."""
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []
