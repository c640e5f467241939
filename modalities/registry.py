"""Which modality, encoder or source does a name in the config mean?"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches
from importlib.metadata import entry_points
from typing import Any

from modalities.base import Encoder, Modality, ModalityError, Source

MODALITIES = {"image": "modalities.image:Image", "text": "modalities.text:Text"}

LATER = {"satellite": "modality 'satellite' comes in a later release; now there are image and text."}

# Values are "module:class": a module is imported when its encoder is asked for, and torch takes seconds.
ENCODERS = {
    "patches": "modalities.encoders.patches:Patches",
    "open_clip": "modalities.encoders.open_clip:OpenClip",
    "timm": "modalities.encoders.timm:Timm",
    "sentence-transformers": "modalities.encoders.sentence_transformers:SentenceTransformers",
}

MODALITY_GROUP = "evenset.modalities"
ENCODER_GROUP = "evenset.encoders"

EncoderFactory = Callable[..., Encoder]
"""(argument, *, kind, batch_size, dtype, device) -> Encoder; the argument is what follows the first colon."""


def modality(name: str) -> Modality:
    """Return the modality of a name: built in, or of a plugin (entry points in ``evenset.modalities``).

    Raises:
        ModalityError: there is none of this name.
    """
    plugins = {point.name: point for point in entry_points(group=MODALITY_GROUP)}
    if name in MODALITIES:
        found: Any = _load(MODALITIES[name])
    elif name in plugins:
        found = plugins[name].load()
    elif name in LATER:
        raise ModalityError(LATER[name])
    else:
        raise ModalityError(_unknown("modality", name, [*MODALITIES, *plugins]))
    made = found() if isinstance(found, type) else found
    if not isinstance(made, Modality):
        raise ModalityError(f"The plugin of modality {name!r} provides {made!r}, which is not a Modality.")
    return made


def encoder(
    spec: str,
    modality: Modality,
    *,
    batch_size: int | None = None,
    dtype: str | None = None,
    device: str | None = None,
) -> Encoder:
    """Return the encoder of a model string, not yet loaded.

    Args:
        spec: ``patches``, ``open_clip:ARCH/PRETRAINED``, ``timm:ARCH.TAG``, ``sentence-transformers:NAME``,
            or ``NAME:...`` with the name of a plugin (entry points in ``evenset.encoders``).
        modality: what it has to encode.
        batch_size: rows of a model batch; None takes the encoder's own.
        dtype: arithmetic of the model, ``float32``, ``bfloat16`` or ``float16``; None or ``auto`` takes what
            is fast where it runs.
        device: ``cpu``, ``cuda``, ...; None takes a GPU where there is one.

    Raises:
        ModalityError: there is no such encoder, or it cannot encode this modality.
    """
    name, _, argument = spec.partition(":")
    plugins = {point.name: point for point in entry_points(group=ENCODER_GROUP)}
    factory: EncoderFactory
    if name in ENCODERS:
        factory = _load(ENCODERS[name])
    elif name in plugins:
        factory = plugins[name].load()
    else:
        raise ModalityError(_unknown("encoder.model", name, [*ENCODERS, *plugins]))
    if batch_size is not None and batch_size < 1:
        raise ModalityError(f"encoder.batch_size {batch_size} is not positive.")
    kinds = getattr(factory, "accepts", (modality.kind,))
    if modality.kind not in kinds:
        raise ModalityError(
            f"encoder.model {spec!r} encodes {' or '.join(kinds)} samples, but modality {modality.name!r} has"
            f" {modality.kind} samples; its default is {modality.default_encoder!r}."
        )
    return factory(argument, kind=modality.kind, batch_size=batch_size, dtype=dtype, device=device)


def source(
    format: str,
    path: str | Sequence[str],
    *,
    column: str | None = None,
    id_column: str | None = None,
    modality: Modality,
    part_rows: int | None = None,
    timeout: float | None = None,
) -> Source:
    """Open a pool; see `modalities.sources.open_source`.

    Raises:
        ModalityError: the format is unknown, the path is not there, or a column is missing.
    """
    from modalities.sources import open_source  # filesystems and Arrow take a second to import

    return open_source(
        format,
        path,
        column=column,
        id_column=id_column,
        modality=modality,
        part_rows=part_rows,
        timeout=timeout,
    )


def _load(target: str) -> Any:
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


def _unknown(key: str, name: str, known: Iterable[str]) -> str:
    known = sorted(known)
    near = get_close_matches(name, known, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"{key} {name!r} is unknown; there are {', '.join(known)}.{hint}"
