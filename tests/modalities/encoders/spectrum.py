"""An encoder of somebody else's, for chips of five bands: the mean and the spread of each."""

from typing import ClassVar

import numpy as np

from modalities import Rejected
from modalities.encoders.base import Encoder

BANDS = 5


class Spectrum(Encoder):
    """Without anything to learn or to load."""

    accepts: ClassVar = ("raster",)
    input_shape, input_dtype = (2 * BANDS,), np.dtype(np.float32)
    dim = 2 * BANDS

    def __init__(self, argument, *, kind="raster", batch_size=None, dtype=None, device=None):
        self.spec, self.batch_size = "spectrum", batch_size or 8

    def prepare(self, sample):
        if sample.shape[2] != BANDS:
            raise Rejected(f"It has {sample.shape[2]} bands, but spectrum takes {BANDS}.")
        return np.concatenate([sample.mean(axis=(0, 1)), sample.std(axis=(0, 1))]).astype(np.float32)

    def load(self):
        pass

    def encode(self, batch, like=None):
        return np.stack(batch)
