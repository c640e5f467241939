"""Encoders that do what they should not, with some samples or with all, or that tell where they work."""

import os
import signal

import numpy as np
import ray

from modalities.base import ModalityError
from modalities.encoders.base import Encoder

NAN, INFINITE, ZERO, RAISES, CUT = 251, 252, 253, 254, 255
"""What it does with a picture whose first pixel is this."""

FAR = 500.0


class Wrong(Encoder):
    """``wrong:some``: with marked samples; ``wrong:HOW``: with all."""

    accepts = ("raster",)
    input_shape, input_dtype = (8, 8, 1), np.dtype(np.uint8)
    dim, truncates = 16, True

    def __init__(self, argument, *, kind="raster", batch_size=None, dtype=None, device=None):
        self.spec, self.how, self.batch_size = f"wrong:{argument}", argument, batch_size or 8

    def prepare(self, sample):
        return np.ascontiguousarray(sample[:8, :8, :1])

    def is_truncated(self, sample, prepared):
        return bool(prepared[0, 0, 0] == CUT)

    def load(self):
        if self.how == "unloadable":
            raise ModalityError("The weights of 'wrong' are not here.")
        self.weights = np.random.default_rng(0).normal(size=(64, self.dim)).astype(np.float32)

    def encode(self, batch, like=None):
        if self.how == "frail" and self.batch_size > 8:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.how.startswith("narrow") and self.batch_size > int(self.how.removeprefix("narrow")):
            np.empty(2**56)  # more than any machine has
        marks = np.array([row[0, 0, 0] for row in batch])
        if (marks == RAISES).any():
            raise ValueError("it is marked")
        rows = np.zeros((self.batch_size, 64), np.float32)
        rows[: len(batch)] = [np.ravel(row) for row in batch]
        found = (rows @ self.weights)[: len(batch)]
        for mark, value in ((NAN, np.nan), (INFINITE, np.inf), (ZERO, 0)):
            found[marks == mark] = value
        if self.how == "shape":
            return found[:, :1]
        return found / 1000 + FAR if self.how == "far" else found


class Placed(Wrong):
    """What it makes of a picture is where that was prepared, and where it was encoded."""

    input_shape, input_dtype = (1,), np.dtype(np.int64)
    dim, truncates = 2, False

    def prepare(self, sample):
        return np.array([workplace()])

    def encode(self, batch, like=None):
        return np.array([[row[0], workplace()] for row in batch], np.float32)


TASK, ACTOR = 1, 2


def workplace():
    """Where this is done. A process tells nothing: that of a task may be an actor's later."""
    here = ray.get_runtime_context()
    return ACTOR if here.get_actor_id() else TASK if here.get_task_id() else 0
