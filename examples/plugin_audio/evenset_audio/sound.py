"""What a sound is: the bytes of one WAV file."""

from __future__ import annotations

import base64
import html
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from evenset_audio.waveform import Waveform, decode_wav, encode_wav
from modalities import Modality, Rejected

SHOWN_SECONDS = 4
"""Of a recording that can be heard in the report; the page carries its sounds."""

SHOWN_RATE = 16_000
"""Samples a second that the report plays at most."""

WIDTH, HEIGHT = 160, 32
"""Of the drawn waveform, in pixels."""


class Sound(Modality):
    """Recordings in WAV files; `decode` returns a `Waveform`."""

    name: ClassVar[str] = "sound"
    kind: ClassVar[str] = "sound"
    default_encoder: ClassVar[str] = "log-mel"
    suffixes: ClassVar[tuple[str, ...]] = (".wav", ".wave")
    columns: ClassVar[dict[str, pa.DataType]] = {
        "seconds": pa.float32(),
        "rate": pa.int32(),
        "channels": pa.int32(),
    }
    column_names: ClassVar[tuple[str, ...]] = ("audio", "sound", "wav", "bytes")

    def decode(self, payload: bytes) -> Waveform:
        """Decode a WAV file.

        Raises:
            Rejected: it is empty, damaged, cut off, silent, or something else than PCM.
        """
        return decode_wav(payload)

    def describe(self, sample: Any, payload: bytes) -> dict[str, Any]:
        """Return the length in seconds, the samples a second, and the channels of the file."""
        return {"seconds": sample.seconds, "rate": sample.rate, "channels": sample.channels}

    def show(self, payload: bytes, uri: str) -> str:
        """Return a drawing of the waveform and a player with the beginning of the recording."""
        title = html.escape(uri)
        try:
            sound = self.decode(payload)
        except Rejected as reason:
            return f'<span class="sample" title="{title}">{html.escape(str(reason))}</span>'
        step = -(-sound.rate // SHOWN_RATE)
        heard = sound.values[: SHOWN_SECONDS * sound.rate]
        heard = heard[: max(len(heard) // step, 1) * step]
        heard = np.pad(heard, (0, -len(heard) % step)).reshape(-1, step).mean(axis=1)
        data = base64.b64encode(encode_wav(heard, sound.rate // step)).decode("ascii")
        return (
            f'<span class="sample" title="{title}" style="display: flex; align-items: center; gap: 1em">'
            f"{drawn(sound.values)}"
            f'<audio controls preload="metadata" style="height: 2.2rem" src="data:audio/wav;base64,{data}">'
            f'</audio><span style="white-space: nowrap">{sound.seconds:.1f} s</span></span>'
        )

    def suffix(self, payload: bytes) -> str:
        """Return ``.wav``."""
        return ".wav"


def drawn(values: NDArray[np.float32]) -> str:
    """Draw a waveform (n,) as SVG, a line from the lowest to the highest value of each column of pixels."""
    edges = np.linspace(0, len(values), min(WIDTH, len(values)) + 1).astype(int)[:-1]
    low, high = np.minimum.reduceat(values, edges), np.maximum.reduceat(values, edges)
    loudest = float(np.abs(values).max()) or 1.0
    y = HEIGHT / 2 * (1 - np.stack([high, low]) / loudest)
    path = "".join(f"M{x} {top:.1f}V{bottom + 0.5:.1f}" for x, (top, bottom) in enumerate(y.T))
    return (
        f'<svg width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" aria-hidden="true">'
        f'<path d="{path}" stroke="currentColor" fill="none"/></svg>'
    )
