"""A Ray cluster of its own on this machine: a head and nodes that come and go, whose processes can be killed.

For tests whose workers need an environment that the session's Ray has not, and for those that kill.
"""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import ray  # noqa: F401  # brings psutil along
from ray.util import get_node_ip_address

import psutil  # isort: skip

RAY = Path(sys.executable).parent / "ray"
PATIENCE = 90.0  # seconds for a node to start
HASTE = {
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_worker_niceness": "0",
}
"""How soon a node that is gone is given up; and workers that are not starved by what else runs here."""


class Node:
    """A `ray start --block` and all that it started."""

    def __init__(self, arguments, environment, log):
        self.log = log
        plain = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        with log.open("wb") as told:
            self._process = subprocess.Popen(
                [RAY, "start", "--block", "--disable-usage-stats", *arguments],
                env=plain | environment | {"PYTHONUNBUFFERED": "1"},
                stdout=told,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        until = time.monotonic() + PATIENCE
        while "Ray runtime started" not in log.read_text():
            if self._process.poll() is not None or time.monotonic() > until:
                self.kill()
                raise RuntimeError(f"ray start did not start: {log.read_text()}")
            time.sleep(0.1)

    def processes(self, title=""):
        """Its processes whose command line begins so: of Ray's workers, what they are doing."""
        return titled(self._process.pid, title)

    def kill(self):
        """Ends all its processes at once, as a power cut would."""
        everything = [self._process, *self.processes()]
        for process in everything:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)
        self._process.wait(timeout=60)


def titled(pid, title=""):
    """The processes below another whose command line begins so."""
    found = []
    with suppress(psutil.NoSuchProcess):
        for process in psutil.Process(pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                if " ".join(process.cmdline()).startswith(title):
                    found.append(process)
    return found


class Cluster:
    """A head and its nodes.

    Args:
        environment: Of all processes, beside this one's own.
        cpus: Of the head.
        dashboard: Whether `ray.util.state` can ask it.
        options: More for `ray start --head`.

    Attributes:
        environment: What a process needs to join it.
        nodes: The head, then the others.
    """

    def __init__(self, environment=(), cpus=2, *, dashboard=False, options=()):
        ports = ["port", "ray-client-server-port", "dashboard-port"]
        ports += ["dashboard-agent-grpc-port", "dashboard-agent-listen-port"]
        with ExitStack() as stack:
            listeners = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in ports]
            ports = dict(zip(ports, (listener.getsockname()[1] for listener in listeners), strict=True))
        self.folder = Path(tempfile.mkdtemp(prefix="evenset", dir="/tmp"))  # Ray's sockets want a short path
        # Ray joins no head on 127.0.0.1, so it listens to the network: a token keeps others out
        token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        self._plain = dict(environment) | HASTE | token
        address = f"{get_node_ip_address()}:{ports['port']}"
        self.environment = self._plain | {"RAY_ADDRESS": address}
        self.dashboard = f"http://127.0.0.1:{ports['dashboard-port']}"
        arguments = ["--head", f"--temp-dir={self.folder}/ray", f"--include-dashboard={dashboard}", *options]
        arguments += [f"--{name}={port}" for name, port in ports.items()]
        self.nodes = []
        self._start(arguments, cpus)

    @property
    def head(self):
        return self.nodes[0]

    def add(self, cpus):
        """Starts another node."""
        address = self.environment["RAY_ADDRESS"]
        return self._start([f"--address={address}", "--dashboard-agent-listen-port=0"], cpus)

    def _start(self, arguments, cpus):
        arguments = [*arguments, f"--num-cpus={cpus}"]
        if not any(argument.startswith("--object-store-memory") for argument in arguments):
            arguments.append("--object-store-memory=300000000")
        log = self.folder / f"node-{len(self.nodes)}.log"
        self.nodes.append(Node(arguments, self._plain, log))
        return self.nodes[-1]

    def processes(self, title=""):
        """Processes of all nodes whose command line begins so."""
        return [process for node in self.nodes for process in node.processes(title)]

    def close(self):
        for node in reversed(self.nodes):
            node.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


@contextmanager
def cluster(environment=(), cpus=2, **options):
    """A `Cluster`, which ends with the block."""
    there = Cluster(environment, cpus, **options)
    try:
        yield there
    finally:
        there.close()


@contextmanager
def head(environment, cpus=2, gpus=0):
    """What a process needs to join a fresh head, which ends with the block.

    The GPUs are some that Ray counts, and that nobody has.
    """
    with cluster(environment, cpus, options=[f"--num-gpus={gpus}"]) as there:
        yield there.environment
