"""An encoder that does what an encoder should not, with some samples or with all."""

import os
import signal

import numpy as np

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
