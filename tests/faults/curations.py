"""A small curation of real images that a fault can hit at any moment, and what came of it."""

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from PIL import Image
from sklearn.datasets import load_digits

from pipelines.store import Store
from tests.pipelines.conftest import rows_of

PATIENCE = 300.0  # seconds for a run to end
ATTEMPTS = 3  # to hit a run before it is over
STAGES = ("embed", "cluster", "sample", "export", "report")


def pictures(file, count, rows_a_part, scale=3, seed=0):
    """A Parquet pool of scans of digits, enlarged and with noise, so that no two are the same."""
    random, digits = np.random.default_rng(seed), load_digits().images
    schema = pa.schema({"name": pa.string(), "image": pa.binary()})
    with pq.ParquetWriter(file, schema) as writer:
        for start in range(0, count, rows_a_part):
            numbers = range(start, min(start + rows_a_part, count))
            images = [_picture(digits[i % len(digits)], scale, random) for i in numbers]
            names = [f"digit-{i}" for i in numbers]
            writer.write_table(pa.table({"name": names, "image": images}, schema))
    return file


def _picture(digit, scale, random):
    pixels = np.kron(digit * 14, np.ones((scale, scale))) + random.integers(0, 32, (8 * scale, 8 * scale))
    buffer = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(buffer, "png")
    return buffer.getvalue()


def write_config(folder, pool, output=None, **sections):
    """A config of a pool of pictures; where its results will be is a store."""
    folder.mkdir(parents=True, exist_ok=True)
    tree = {
        "modality": "image",
        "source": {"path": str(pool), "column": "image", "id_column": "name"},
        "output": str(output or folder / "run"),
        "encoder": {"model": "patches"},
        "sample": {"size": 400},
        "export": {"formats": ["parquet", "ids"]},
        "seed": 3,
        **sections,
        # full scans until nothing moves, for a fit that takes some seconds
        "cluster": {
            "n_clusters": [300, 30],
            "resample": {"steps": 3},
            "algorithm": "lloyd",
            "tol": 0,
            "shards": 2,
            "checkpoint": 0.5,
            **sections.get("cluster", {}),
        },
    }
    file = folder / "run.yaml"
    file.write_text(yaml.safe_dump(tree))
    return file, Store(tree["output"])


def results(run):
    """All rows that a run has made, by id, but for where they came from."""
    folders = ("embeddings", "tree/level-1/assignments", "curated", "export/parquet")
    found = {folder: rows_of(run, folder) for folder in folders}
    level = 1
    while rows := rows_of(run, f"tree/level-{level}/centroids", "cluster"):
        found[f"centroids {level}"] = rows
        level += 1
    found["ids"] = run.read_bytes("export/ids.txt")
    return found


def moment(fault, seed, low=0.05, high=0.9):
    """When a fault comes: the share of a time that has passed, by chance that the seed decides."""
    word = hashlib.blake2b(f"{fault}:{seed}".encode(), digest_size=8).digest()
    return low + (high - low) * int.from_bytes(word) / 2**64


class OverError(Exception):
    """A run, or its stage, was over before its fault; after so many seconds."""

    def __init__(self, seconds):
        super().__init__(f"over after {seconds:.1f} s, before its fault")
        self.seconds = seconds


def in_time(play, seconds, folder):
    """``play(seconds, folder)``, once more with the time that it took where it was over before its fault.

    The machine may have been busier when the seconds were taken.
    """
    for attempt in range(ATTEMPTS - 1):
        try:
            return play(seconds, folder / f"attempt-{attempt}")
        except OverError as over:
            seconds = over.seconds
    return play(seconds, folder / "last-attempt")


class Driver:
    """``evenset run`` in a process of its own.

    Attributes:
        file: Its config.
        run: Where its results will be.
        began: When, on the monotonic clock.
        process: The process.
    """

    def __init__(self, environment, file, run, command="run"):
        self.file, self.run = file, run
        self.log = file.with_suffix(f".{time.monotonic_ns()}.log")
        self.began, self._when = time.monotonic(), time.time()
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "pipelines", command, str(file)],
                env=os.environ | environment,
                cwd=tempfile.gettempdir(),
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def said(self):
        return self.log.read_text()

    def is_over(self):
        return self.process.poll() is not None

    def wait(self, code=0, timeout=PATIENCE):
        """Waits for its end; what it said."""
        assert self.process.wait(timeout) == code, self.said
        assert "Traceback" not in self.said, self.said
        return self.said

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stage(self, name):
        """Seconds from the start of the process at which a stage began and ended, None if it has not."""
        events = self.run.read_bytes("log.jsonl").splitlines() if self.run.exists("log.jsonl") else []
        when = {"start": None, "finish": None}
        for event in map(json.loads, events):
            time_of = datetime.fromisoformat(event["time"]).timestamp() - self._when
            if event.get("stage") == name and event["event"] in when and time_of > 0:
                when[event["event"]] = time_of
        return when["start"], when["finish"]

    def last(self, seconds):
        """Waits so many seconds, while which the run lasts."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if self.is_over():
                self.wait()  # one that failed is no reason to play again
                raise OverError(time.monotonic() - self.began)
            time.sleep(0.02)

    def until(self, name, share, seconds):
        """Waits for a share of the seconds that a stage takes."""
        while self.stage(name)[0] is None:
            assert not self.is_over(), self.said
            time.sleep(0.02)
        time.sleep(share * seconds)

    def check(self, name):
        """That a stage is not over."""
        start, finish = self.stage(name)
        if finish is not None:
            raise OverError(finish - start)
        assert not self.is_over(), self.said


@contextmanager
def driving(environment, file, run, command="run"):
    """A `Driver`, which ends with the block at the latest."""
    driver = Driver(environment, file, run, command)
    try:
        yield driver
    finally:
        driver.kill()


def curate(environment, file, run):
    """A run to its end; how long it and each of its stages took."""
    with driving(environment, file, run) as driver:
        driver.wait()
        took = {"run": time.monotonic() - driver.began}
        for name in STAGES:
            start, finish = driver.stage(name)
            if start is not None:
                took[name] = finish - start
    return took
