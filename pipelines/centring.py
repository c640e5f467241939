"""Where is the centre of a pool of embeddings? Found once, from a sample that chance by hash picks."""

from __future__ import annotations

import io
from typing import Any
from zipfile import BadZipFile

import numpy as np
import ray
from numpy.typing import NDArray

from modalities.encoders.base import Encoder
from pipelines import encode, fitting
from pipelines.config import Config
from pipelines.errors import RunError
from pipelines.form import Form
from pipelines.manifest import digest
from pipelines.pool import Pool
from pipelines.store import Store

CENTRE = "encoder/centre.npz"


def form(encoder: Encoder, pool: Pool, config: Config, store: Store) -> Form:
    """The form that ``encoder.normalize`` asks for; a centre is found once, and kept when the run resumes.

    The centre is the mean embedding of up to `fitting.SAMPLES` samples, those that chance by hash picks.

    Args:
        encoder: Not loaded, but fitted where it learns from the pool.
        pool: Of the run.
        config: Settled.
        store: The run directory.

    Raises:
        RunError: No sample can be embedded, or the encoder fails on all.
    """
    if config.encoder.normalize != "centre":
        return Form() if config.encoder.normalize == "unit" else Form(False, np.dtype(np.float32))
    if not store.exists(CENTRE):
        samples = fitting.sampled(pool, config)
        mean = ray.remote(num_gpus=config.encoder.num_gpus)(_mean)
        buffer = io.BytesIO()
        np.savez(buffer, centre=ray.get(mean.remote(encoder, *samples)))
        store.write_bytes(CENTRE, buffer.getvalue())
    try:
        with np.load(io.BytesIO(store.read_bytes(CENTRE)), allow_pickle=False) as arrays:
            centre = np.asarray(arrays["centre"], np.float32).reshape(encoder.dim)
    except (ValueError, KeyError, AttributeError, EOFError, BadZipFile) as error:
        raise RunError(
            f"{store.url}/{CENTRE} is damaged, or was not written by a run ({error}): delete"
            f" {CENTRE.split('/')[0]} and {encode.EMBEDDINGS} there and run again"
        ) from error
    return Form(centre=centre)


def told(found: Form) -> dict[str, str]:
    """What the manifest says of the centre."""
    return {} if found.centre is None else {"centre": digest(found.centre.tobytes().hex())}


def _mean(encoder: Encoder, *taken: list[Any]) -> NDArray[np.float32]:
    encoder.load()
    encoder.open()
    ready = []
    for sample in (sample for part in taken for sample in part):
        try:
            ready.append(encoder.prepare(sample))
        except Exception:  # the embed stage meets this sample again and rejects it
            continue
    try:
        embeddings, _ = encoder.encode_all(ready)
    except RuntimeError as error:
        raise encode.failed("the samples for the centre (encoder.normalize)", error) from error
    good = embeddings[np.isfinite(embeddings).all(axis=1)]
    if not len(good):
        raise RunError(
            f"none of the samples looked at can be embedded by {encoder.spec}: there is no centre to subtract"
            " (encoder.normalize)"
        )
    mean: NDArray[np.float64] = good.mean(axis=0, dtype=np.float64)
    return mean.astype(np.float32)
