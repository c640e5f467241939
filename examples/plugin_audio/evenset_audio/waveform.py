"""WAV bytes become a waveform, and a waveform WAV bytes, by the standard library."""

from __future__ import annotations

import io
import wave
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from modalities import Rejected


@dataclass(frozen=True)
class Waveform:
    """A recording.

    Attributes:
        values: (n,), float32 in -1..1, the mean of the channels.
        rate: samples a second.
        channels: of the file.
    """

    values: NDArray[np.float32]
    rate: int
    channels: int

    @property
    def seconds(self) -> float:
        """How long it is."""
        return len(self.values) / self.rate


def decode_wav(payload: bytes) -> Waveform:
    """Decode PCM of 8, 16, 24 or 32 bits.

    Raises:
        Rejected: it is empty, damaged, cut off, silent, or something else than PCM in a WAV file.
    """
    try:
        with wave.open(io.BytesIO(payload)) as file:
            channels, width, rate, frames = file.getparams()[:4]
            data = file.readframes(frames)
    except wave.Error as error:
        raise Rejected(f"The file is no WAV of PCM ({error}).") from None
    except Exception:  # a damaged header: EOFError, struct.error, ZeroDivisionError, ...
        raise Rejected("The WAV file is empty or damaged.") from None
    if not frames or not rate:
        raise Rejected("The recording is empty.")
    if len(data) < frames * channels * width:
        raise Rejected("The WAV file is cut off.")
    mono = _pcm(data, width).reshape(-1, channels).mean(axis=1, dtype=np.float32)
    if not mono.any():
        raise Rejected("The recording is silent.")
    return Waveform(mono, rate, channels)


def encode_wav(values: NDArray[np.float32], rate: int) -> bytes:
    """Encode mono values (n,) in -1..1 as PCM of 16 bits."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((np.clip(values, -1, 1) * 32_767).astype("<i2").tobytes())
    return buffer.getvalue()


def _pcm(data: bytes, width: int) -> NDArray[np.float32]:
    """Samples as float32 in -1..1; 8 bits are unsigned, all others signed and little-endian."""
    whole = np.zeros((len(data) // width, 4), np.uint8)
    whole[:, 4 - width :] = np.frombuffer(data, np.uint8).reshape(-1, width)  # the upper bytes of 32 bits
    if width == 1:
        whole[:, 3] ^= 128
    values: NDArray[np.float32] = whole.view("<i4")[:, 0].astype(np.float32) / np.float32(2**31)
    return values
