"""Jobs of ``ray job submit --working-dir . -- python -m pipelines run ...``, from a clean shell, by token."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import uuid
import zipfile
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from pipelines.cluster import UNFINISHED
from pipelines.manifest import read_manifest
from pipelines.store import Store
from tests.modalities.scenes import values, write_scene

from .conftest import blobs, rows_of

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent


def free_ports(count):
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [s.getsockname()[1] for s in sockets]


class Head:
    """A cluster of one machine and the shell of somebody who sends jobs to it.

    Attributes:
        address: Of its job server.
        shell: The environment of a shell in which nothing is set but what docs/cluster.md says.
    """

    def __init__(self, address, shell):
        self.address, self.shell = address, shell

    def ray(self, *arguments, **options):
        """``ray job ...`` in the root of the project."""
        action, *rest = arguments
        return subprocess.run(
            [BIN / "ray", "job", action, f"--address={self.address}", *rest],
            cwd=ROOT,
            env=self.shell,
            capture_output=True,
            text=True,
            timeout=400,
            **options,
        )

    def submit(self, *arguments, options=()):
        """Runs ``arguments`` as the command ``evenset`` in a job: how its submission ended, and its name."""
        name = f"job-{uuid.uuid4().hex}"
        command = ["--working-dir=.", f"--submission-id={name}", *options, "--", "python", "-m", "pipelines"]
        return self.ray("submit", *command, *map(str, arguments)), name

    def status(self, job):
        """PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED."""
        return self._asked(job)["status"]

    def log(self, job):
        """What the job printed, without what `ray job` prints around it; checked to make sense in a file."""
        log = self._asked(f"{job}/logs")["logs"]
        assert "\x1b" not in log, "escape codes, and there is no terminal"
        assert "Traceback" not in log
        return log

    def _asked(self, path):
        token = (Path(self.shell["HOME"]) / ".ray/auth_token").read_text().strip()
        headers = {"Authorization": f"Bearer {token}"}
        request = urllib.request.Request(f"{self.address}/api/jobs/{path}", headers=headers)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)


@pytest.fixture(scope="module")
def head():
    """A fresh `ray start --head`, which ends with the tests of this file."""
    gcs, dashboard, client, agent, agent_http = free_ports(5)
    folder = tempfile.mkdtemp(prefix="evenset")  # pytest's are too long for Ray's sockets
    shell = {"PATH": f"{BIN}{os.pathsep}{os.defpath}", "HOME": f"{folder}/home", "RAY_AUTH_MODE": "token"}
    Path(shell["HOME"]).mkdir()
    subprocess.run([BIN / "ray", "get-auth-token", "--generate"], env=shell, check=True, capture_output=True)
    options = {
        "port": gcs,
        "dashboard-port": dashboard,
        "ray-client-server-port": client,
        "dashboard-agent-grpc-port": agent,
        "dashboard-agent-listen-port": agent_http,
        "num-cpus": 2,
        "object-store-memory": 300_000_000,
        "temp-dir": f"{folder}/ray",
        "node-ip-address": "127.0.0.1",
    }
    command = [BIN / "ray", "start", "--head", "--block", "--disable-usage-stats"]
    command += [f"--{name}={value}" for name, value in options.items()]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "start_new_session": True}
    with subprocess.Popen(command, env=shell, **quiet) as process:
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
            yield Head(address, shell)
        finally:
            os.killpg(process.pid, signal.SIGKILL)  # the whole head, and nothing else
            process.wait(timeout=60)
            shutil.rmtree(folder, ignore_errors=True)


def succeeded(submitted):
    """The name of a job that must have succeeded."""
    job, name = submitted
    assert job.returncode == 0, job.stdout + job.stderr
    return name


@pytest.mark.cluster
def test_a_submitted_job_curates_a_pool(head, write_config, tmp_path):
    np.save(tmp_path / "pool.npy", blobs(200))
    config = write_config(tmp_path / "pool.npy", cluster={"n_clusters": [10, 3]}, sample={"size": 30})
    job = succeeded(head.submit("run", config))
    assert head.status(job) == "SUCCEEDED"
    run = Store(str(tmp_path / "run"))
    assert f"results: {run.url}" in head.log(job)
    assert read_manifest(run, "report") is not None
    assert sum(run.rows(part) for part in run.list("curated")) == 30


def test_without_the_token_no_job_is_taken(head):
    stranger = Head(head.address, head.shell | {"HOME": os.devnull})
    job, name = stranger.submit("config")
    assert job.returncode != 0
    with pytest.raises(urllib.error.HTTPError, match="404"):
        head.status(name)


def images(folder, digits):
    """A folder of images, one of them damaged."""
    folder.mkdir()
    for i, payload in enumerate(digits):
        (folder / f"{i:03}.png").write_bytes(payload if i else payload[:50])
    return [f"source.path={folder}", "sample.size=40"], 299


def documents(folder, _):
    """A file of documents."""
    folder.mkdir()
    file = folder / "documents.jsonl"
    words = ("sea", "wind", "bread", "stone", "lamp", "rope", "glass", "iron")
    lines = [{"text": f"a {words[i % 8]} and a {words[i // 8 % 8]} number {i}"} for i in range(200)]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return [f"source.path={file}", "sample.size=40", "cluster.resample.steps=1"], 200


def scenes(folder, _):
    """Two scenes, of 8 and of 16 bits, and a file that is none."""
    write_scene(folder / "a.tif", values(4, 512, 640))
    write_scene(folder / "b.tif", values(4, 512, 640, "uint8", seed=1))
    (folder / "c.tif").write_bytes(b"no scene")
    return [f"source.path={folder}", "sample.size=40"], 160


def vectors(folder, _):
    """Embeddings, one of them not finite."""
    folder.mkdir()
    points = blobs(300)
    points[7] = np.nan
    np.save(folder / "embeddings.npy", points)
    return [f"source.path={folder / 'embeddings.npy'}", "sample.size=40"], 299


EXAMPLES = {"images": images, "text": documents, "satellite": scenes, "embeddings": vectors}
"""How each example gets a small pool: the overrides, and how many samples of it are good."""


def test_there_is_a_small_pool_for_every_example():
    assert set(EXAMPLES) == {file.stem for file in (ROOT / "examples").glob("*.yaml")}


@pytest.mark.cluster
@pytest.mark.parametrize("example", EXAMPLES)
def test_every_example_runs_as_a_job(head, example, digits, tmp_path):
    overrides, good = EXAMPLES[example](tmp_path / "pool", digits)
    run = Store(str(tmp_path / "run"))
    job = succeeded(head.submit("run", f"examples/{example}.yaml", *overrides, f"output={run.url}"))
    log = head.log(job)
    for sentence in ("embed: ", "cluster: ", "sample: ", "export: ", f"results: {run.url}"):
        assert any(line.startswith(sentence) for line in log.splitlines()), log
    assert sum(run.rows(part) for part in run.list("embeddings")) == good
    assert len(rows_of(run, "curated")) == 40


def wheel(folder):
    """A plugin of the modality ``tile``, as a wheel."""
    info = "evenset_tile-1.dist-info"
    contents = {
        "evenset_tile.py": "from modalities.image import Image\nclass Tile(Image):\n    name = 'tile'\n",
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: evenset-tile\nVersion: 1\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": "[evenset.modalities]\ntile = evenset_tile:Tile\n",
    }
    file = folder / "evenset_tile-1-py3-none-any.whl"
    with zipfile.ZipFile(file, "w") as archive:
        for name, text in contents.items():
            archive.writestr(name, text)
        listed = [*contents, f"{info}/RECORD"]
        archive.writestr(listed[-1], "".join(f"{name},,\n" for name in listed))
    return file


@pytest.mark.cluster
def test_a_plugin_comes_with_the_job_to_the_driver_and_to_the_workers(head, digits, tmp_path):
    overrides, good = images(tmp_path / "pool", digits)
    brought = json.dumps({"py_modules": [str(wheel(tmp_path))]})
    run = Store(str(tmp_path / "run"))
    command = ["run", "examples/images.yaml", "modality=tile", *overrides, f"output={run.url}"]
    succeeded(head.submit(*command, options=[f"--runtime-env-json={brought}"]))
    assert sum(run.rows(part) for part in run.list("embeddings")) == good
    job, name = head.submit(*command)
    assert job.returncode == 1
    assert "modality 'tile' is unknown" in head.log(name)


@pytest.mark.cluster
def test_a_request_that_cannot_be_met_is_a_failed_job_and_a_sentence(head, write_config, tmp_path):
    job, name = head.submit("run", write_config(tmp_path / "nowhere.npy"))
    assert job.returncode == 1
    assert head.status(name) == "FAILED"
    (said,) = head.log(name).splitlines()[-1:]
    assert said.startswith("evenset: ")
    assert "nowhere.npy" in said


@pytest.mark.cluster
def test_a_run_that_fails_is_a_failed_job_and_a_sentence(head, tmp_path):
    (tmp_path / "pool").mkdir()
    for i in range(30):
        (tmp_path / f"pool/{i}.png").write_bytes(b"no image")
    overrides = [f"source.path={tmp_path / 'pool'}", f"output={tmp_path / 'run'}", "cluster.n_clusters=[3]"]
    job, name = head.submit("run", "examples/images.yaml", *overrides)
    assert job.returncode == 1
    assert head.status(name) == "FAILED"
    assert head.log(name).splitlines()[-1].startswith("evenset: ")


@pytest.mark.cluster
def test_a_stopped_job_goes_on_and_ends_with_the_same_rows(head, write_config, tmp_path):
    np.save(tmp_path / "pool.npy", blobs(4000, 12))
    slow = {"n_clusters": [150, 30, 6], "tol": 0, "max_iter": 30, "checkpoint": 0.001}
    slow["resample"] = {"steps": 5, "points": [4, 3, 2]}
    configs = {
        name: write_config(
            tmp_path / "pool.npy", name, cluster=slow, sample={"size": 300}, output=str(tmp_path / name)
        )
        for name in ("reference", "stopped")
    }
    succeeded(head.submit("run", configs["reference"]))

    header = tmp_path / "stopped" / UNFINISHED / "checkpoint/header.json"
    job = succeeded(head.submit("run", configs["stopped"], options=["--no-wait"]))
    until = time.monotonic() + 180
    while not (header.exists() and json.loads(header.read_text())["step"]):
        assert head.status(job) in ("PENDING", "RUNNING"), "too fast to be stopped: make it longer"
        assert time.monotonic() < until
        time.sleep(0.05)
    assert head.ray("stop", job).returncode == 0
    assert head.status(job) == "STOPPED"
    assert header.exists()
    assert head.log(job).splitlines()[-1] == "stopped; run the same command again to go on from here"

    job = succeeded(head.submit("run", configs["stopped"]))
    assert "goes on from a checkpoint" in head.log(job)
    one, two = (Store(str(tmp_path / name)) for name in configs)
    for folder in ("embeddings", "tree/level-1/assignments", "curated"):
        assert rows_of(one, folder) == rows_of(two, folder)
    assert not two.exists(UNFINISHED)
