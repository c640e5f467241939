"""Samples that kill: an encoder, a modality and a filesystem that die of marked pictures or of names.

As crashing libraries would: the process is gone, and nobody can catch anything. ``install`` makes a plugin of
them that a process finds by PYTHONPATH.
"""

import os
import signal
import time
from pathlib import Path

import numpy as np
from fsspec.implementations.local import LocalFileSystem

from modalities.base import Rejected
from modalities.encoders.base import Encoder
from modalities.image import Image

MARK = 251
"""The first pixel of a picture that kills; no digit has it."""

MILD = "EVENSET_TEST_MILD"
"""Where this is set, what would kill or hang raises an error."""


def marked(pixels):
    return pixels[0, 0, 0] == MARK


def die(error):
    if os.environ.get(MILD):
        raise error
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)  # a signal may take a moment


class Deadly(Encoder):
    """``deadly:encode`` dies of a marked picture when it encodes it, and so on; ``deadly:never`` does not."""

    accepts = ("raster",)
    input_shape, input_dtype = (8, 8, 1), np.dtype(np.uint8)
    dim = 16

    def __init__(self, argument, *, kind="raster", batch_size=None, dtype=None, device=None):
        self.spec, self.how, self.batch_size = f"deadly:{argument}", argument, batch_size or 8
        self.weights = None

    def prepare(self, sample):
        if marked(sample) and self.how == "prepare":
            die(Rejected("It is marked."))
        while marked(sample) and self.how == "hang":
            time.sleep(1)
        return np.ascontiguousarray(sample[:8, :8, :1])

    def load(self):
        if self.how == "load":
            die(RuntimeError("It does not load."))
        self.weights = np.random.default_rng(0).normal(size=(64, self.dim)).astype(np.float32)

    def order(self, prepared):
        if self.how == "order" and any(map(marked, prepared)):
            die(RuntimeError("It is marked."))
        return super().order(prepared)

    def encode(self, batch, like=None):
        if self.how == "encode" and any(map(marked, batch)):
            die(RuntimeError("It is marked."))
        rows = np.zeros((self.batch_size, 64), np.float32)
        rows[: len(batch)] = [np.ravel(row) for row in batch]
        return (rows @ self.weights)[: len(batch)]


class Deadlier(Image):
    """Pictures, of which marked ones cannot even be decoded."""

    name = "deadlier"

    def decode(self, payload):
        pixels = super().decode(payload)
        if marked(pixels):
            die(Rejected("It is marked."))
        return pixels


class DeadlyFiles(LocalFileSystem):
    """The local disk; a file whose name says ``kill`` or ``hang`` does so when it is opened."""

    protocol = "deadly"

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(str(path).removeprefix("deadly://"))

    def unstrip_protocol(self, name):
        return f"deadly://{name}"

    def open(self, path, *arguments, **options):
        if "kill" in Path(path).name:
            die(OSError("It is marked."))
        while "hang" in Path(path).name:
            time.sleep(1)
        return super().open(path, *arguments, **options)


def install(folder):
    """A distribution with all three, as pip leaves it in ``folder``."""
    info = folder / "evenset_deadly-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: evenset-deadly\nVersion: 1\n")
    here = "tests.faults.deadly"
    (info / "entry_points.txt").write_text(
        f"[evenset.encoders]\ndeadly = {here}:Deadly\n[evenset.modalities]\ndeadlier = {here}:Deadlier\n"
        f"[fsspec.specs]\ndeadly = {here}:DeadlyFiles\n"
    )
    return folder
