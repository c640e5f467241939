"""How many samples should a batch of the model hold? Measured for a large pool, once.

Larger batches keep a device busier until that stops paying, and then take memory alone. The size has a part
in the last bits of the embeddings, so it is kept in the config of the run and not measured again.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow.compute as pc

from modalities.base import Modality, Part, Source
from modalities.encoders.base import Encoder, ran_out
from pipelines import encode

WORTH = 50_000
"""Samples of a pool from which on the measurement, of some seconds, is worth it."""

SAMPLES = 512
"""Samples that every size is tried on, so the largest size too."""

GAIN = 1.05
"""How many times as fast twice the size has to be."""

_SECONDS = 1.0  # that a size is tried for, and at least once

Rate = tuple[int, float | None]
"""A size, and the samples a second with it; None where memory ran out."""


def measured(
    encoder: Encoder, source: Source, part: Part, modality: Modality, timeout: float | None
) -> list[Rate]:
    """What `rates` finds, in a process like those that will encode.

    Args:
        encoder: Not loaded.
        source: Of the pool.
        part: Of the pool, read where samples differ in what they take of a model, as texts do.
        modality: Of the pool.
        timeout: Seconds for one sample to be decoded.

    Returns:
        Nothing where no sample can be prepared: the embed stage meets them again and says why.
    """
    prepared = _prepared(encoder, source, part, modality, timeout)
    if not prepared:
        return []
    encoder.load()
    return rates(encoder, prepared)


def rates(encoder: Encoder, prepared: Sequence[Any]) -> list[Rate]:
    """Double the batch of an encoder as long as that pays; halve it where memory runs out at the beginning.

    Args:
        encoder: Loaded; its `batch_size` is where to begin.
        prepared: Rows to encode; no batch is larger than all of them.

    Returns:
        Every size that was tried; see `best`.
    """
    size = encoder.batch_size
    found = [(size, _rate(encoder, prepared, size))]
    while found[-1][1] is None and size > 1:
        size //= 2
        found.append((size, _rate(encoder, prepared, size)))
    if found[0][1] is None:
        return found
    while 2 * size <= len(prepared) and (len(found) == 1 or _pays(*found[-2:])):
        size *= 2
        found.append((size, _rate(encoder, prepared, size)))
    return found


def best(found: Sequence[Rate], otherwise: int) -> int:
    """The smallest of the sizes tried, in their order, that the next one does not better by `GAIN`.

    Args:
        found: From `rates`.
        otherwise: The size where nothing was tried.
    """
    if not found:
        return otherwise
    if found[0][1] is None:  # halved until it fitted
        return found[-1][0]
    return found[-1][0] if len(found) < 2 or _pays(*found[-2:]) else found[-2][0]


def told(found: Sequence[Rate]) -> str:
    """What was tried, for a person."""
    return ", ".join(f"{size}: " + (f"{rate:.3g}/s" if rate else "no memory") for size, rate in found)


def _pays(before: Rate, after: Rate) -> bool:
    return before[1] is not None and after[1] is not None and after[1] >= GAIN * before[1]


def _rate(encoder: Encoder, prepared: Sequence[Any], size: int) -> float | None:
    """Samples a second in batches of this size, or None where memory runs out."""
    encoder.batch_size = size
    batches = [([prepared[i] for i in rows], None) for rows in encoder.batches(prepared)]
    if any(map(ran_out, encoder.outcomes(batches[:1]))):  # the longest texts; the first time is slow besides
        return None
    began, turns = time.perf_counter(), 0
    while not turns or time.perf_counter() - began < _SECONDS:
        if any(map(ran_out, encoder.outcomes(batches))):
            return None
        turns += 1
    return turns * len(prepared) / (time.perf_counter() - began)


def _prepared(
    encoder: Encoder, source: Source, part: Part, modality: Modality, timeout: float | None
) -> list[Any]:
    if encoder.input_shape is not None and -1 not in encoder.input_shape:
        return [np.zeros(encoder.input_shape, encoder.input_dtype)] * SAMPLES  # all samples are alike to it
    records = encode.tabled(source.read(part), source.kept).slice(0, SAMPLES)
    samples = encode.prepared(records, modality, encoder, timeout)
    good = np.flatnonzero(pc.is_null(samples["reason"]).to_numpy())
    return encode.inputs(encoder, samples, good)
