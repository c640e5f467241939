"""An encoder for tests: it takes a GPU as Ray counts them, computes on the CPU, and notes when it worked.

It is a plugin of the clusters that the tests start, steered by environment variables: EVENSET_NOTES (a
folder), EVENSET_PREPARE and EVENSET_ENCODE (seconds that a sample, and a batch, take), EVENSET_KILL (a file:
with its third batch the process dies, once).
"""

import os
import time
from pathlib import Path

import numpy as np

from modalities.base import Rejected
from modalities.encoders.base import Encoder

ROOT = Path(__file__).resolve().parents[2]


def environment(site):
    """Of a process that has the plugin, once it is installed in ``site``, and this project."""
    return {"PYTHONPATH": f"{site}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}


def noted(folder, kind):
    """Begin and end of everything that was noted, in order of time."""
    lines = [line for file in Path(folder).glob(f"{kind}-*") for line in file.read_text().splitlines()]
    return sorted(tuple(map(float, line.split())) for line in lines)


def _work(kind, seconds):
    began = time.time()
    time.sleep(seconds)
    if folder := os.environ.get("EVENSET_NOTES"):
        with (Path(folder) / f"{kind}-{os.getpid()}").open("a") as notes:
            notes.write(f"{began} {time.time()}\n")


class Pixels(Encoder):
    """The pixels of images of 8 x 8."""

    accepts = ("raster",)

    def __init__(self, argument="", *, kind="raster", batch_size=None, dtype=None, device=None):
        self.spec, self.dim, self.batch_size = "pixels", 64, batch_size or 20
        self.input_shape, self.input_dtype = (8, 8, 1), np.dtype(np.float32)
        self._batches = 0

    def prepare(self, sample):
        if sample.shape[:2] != (8, 8):
            raise Rejected("It is not 8 x 8.")
        _work("prepare", float(os.environ.get("EVENSET_PREPARE", 0)))
        return np.ascontiguousarray(sample[..., :1], np.float32) + 1

    def load(self):
        _work("load", 0)

    def encode(self, batch, like=None):
        _work("encode", float(os.environ.get("EVENSET_ENCODE", 0)))
        self._batches += 1
        kill = Path(os.environ.get("EVENSET_KILL", "/nowhere"))
        if self._batches == 3 and kill.exists():
            kill.unlink()
            os._exit(1)
        return np.stack(batch).reshape(len(batch), -1)
