"""An encoder that learns from the pool learns here, once, from a sample that chance by hash picks."""

from __future__ import annotations

import io
from collections import Counter
from typing import Any
from zipfile import BadZipFile

import numpy as np
import ray
from numpy.typing import NDArray

from curation import KMeans
from curation.chance import Purpose, draws, keys_of, mixed, salt, smallest
from modalities.base import FittedEncoder, Modality, Part, Record, Source
from pipelines import encode
from pipelines.errors import RunError
from pipelines.manifest import digest
from pipelines.pool import Pool, samples_of
from pipelines.store import Store
from pipelines.tally import Tally

STATE = "encoder/state.npz"
SAMPLES = 2_000
PARTS = 64
"""The sample comes from at most this many parts: the whole pool is not read for it."""


def fit(encoder: FittedEncoder, pool: Pool, seed: int, store: Store) -> str:
    """Fit ``encoder`` or give it the state of an earlier run; return the hash of its state.

    Raises:
        RunError: No sample can be decoded, of all or of the many that were looked at.
        ModalityError: There is too little to learn from.
    """
    if not store.exists(STATE):
        chosen = _chosen_parts(pool, seed)
        share = -(-SAMPLES // len(chosen))
        take = ray.remote(num_returns=2)(_take)
        answers = [take.remote(pool.source, pool.modality, part, seed, share) for part in chosen]
        _check_any(ray.get([tally for _, tally in answers]), chosen, pool)
        state = ray.get(ray.remote(_fit).remote(encoder, seed, *(samples for samples, _ in answers)))
        buffer = io.BytesIO()
        np.savez(buffer, **state)
        store.write_bytes(STATE, buffer.getvalue())
    state = _kept(store)
    encoder.set_state(state)
    # of the arrays and not of the file, which holds the time at which it was written
    return digest({name: [str(a.dtype), a.shape, a.tobytes().hex()] for name, a in sorted(state.items())})


def _kept(store: Store) -> dict[str, NDArray[Any]]:
    try:
        with np.load(io.BytesIO(store.read_bytes(STATE)), allow_pickle=False) as arrays:
            return dict(arrays)
    except (ValueError, AttributeError, EOFError, BadZipFile) as error:  # pickled objects are a ValueError
        raise RunError(
            f"{store.url}/{STATE} is damaged, or was not written by a run ({error}): delete"
            f" {STATE.split('/')[0]} and {encode.EMBEDDINGS} there and run again"
        ) from error


def _chosen_parts(pool: Pool, seed: int) -> list[Part]:
    keys = keys_of(str(part.index) for part in pool.parts)
    luck = draws(mixed(keys), salt(seed, Purpose.ENCODER_FIT, 0))
    return [pool.parts[i] for i in sorted(smallest(luck, keys, PARTS))]


def _take(source: Source, modality: Modality, part: Part, seed: int, share: int) -> tuple[list[Any], Tally]:
    """Decode up to ``share`` samples of a part: those with the smallest draws that can be decoded.

    Returns:
        The samples, and why there are not more.
    """
    reasons: Counter[str] = Counter()
    records: list[Record] = []
    for record in map(encode.nameable, source.read(part)):
        if record.payload is None:
            reasons[record.reason or encode.UNREAD] += 1
        else:
            records.append(record)
    keys = keys_of(record.id for record in records)
    luck = draws(mixed(keys), salt(seed, Purpose.ENCODER_FIT, 1))
    samples: list[Any] = []
    for i in smallest(luck, keys, len(records)):
        payload = records[i].payload
        if len(samples) == share:
            break
        try:
            samples.append(modality.decode(payload or b""))
        except Exception as error:  # the embed stage meets this sample again and rejects it
            reasons[encode.verdict(error)] += 1
    return samples, Tally(len(samples), reasons.total(), reasons)


def _check_any(tallies: list[Tally], chosen: list[Part], pool: Pool) -> None:
    """Stop where there is nothing to learn from, and say why."""
    seen = Tally()
    for tally in tallies:
        seen.add(tally)
    if not seen.embedded:
        looked = sum(samples_of(part) for part in chosen)
        those = f"{looked:,} samples" + (f" looked at, of {pool.size:,}," if looked < pool.size else "")
        raise RunError(f"all {those} were rejected: {seen.told()}")


def _fit(encoder: FittedEncoder, seed: int, *taken: list[Any]) -> dict[str, NDArray[Any]]:
    return encoder.fit([sample for part in taken for sample in part], kmeans, seed)


def kmeans(points: NDArray[np.float32], n_clusters: int, seed: int) -> NDArray[np.float32]:
    """This project's k-means as encoders want it: points (n, d) to centroids (k, d).

    The classical form: a small sample once, and what is learned changes little where the sample does.
    """
    estimator = KMeans(n_clusters, init="k-means++", algorithm="lloyd", tol=0.0, random_state=seed)
    fitted: NDArray[np.float32] = estimator.fit(points).cluster_centers_
    return fitted
