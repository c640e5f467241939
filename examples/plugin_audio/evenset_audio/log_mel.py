"""An encoder of sounds without a model to download: statistics of the log-mel spectrogram.

The scale is O'Shaughnessy's, m = 2595 log10(1 + f / 700), and the filters are triangles of height 1 between
neighbouring centres, as in S. Davis and P. Mermelstein, "Comparison of Parametric Representations for
Monosyllabic Word Recognition" (IEEE TASSP 1980). NumPy is all that it needs.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from evenset_audio.waveform import Waveform
from modalities import FittedEncoder, KMeansFn, ModalityError

BANDS = 40
"""Filters of the bank."""

LOWEST, HIGHEST = 50.0, 8_000.0
"""Hertz between which the filters lie; those above half a recording's rate see nothing."""

FRAME, HOP = 0.032, 0.016
"""Length of a frame, and from one to the next, in seconds."""

FLOOR = 1e-6
"""Added to the energy of a band before the logarithm (a sound is brought to a mean square of 1)."""

SAME = 1e-3
"""A statistic that varies less than this over the pool says nothing; it would be rounding, made large."""

FRAMES = 4_096
"""Frames that are in memory at once."""


class LogMel(FittedEncoder):
    """Mean and deviation of each band over time, and the deviation of its change; 120 dimensions.

    What it learns from the pool is the mean and the scale of each statistic, so that all count alike.
    Loudness does not count: a sound is brought to a mean square of 1.

    Args:
        argument: nothing may follow the name.
        kind: ``sound``.
        batch_size: sounds of a batch.
        dtype: only float32.
        device: it computes on the CPU.

    Raises:
        ModalityError: something else was asked for.
    """

    accepts: ClassVar[tuple[str, ...]] = ("sound",)

    def __init__(
        self,
        argument: str = "",
        *,
        kind: str = "sound",
        batch_size: int | None = None,
        dtype: str | None = None,
        device: str | None = None,
    ) -> None:
        if argument:
            raise ModalityError(f"encoder.model 'log-mel' takes no argument, but got {argument!r}.")
        if dtype not in (None, "auto", "float32"):
            raise ModalityError(f"encoder.dtype {dtype!r}: the encoder 'log-mel' computes in float32.")
        self.spec = "log-mel"
        self.dim = 3 * BANDS
        self.batch_size = batch_size or 256
        self.input_shape = (self.dim,)
        self.input_dtype = np.dtype(np.float32)
        self._state: dict[str, NDArray[Any]] = {}

    def fit(self, samples: Sequence[Any], kmeans: KMeansFn, seed: int) -> dict[str, NDArray[Any]]:
        """Learn mean and scale of the statistics from decoded sounds.

        Raises:
            ModalityError: there is no sound.
        """
        if not len(samples):
            raise ModalityError("The encoder 'log-mel' has no sound to learn from: every one was rejected.")
        found = np.stack([self.prepare(sample) for sample in samples]).astype(np.float64)
        spread = found.std(axis=0)
        scale = np.divide(1, spread, out=np.zeros_like(spread), where=spread > SAME)
        state = {"mean": found.mean(axis=0).astype(np.float32), "scale": scale.astype(np.float32)}
        self.set_state(state)
        return state

    def set_state(self, state: dict[str, NDArray[Any]]) -> None:
        """Take what `fit` learned.

        Raises:
            ModalityError: it is not of this encoder.
        """
        if {name: array.shape for name, array in state.items()} != {
            "mean": (self.dim,),
            "scale": (self.dim,),
        }:
            raise ModalityError("The state is not one of the encoder 'log-mel': delete encoder/ of the run.")
        self._state = state

    def prepare(self, sample: Any) -> NDArray[np.float32]:
        """Return the statistics (120,) of a sound."""
        log_mel = log_mel_spectrogram(sample)
        change = np.diff(log_mel, axis=0) if len(log_mel) > 1 else np.zeros_like(log_mel)
        statistics = [log_mel.mean(axis=0), log_mel.std(axis=0), change.std(axis=0)]
        return np.concatenate(statistics).astype(np.float32)

    def load(self) -> None:
        """There are no weights."""

    def encode(
        self,
        batch: Sequence[NDArray[Any] | str],
        like: Sequence[NDArray[Any] | str] | None = None,
    ) -> NDArray[np.float32]:
        """Standardise the statistics of each sound; rows do not depend on one another."""
        standard: NDArray[np.float32] = (np.stack(batch) - self._state["mean"]) * self._state["scale"]
        return standard


def log_mel_spectrogram(sound: Waveform) -> NDArray[np.float64]:
    """Log-energies (frames, `BANDS`) of a sound at a mean square of 1."""
    values = sound.values.astype(np.float64)
    values /= np.sqrt(np.mean(values**2))
    length, hop = max(round(FRAME * sound.rate), 2), max(round(HOP * sound.rate), 1)
    values = np.pad(values, (0, max(length - len(values), 0)))
    frames = np.lib.stride_tricks.sliding_window_view(values, length)[::hop]
    window, bank = np.hanning(length), filter_bank(sound.rate, length)
    energies = [
        np.abs(np.fft.rfft(frames[i : i + FRAMES] * window)) ** 2 @ bank
        for i in range(0, len(frames), FRAMES)
    ]
    return np.log(np.concatenate(energies) / length + FLOOR)


@functools.lru_cache(maxsize=16)
def filter_bank(rate: int, length: int) -> NDArray[np.float64]:
    """Weights (length // 2 + 1, `BANDS`) of the frequencies of a frame in each band."""
    low, high = (2595 * np.log10(1 + f / 700) for f in (LOWEST, HIGHEST))
    corners = 700 * (10 ** (np.linspace(low, high, BANDS + 2) / 2595) - 1)
    frequencies = np.fft.rfftfreq(length, 1 / rate)[:, None]
    below, centre, above = corners[:-2], corners[1:-1], corners[2:]
    rising = (frequencies - below) / (centre - below)
    falling = (above - frequencies) / (above - centre)
    return np.clip(np.minimum(rising, falling), 0, None)
