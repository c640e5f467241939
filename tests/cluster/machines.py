"""Machines of a Ray cluster on this one: each in a network namespace, with an address of its own.

What they send one another crosses a bridge, which can be slowed or cut for one of them. Killing a machine
kills every process in its namespace. Needs the right to make namespaces; `possible` tells.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

PORT = 6399
START = 90.0  # seconds a machine may take to join
RAY = Path(sys.executable).with_name("ray")


def _ip(*arguments: str) -> str:
    return subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True).stdout


def possible() -> bool:
    """Whether namespaces can be made here."""
    if shutil.which("ip") is None or os.geteuid() != 0:
        return False
    name = f"ev{secrets.token_hex(3)}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False).returncode == 0
    if made:
        _ip("netns", "del", name)
    return made


@dataclass
class Machine:
    """One machine.

    Attributes:
        name: Of its namespace.
        address: In the network of all.
        environment: Of its processes.
        down: Whether it was killed.
    """

    name: str
    address: str
    environment: dict[str, str]
    down: bool = False

    def command(self, *arguments: str) -> list[str]:
        """A command line that runs on the machine."""
        return ["ip", "netns", "exec", self.name, *arguments]

    def run(self, *arguments: str, timeout: float = 600) -> subprocess.CompletedProcess[str]:
        """Runs a command on the machine to its end."""
        return subprocess.run(
            self.command(*arguments),
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def spawn(self, *arguments: str, log: Path) -> subprocess.Popen[bytes]:
        """Begins a command on the machine; what it prints goes to a file."""
        with log.open("wb") as out:
            return subprocess.Popen(
                self.command(*arguments), env=self.environment, stdout=out, stderr=subprocess.STDOUT
            )

    def pids(self) -> list[int]:
        """Its processes."""
        told = subprocess.run(
            ["ip", "netns", "pids", self.name], capture_output=True, text=True, check=False
        ).stdout
        return [int(pid) for pid in told.split()]

    def kill(self) -> None:
        """Ends all its processes at once, as a power cut would."""
        self.cut()
        self.down = True
        while pids := self.pids():
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.1)

    def cut(self) -> None:
        """Takes its cable out."""
        _ip("-n", self.name, "link", "set", "eth0", "down")

    def slow(self, megabits: int) -> None:
        """Lets no more through of what it sends, a second: the rest waits."""
        tc = ["tc", "qdisc", "replace", "dev", "eth0", "root", "tbf", "rate", f"{megabits}mbit"]
        tc += ["burst", "16kb", "latency", "1s"]
        subprocess.run(self.command(*tc), check=True, capture_output=True)


@dataclass
class Network:
    """Machines on one bridge.

    Attributes:
        bridge: Its name.
        subnet: First three numbers of all addresses.
        scratch: Folder of Ray's sessions.
        machines: Those that were started.
        head: The one that the others join.
    """

    bridge: str
    subnet: str
    scratch: Path
    machines: list[Machine] = field(default_factory=list)

    head: Machine = field(init=False)

    def add_head(self, cpus: float) -> Machine:
        """Starts another head, for machines to come."""
        return self._start(cpus, {}, head=True)

    def add(self, cpus: float, **resources: float) -> Machine:
        """Starts a machine with so many CPUs: the first is the head, the others join it."""
        return self._start(cpus, resources, head=not self.machines)

    def _start(self, cpus: float, resources: dict[str, float], *, head: bool) -> Machine:
        number = len(self.machines) + 1
        name, address = f"{self.bridge}n{number}", f"{self.subnet}.{number}"
        _ip("netns", "add", name)
        _ip("link", "add", f"{name}v", "type", "veth", "peer", "name", "eth0", "netns", name)
        _ip("link", "set", f"{name}v", "master", self.bridge, "up")
        _ip("-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
        _ip("-n", name, "link", "set", "eth0", "up")
        _ip("-n", name, "link", "set", "lo", "up")
        environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
        environment |= {
            "PATH": f"{RAY.parent}:{os.environ['PATH']}",
            "OMP_NUM_THREADS": "1",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": TOKEN,
            "RAY_health_check_period_ms": "1000",
            "RAY_health_check_failure_threshold": "3",
            "RAY_health_check_timeout_ms": "2000",
        }
        machine = Machine(name, address, environment)
        self.machines.append(machine)
        if head:
            self.head = machine
        role = ["--head", f"--port={PORT}"] if head else [f"--address={self.head.address}:{PORT}"]
        started = machine.run(
            str(RAY),
            "start",
            *role,
            f"--node-ip-address={address}",
            f"--num-cpus={cpus:g}",
            f"--resources={json.dumps(resources)}",
            "--object-store-memory=100000000",
            "--disable-usage-stats",
            *([f"--temp-dir={self.scratch / name}", "--include-dashboard=false"] if head else []),
            timeout=START,
        )
        if started.returncode:
            raise RuntimeError(f"machine {number} did not start: {started.stdout}\n{started.stderr}")
        machine.environment["RAY_ADDRESS"] = f"{self.head.address}:{PORT}"
        return machine


TOKEN = secrets.token_hex(32)


@contextlib.contextmanager
def network() -> Iterator[Network]:
    """A bridge without machines; all of it is cleared away in the end."""
    bridge = f"ev{secrets.token_hex(2)}"
    scratch = Path(tempfile.mkdtemp(prefix=bridge, dir="/tmp"))  # Ray's sockets want a short path
    net = Network(bridge, f"10.{200 + os.getpid() % 50}.{secrets.randbelow(250)}", scratch)
    _ip("link", "add", bridge, "type", "bridge")
    _ip("link", "set", bridge, "up")
    try:
        yield net
    finally:
        for machine in net.machines:
            with contextlib.suppress(subprocess.CalledProcessError):
                machine.kill()
            _ip("netns", "del", machine.name)
        _ip("link", "del", bridge)
        shutil.rmtree(scratch, ignore_errors=True)
