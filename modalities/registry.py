"""Which modality, encoder or source does a name in the config mean?"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from modalities import plugins
from modalities.base import Modality, ModalityError, Settings, Source
from modalities.encoders.base import Encoder
from modalities.plugins import ENCODER_GROUP, MODALITY_GROUP, Plugin

if TYPE_CHECKING:
    from modalities.sources.paths import Listing

MODALITIES = {
    "image": "modalities.image:Image",
    "text": "modalities.text:Text",
    "satellite": "modalities.satellite:Satellite",
}

# Values are "module:class": a module is imported when its encoder is asked for, and torch takes seconds.
ENCODERS = {
    "patches": "modalities.encoders.patches:Patches",
    "open_clip": "modalities.encoders.open_clip:OpenClip",
    "timm": "modalities.encoders.timm:Timm",
    "sentence-transformers": "modalities.encoders.sentence_transformers:SentenceTransformers",
    "hf": "modalities.encoders.hugging_face:HuggingFace",
}

DECLARED = ("name", "kind", "default_encoder", "suffixes", "columns", "column_names")
"""What every modality says of itself."""

TAKEN = {
    *("id", "uri", "key", "embedding", "payload", "prepared", "reason", "part", "lost", "truncated"),
    *("repeats", "ranks", "path", "weight", "cluster", "distance", "file", "row", "place"),
}
"""Columns that the tables of a run have, whatever the modality."""

EncoderFactory = Callable[..., Encoder]
"""(argument, *, kind, batch_size, dtype, device) -> Encoder; the argument is what follows the first colon.

One that takes ``pooling`` or ``long_text`` as well is given them where the config sets them.
"""


def modality(name: str, settings: Settings | None = None) -> Modality:
    """Return the modality of a name.

    Args:
        name: built in, of a plugin (entry points in ``evenset.modalities``), or ``package.module:Class``.
        settings: its section of the config, where it has one; None takes the defaults.

    Raises:
        ModalityError: there is none of this name, there are several, or it is broken.
    """
    return made(_meant(name), settings)


def declared(name: str) -> type[Modality]:
    """Return the class of a modality.

    Raises:
        ModalityError: as `modality`.
    """
    return _checked(_meant(name))


def _meant(name: str) -> Plugin:
    plugin, argument = plugins.meant("modality", name, MODALITY_GROUP, MODALITIES)
    if argument:
        raise ModalityError(f"modality {name!r}: {plugin.name!r} takes no argument, leave out {argument!r}.")
    return plugin


def made(plugin: Plugin, settings: Settings | None = None) -> Modality:
    """Import and make a modality.

    Raises:
        ModalityError: it cannot be imported or made, or is none.
    """
    found: Any = _checked(plugin)
    try:
        made: Modality = found() if found.settings is None else found(settings or found.settings())
    except Exception as error:  # a class of somebody else's may raise anything
        raise plugin.broken(f"{plugin.target}() raised {type(error).__name__}: {error}") from error
    return made


def _checked(plugin: Plugin) -> type[Modality]:
    found = plugin.load()
    if not (isinstance(found, type) and issubclass(found, Modality)):
        raise plugin.broken(f"{plugin.target} is {found!r}, which is no subclass of modalities.Modality")
    lacking = [name for name in DECLARED if not hasattr(found, name)] + sorted(found.__abstractmethods__)
    if lacking:
        raise plugin.broken(f"{plugin.target} lacks {', '.join(lacking)}")
    if taken := sorted(TAKEN & set(found.columns)):
        raise plugin.broken(f"its column {taken[0]!r} has a name that the tables of a run have already")
    if ":" not in plugin.name and found.name != plugin.name:
        raise plugin.broken(f"{plugin.target} calls itself {found.name!r}, its entry point {plugin.name!r}")
    return found


def encoder(
    spec: str,
    modality: Modality,
    *,
    batch_size: int | None = None,
    dtype: str | None = None,
    device: str | None = None,
    **options: str,
) -> Encoder:
    """Return the encoder of a model string, not yet loaded.

    Args:
        spec: ``patches``, ``open_clip:ARCH/PRETRAINED``, ``timm:ARCH.TAG``, ``sentence-transformers:NAME``,
            ``hf:NAME``, ``NAME:...`` with the name of a plugin (entry points in ``evenset.encoders``), or
            ``package.module:Class:...``.
        modality: what it has to encode.
        batch_size: rows of a model batch; None takes the encoder's own.
        dtype: arithmetic of the model, ``float32``, ``bfloat16`` or ``float16``; None or ``auto`` takes what
            is fast where it runs.
        device: ``cpu``, ``cuda``, ...; None takes a GPU where there is one.
        options: of ``encoder`` in the config that not every encoder has, ``pooling`` and ``long_text``.

    Raises:
        ModalityError: there is no such encoder, or several, it is broken, or cannot encode this modality.
    """
    plugin, argument = plugins.meant("encoder.model", spec, ENCODER_GROUP, ENCODERS)
    factory = encoder_factory(plugin)
    if batch_size is not None and batch_size < 1:
        raise ModalityError(f"encoder.batch_size {batch_size} is not positive.")
    kinds = getattr(factory, "accepts", (modality.kind,))
    if modality.kind not in kinds:
        raise ModalityError(
            f"encoder.model {spec!r} encodes {' or '.join(kinds)} samples, but modality {modality.name!r} has"
            f" {modality.kind} samples; its default is {modality.default_encoder!r}."
        )
    if options:
        _check_options(factory, spec, options)
    try:
        found = factory(
            argument, kind=modality.kind, batch_size=batch_size, dtype=dtype, device=device, **options
        )
    except ModalityError:
        raise
    except Exception as error:  # a class of somebody else's may raise anything
        raise plugin.broken(f"{plugin.target}(...) raised {type(error).__name__}: {error}") from error
    if not isinstance(found, Encoder):
        raise plugin.broken(f"{plugin.target}(...) is {found!r}, which is no modalities.Encoder")
    return found


def encoder_factory(plugin: Plugin) -> EncoderFactory:
    """Import what makes an encoder, and make none.

    Raises:
        ModalityError: it cannot be imported, or makes none.
    """
    found: Any = plugin.load()
    if not callable(found) or (isinstance(found, type) and not issubclass(found, Encoder)):
        raise plugin.broken(f"{plugin.target} is {found!r}, which is no modalities.Encoder")
    if lacking := sorted(getattr(found, "__abstractmethods__", ())):
        raise plugin.broken(f"{plugin.target} lacks {', '.join(lacking)}")
    factory: EncoderFactory = found
    return factory


def _check_options(factory: EncoderFactory, spec: str, options: Iterable[str]) -> None:
    taken = inspect.signature(factory).parameters
    if any(one.kind is inspect.Parameter.VAR_KEYWORD for one in taken.values()):
        return
    for option in options:
        if option not in taken:
            raise ModalityError(f"encoder.{option}: the encoder {spec!r} knows none; leave it out.")


def source(
    format: str,
    path: str | Sequence[str] | Listing,
    *,
    column: str | None = None,
    id_column: str | None = None,
    keep: Sequence[str] = (),
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
        keep=keep,
        modality=modality,
        part_rows=part_rows,
        timeout=timeout,
    )
