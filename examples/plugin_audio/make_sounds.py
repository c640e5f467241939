"""Make sounds of eight known classes with a long tail: python make_sounds.py FOLDER [COUNT [SEED]]."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from evenset_audio.waveform import encode_wav
from numpy.typing import NDArray

RATE = 16_000
CLASSES = ("hum", "noise", "tone", "chirp-up", "clicks", "tremolo", "chirp-down", "vibrato")
"""From the most frequent to the rarest: each has 0.6 times the share of the one before it."""


def sound(kind: str, random: np.random.Generator) -> NDArray[np.float32]:
    """One sound of a class, of random pitch, length, loudness and noise."""
    t = np.arange(int(random.uniform(0.5, 1.0) * RATE)) / RATE
    pitch = 300 * 2 ** random.uniform(0, 3)
    if kind == "hum":
        values = sum(np.sin(2 * np.pi * (k * pitch / 6) * t) / k for k in range(1, 12))
    elif kind == "noise":
        values = random.normal(size=len(t))
    elif kind == "clicks":
        values = (np.mod(t, 1 / random.uniform(5, 15)) < 0.002) * random.normal(size=len(t))
    elif kind == "tremolo":
        values = np.sin(2 * np.pi * pitch * t) * (1 + np.sin(2 * np.pi * random.uniform(5, 9) * t))
    else:
        bend = {"tone": 0 * t, "chirp-up": 2 * t / t[-1], "chirp-down": -2 * t / t[-1]}.get(kind)
        if bend is None:
            bend = 0.3 * np.sin(2 * np.pi * random.uniform(4, 8) * t)
        values = np.sin(2 * np.pi * np.cumsum(pitch * 2**bend) / RATE)
    values = values / np.abs(values).max() + 0.01 * random.normal(size=len(t))
    loud: NDArray[np.float32] = (values * random.uniform(0.2, 0.9)).astype(np.float32)
    return loud


def make(folder: Path, count: int = 600, seed: int = 0) -> None:
    """Write ``count`` sounds as ``FOLDER/CLASS/NUMBER.wav``."""
    random = np.random.default_rng(seed)
    shares = 0.6 ** np.arange(len(CLASSES))
    for i, kind in enumerate(random.choice(CLASSES, count, p=shares / shares.sum())):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        (folder / kind / f"{i:04d}.wav").write_bytes(encode_wav(sound(kind, random), RATE))


if __name__ == "__main__":
    make(Path(sys.argv[1]), *map(int, sys.argv[2:]))
