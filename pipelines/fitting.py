"""An encoder or a modality that learns from the pool learns here, once, from a sample that a hash picks."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable
from typing import Any
from zipfile import BadZipFile

import numpy as np
import pyarrow as pa
import ray
from numpy.typing import NDArray
from ray import ObjectRef

from curation.chance import Purpose, draws, keys_of, mixed, salt, smallest
from curation.hierarchy import grow
from curation.inputs import held
from curation.recipe import Recipe
from modalities.base import FittedModality, Part, Record, Source
from modalities.encoders.base import FittedEncoder
from pipelines import encode, rescue, steps
from pipelines.config import Config
from pipelines.errors import RunError
from pipelines.limits import check_lost
from pipelines.lone import DEATHS, Work
from pipelines.manifest import digest
from pipelines.pool import Pool, samples_of
from pipelines.startup import identity
from pipelines.store import Store
from pipelines.tally import Tally
from pipelines.watchdog import watchdog

STATE = "encoder/state.npz"
MODALITY = "encoder/modality.npz"
SAMPLES = 2_000
GLIMPSES = 500
_SPARE = 16  # beyond a part's share of the draws, so that all of the luckiest are among them
PARTS = 64
"""The sample comes from at most this many parts: the whole pool is not read for it."""

State = dict[str, NDArray[Any]]
Drawn = list[tuple[float, str, Any]]
"""Luck and id of each sample, and what was made of it."""


def fit(encoder: FittedEncoder, pool: Pool, config: Config, store: Store) -> str:
    """Fit ``encoder`` or give it the state of an earlier run; return the hash of its state.

    Raises:
        RunError: No sample can be decoded, of all or of the many that were looked at.
        ModalityError: There is too little to learn from.
    """

    def learn() -> State:
        taken = sampled(pool, config)
        state: State = ray.get(ray.remote(_fit).remote(encoder, config.seed, *taken))
        return state

    return _learned(store, STATE, encoder, learn)


def fit_modality(modality: FittedModality, pool: Pool, config: Config, store: Store) -> str:
    """As `fit`, of the modality that decodes."""

    def learn() -> State:
        taken = _taken(pool, config, modality.glimpse, GLIMPSES)
        state: State = ray.get(ray.remote(_fit_modality).remote(modality, *taken))
        return state

    return _learned(store, MODALITY, modality, learn)


def _learned(
    store: Store, name: str, learner: FittedEncoder | FittedModality, learn: Callable[[], State]
) -> str:
    """Give the state that is kept as ``name``, or learned now, to the learner; return its hash."""
    if not store.exists(name):
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **learn())
        store.write_bytes(name, buffer.getvalue())
    state = _kept(store, name)
    learner.set_state(state)
    # of the arrays and not of the file, which holds the time at which it was written
    return digest({name: [str(a.dtype), a.shape, a.tobytes().hex()] for name, a in sorted(state.items())})


def sampled(pool: Pool, config: Config) -> list[ObjectRef]:
    """Up to `SAMPLES` decoded samples, those that chance by hash picks, in lists.

    Raises:
        RunError: No sample can be decoded, of all or of the many that were looked at.
    """
    return _taken(pool, config, pool.modality.decode, SAMPLES)


def _kept(store: Store, name: str) -> State:
    try:
        with np.load(io.BytesIO(store.read_bytes(name)), allow_pickle=False) as arrays:
            return dict(arrays)
    except (ValueError, AttributeError, EOFError, BadZipFile) as error:  # pickled objects are a ValueError
        raise RunError(
            f"{store.url}/{name} is damaged, or was not written by a run ({error}): delete"
            f" {name.split('/')[0]} and {encode.EMBEDDINGS} there and run again"
        ) from error


def _chosen_parts(pool: Pool, seed: int) -> list[Part]:
    keys = keys_of(map(str, range(len(pool.parts))))
    luck = draws(mixed(keys), salt(seed, Purpose.ENCODER_FIT, 0))
    return list(pool.chosen(sorted(smallest(luck, keys, PARTS))))


def _taken(pool: Pool, config: Config, look: Callable[[bytes], Any], most: int) -> list[ObjectRef]:
    """What ``look`` makes of up to ``most`` samples, from parts that may kill their process over others.

    Every part offers twice its share, the luckiest first, of which the luckiest of all are taken: so it does
    not matter how the pool is cut, or in what form it comes, where there are no more than `PARTS` parts.

    Returns:
        A list of samples, by their luck, as the only entry of a list.

    Raises:
        RunError: It makes nothing of any.
    """
    chosen = _chosen_parts(pool, config.seed)
    seconds, looked = config.limits.timeout, sum(samples_of(part) for part in chosen)
    arguments = [
        (look, config.seed, min(most, 2 * -(-most * samples_of(part) // looked) + _SPARE), seconds)
        for part in chosen
    ]
    take = ray.remote(num_returns=2, max_retries=steps.RETRIES)(_take)
    take_sound = ray.remote(num_returns=2)(_take_sound)
    sound = ray.remote(num_cpus=0)(steps.alike(rescue.sound))
    answers = [take.remote(pool.source, part, *args) for part, args in zip(chosen, arguments, strict=True)]
    work = Work(pool.source, pool.modality, None, seconds, 1.0, None, identity())
    lost: dict[int, str] = {}
    for i, part in enumerate(chosen):
        try:
            ray.get(answers[i][1])
        except DEATHS:
            lost[part.index] = "decode"
            check_lost(lost, config.limits.deadly_parts)
            answers[i] = take_sound.remote(sound.remote(part, work), *arguments[i])
    _check_any(ray.get([tally for _, tally in answers]), chosen, pool)
    return [ray.remote(_luckiest).remote(most, *(offered for offered, _ in answers))]


def _luckiest(most: int, *offered: Drawn) -> list[Any]:
    """The ``most`` samples of the smallest draws, in their order."""
    together = sorted((one for offers in offered for one in offers), key=lambda one: one[:2])
    return [sample for _, _, sample in together[:most]]


def _take(
    source: Source, part: Part, look: Callable[[bytes], Any], seed: int, share: int, seconds: float
) -> tuple[Drawn, Tally]:
    """Look at up to ``share`` samples of a part: those with the smallest draws that can be decoded.

    Returns:
        The samples, and why there are not more.
    """
    return _drawn([encode.nameable(record) for record in source.read(part)], look, seed, share, seconds)


def _take_sound(
    samples: pa.Table, look: Callable[[bytes], Any], seed: int, share: int, seconds: float
) -> tuple[Drawn, Tally]:
    """As `_take`, of what `rescue.sound` left of a part."""
    found = samples.select(encode.READ).to_pylist()
    return _drawn([Record(**row) for row in found], look, seed, share, seconds)


def _drawn(
    found: list[Record], look: Callable[[bytes], Any], seed: int, share: int, seconds: float
) -> tuple[Drawn, Tally]:
    reasons = Counter(record.reason or encode.UNREAD for record in found if record.payload is None)
    records = [record for record in found if record.payload is not None]
    keys = keys_of(record.id for record in records)
    luck = draws(mixed(keys), salt(seed, Purpose.ENCODER_FIT, 1))
    samples: Drawn = []
    with watchdog(seconds) as alive:
        for i in smallest(luck, keys, len(records)):
            if len(samples) == share:
                break
            alive()
            try:
                samples.append((float(luck[i]), records[i].id, look(records[i].payload or b"")))
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


def _fit(encoder: FittedEncoder, seed: int, *taken: list[Any]) -> State:
    return encoder.fit([sample for part in taken for sample in part], kmeans, seed)


def _fit_modality(modality: FittedModality, *taken: list[Any]) -> State:
    return modality.fit([sample for part in taken for sample in part])


def kmeans(points: NDArray[np.float32], n_clusters: int, seed: int) -> NDArray[np.float32]:
    """This project's k-means as encoders want it: points (n, d) to centroids (k, d).

    The classical form: a small sample once, and what is learned changes little where the sample does. It is
    the level of a tree, which is what `curation.KMeans` finds, without scikit-learn, which takes a second to
    import.
    """
    workers, grid = held(points, "euclidean")
    recipe = Recipe([n_clusters], init="k-means++", algorithm="lloyd", tol=0.0, random_state=seed)
    (level,) = grow(workers, recipe, lambda leaves: None)
    return grid.decode(np.concatenate(level.slices))
