"""What ``auto`` means for the encoder of a run: decided once, recorded, and kept when the run resumes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ray

import modalities
from modalities.base import Modality, ModalityError
from modalities.encoders.base import Encoder, FittedEncoder
from pipelines import batch
from pipelines.config import Config
from pipelines.lone import DEATHS
from pipelines.manifest import Basis
from pipelines.pool import Pool
from pipelines.resources import Resources, resources
from pipelines.secrets import hidden
from pipelines.sizing import check_gpus, sizing

OPTIONS = ("pooling", "long_text")
"""Keys of ``encoder`` that go to the encoder itself, where they are not as they are by default."""


def changed(config: Config) -> list[str]:
    """Of the keys of ``encoder`` that came after the first release, those that are not as by default.

    A run that was begun before they came goes on.
    """
    default = type(config.encoder)()
    later = (*OPTIONS, "normalize")
    return [key for key in later if getattr(config.encoder, key) != getattr(default, key)]


def restored(config: Config, modality: Modality, recorded: Basis | None) -> Config:
    """Fill what is ``auto`` in ``config.encoder`` from what this run recorded for the same model."""
    model = modality.default_encoder if config.encoder.model == "auto" else config.encoder.model
    known = recorded.config if recorded else {}
    found: dict[str, Any] = {"model": model}
    if known.get("encoder.model") == hidden(model):
        device = known["encoder.device"]
        recalled = {
            "batch_size": known["encoder.batch_size"],
            "dtype": known["encoder.dtype"],
            "num_gpus": 1.0 if device == "cuda" else 0.0,
        }
        found |= {key: value for key, value in recalled.items() if getattr(config.encoder, key) == "auto"}
    return _with_encoder(config, found)


def build(config: Config, modality: Modality) -> Encoder:
    """The encoder that the config names, not loaded.

    Raises:
        ModalityError: There is none of that name, or it cannot encode this modality.
    """
    wanted = config.encoder
    return modalities.encoder(
        wanted.model,
        modality,
        batch_size=None if wanted.batch_size == "auto" else wanted.batch_size,
        dtype=None if wanted.dtype == "auto" else wanted.dtype,
        device=None if wanted.num_gpus == "auto" else device_of(config),
        **{option: getattr(wanted, option) for option in OPTIONS if option in changed(config)},
    )


def decide(config: Config, pool: Pool, say: Callable[[str], Any] = lambda _: None) -> Config:
    """Settle what is still ``auto``, on a machine of the cluster like the one that will encode.

    An encoder that learns from the pool is small: left open, it runs on the CPU in float32, in batches of
    its own size.

    Args:
        config: What was asked for.
        pool: What is to be encoded.
        say: Told what is waited for and what was found, a sentence each.

    Raises:
        RequestError: No machine has, or will have, the GPUs of an encoder.
        ModalityError: There is no such encoder.
    """
    if is_settled(config):
        return config
    modality = pool.modality
    encoder, there = build(config, modality), resources(config.ray)
    small = isinstance(encoder, FittedEncoder)
    if config.encoder.num_gpus == "auto":
        gpus = 1.0 if there.most_gpus >= 1 and not small else 0.0
        config = _with_encoder(config, {"num_gpus": gpus})
    check_gpus(config, there)
    if config.encoder.dtype == "auto":
        if config.encoder.num_gpus and not there.gpus and not small:
            say("waits for a machine with a GPU, which settles encoder.dtype; name one to go on without")
        probe = ray.remote(num_cpus=0, num_gpus=config.encoder.num_gpus)(_fastest_dtype)
        dtype = "float32" if small else ray.get(probe.remote(config, modality))
        config = _with_encoder(config, {"dtype": dtype})
    if config.encoder.batch_size == "auto":
        worth = pool.size >= batch.WORTH and not small
        size = _batch_size(config, pool, there, say) if worth else encoder.batch_size
        config = _with_encoder(config, {"batch_size": size})
    return config


def halved(config: Config) -> Config:
    """``config`` with batches of half as many samples; the size is settled, and more than one."""
    return _with_encoder(config, {"batch_size": int(config.encoder.batch_size) // 2})


def is_settled(config: Config) -> bool:
    """Whether nothing that decides the embeddings is ``auto`` any more."""
    return "auto" not in (config.encoder.batch_size, config.encoder.dtype, config.encoder.num_gpus)


def device_of(config: Config) -> str:
    """Where the encoder runs; ``encoder.num_gpus`` is settled."""
    return "cuda" if config.encoder.num_gpus else "cpu"


def _fastest_dtype(config: Config, modality: Modality) -> str:
    from modalities.encoders.device import place

    dtype = str(place(device_of(config), None)[1]).removeprefix("torch.")
    try:
        build(_with_encoder(config, {"dtype": dtype}), modality)
    except ModalityError:  # an encoder with an arithmetic of its own
        return "float32"
    return dtype


def _batch_size(config: Config, pool: Pool, there: Resources, say: Callable[[str], Any]) -> int:
    """Rows of a batch, measured where an encoder would be; all else of the encoder is settled."""
    encoder, size = build(config, pool.modality), sizing(config, there, len(pool.parts), pool.size)
    task = ray.remote(num_cpus=size.cpus, num_gpus=size.gpus, max_retries=0)(batch.measured)
    try:
        found = ray.get(
            task.remote(encoder, pool.source, pool.parts[0], pool.modality, config.limits.timeout)
        )
    except DEATHS:  # of memory, or of a sample, which the embed stage will find
        say(f"the process that measured encoder.batch_size died: it is {encoder.batch_size}")
        return encoder.batch_size
    chosen = batch.best(found, encoder.batch_size)
    say(f"encoder.batch_size is {chosen} (samples a second in batches of {batch.told(found) or 'none'})")
    return chosen


def _with_encoder(config: Config, update: dict[str, Any]) -> Config:
    return config.model_copy(update={"encoder": config.encoder.model_copy(update=update)})
