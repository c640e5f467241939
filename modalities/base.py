"""The interface of a modality: how raw samples are read, decoded, encoded and shown.

The modalities in this package use nothing else, and neither does a plugin.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import pyarrow as pa
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from modalities.mapper import Mapper, threads
from modalities.rules import Rule

if TYPE_CHECKING:
    from modalities.sources.paths import Listing


MAX_PIXELS = 100_000_000
"""Of a picture, by default: a few kilobytes can claim any size."""


class Rejected(Exception):
    """One sample cannot be used; ``str()`` of it is the reason, one plain sentence."""


class ModalityError(ValueError):
    """A request that cannot be met: an unknown encoder, a missing column, an empty pool."""


@dataclass(frozen=True)
class Part:
    """The unit of reading, resuming and writing: a run of samples in the canonical order.

    Attributes:
        index: position among the parts of the pool.
        spec: what to read, as JSON values relative to the source's root, so that it is the same on every
            machine. How many samples that is stands there too: ``files`` is the list of their ids where each
            is a file, otherwise they are numbered from ``start`` up to, but without, ``stop``.
    """

    index: int
    spec: dict[str, Any]


@dataclass(frozen=True)
class Record:
    """One sample as it lies in the pool.

    Attributes:
        id: unique in the pool; never absolute.
        uri: where it lies, for a person or for reading it again.
        payload: the encoded sample, or None where it could not be read.
        reason: why there is no payload.
        kept: values of the source's `Source.kept` columns; None where there are none.
    """

    id: str
    uri: str
    payload: bytes | None
    reason: str | None = None
    kept: Mapping[str, Any] | None = None


class Source(ABC):
    """A pool that can be listed and read in parts. Picklable.

    Attributes:
        decided: why the pool is read as it is, where nobody said how, one sentence; else None.
        kept: columns of the pool that stay with its samples (``source.keep``), and their types.
    """

    decided: str | None = None
    kept: Mapping[str, pa.DataType] = MappingProxyType({})

    @abstractmethod
    def parts(self, mapper: Mapper = threads) -> Sequence[Part]:
        """List the pool in its canonical order, which does not depend on who asks.

        Of a pool of many parts they are best a `modalities.packed.Packed`, which holds few of them as
        objects.

        Args:
            mapper: looks into files, where that is needed to know what is in them.

        Raises:
            ModalityError: the path is not there, holds nothing to read, or lacks a column.
        """

    @abstractmethod
    def read(self, part: Part) -> Iterator[Record]:
        """Read the samples of one part, in order; what cannot be read is a record with a reason."""

    @abstractmethod
    def unread(self, part: Part, reason: str) -> Iterator[Record]:
        """Name the samples of a part without looking at it, each a record with that reason."""


class Settings(BaseModel):
    """A group of keys of the config. Unknown keys are errors, and a loaded config does not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)


class Modality(ABC):
    """What a kind of sample is: how it is read, decoded, described and shown, and what encodes it.

    A subclass is made without arguments, or with its `settings`, in every process that needs it. What its
    methods raise beside `Rejected` costs the sample in hand as well, with the error for a reason.

    Attributes:
        name: as in the config.
        kind: what `decode` returns and encoders accept: ``raster`` (an array (H, W, bands), uint8 or float32;
            an encoder says how many bands it takes), ``text`` (a str), or a plugin's own word.
        default_encoder: the encoder when the config names none.
        suffixes: lower-case suffixes of files that hold one sample each.
        columns: what `describe` adds to the table of embeddings, and of the curated set. Some mean a place on
            Earth: ``lon`` and ``lat`` (float64, degrees) put samples on the map of the report; ``crs``
            (string, as PROJ reads it) and ``bounds`` (list of 4 float64: west, south, east, north in it) give
            them footprints, for GeoParquet, and ``corners`` (list of 8 float64: x, y of the four in turn),
            where it is not null, those that stand askew in their CRS.
        column_names: names under which tables usually keep the sample, best first.
        strings_are_samples: whether a string in a table is the sample itself, as a document is, and not the
            address of the file that holds it.
        formats: formats that no other modality has, by their names in ``source.format``, each with the
            suffixes of its files; `open` reads them.
        layout: how samples stand in the report: ``tiles`` of 84 pixels a side, or ``rows``.
        settings: the keys of a section of the config that has the modality's name, each with a default; an
            instance of it is the only argument of the class. None: there is no such section, and the class
            takes no argument.
        max_pixels: pixels of a picture, values of a raster of many bands, above which `decode` rejects it by
            its header, before it is decompressed (``limits.pixels`` of the config).
        thinned_by: which of `columns` `rules` looks at, as the modality is set; of none: there are no rules.
        sampling_settings: those of its `settings` that `thinned_by` and `rules` alone depend on: where one
            changes, the set is drawn anew, and nothing is embedded again.
    """

    name: ClassVar[str]
    kind: ClassVar[str]
    default_encoder: ClassVar[str]
    suffixes: ClassVar[tuple[str, ...]]
    columns: ClassVar[dict[str, pa.DataType]]
    column_names: ClassVar[tuple[str, ...]]
    strings_are_samples: ClassVar[bool] = False
    formats: ClassVar[dict[str, tuple[str, ...]]] = {}
    layout: ClassVar[Literal["tiles", "rows"]] = "rows"
    settings: ClassVar[type[Settings] | None] = None
    max_pixels: int = MAX_PIXELS
    thinned_by: tuple[str, ...] = ()
    sampling_settings: ClassVar[tuple[str, ...]] = ()

    def open(self, format: str, listing: Listing, part_rows: int | None) -> Source:
        """Open a pool in one of `formats`: files that hold many samples each, say.

        Args:
            format: its name.
            listing: the files that ``source.path`` names, from which to take those with its suffixes
                (`Listing.having`).
            part_rows: samples of a part at most; None takes the source's own.

        Raises:
            ModalityError: there is nothing to read.
        """
        raise ModalityError(f"Modality {self.name!r} declares the format {format!r}, but does not open it.")

    @abstractmethod
    def decode(self, payload: bytes) -> Any:
        """Turn the bytes of a sample into what encoders take.

        Raises:
            Rejected: the sample is damaged, empty, or too large to open safely.
        """

    @abstractmethod
    def describe(self, sample: Any, payload: bytes) -> dict[str, Any]:
        """Return one value for each of `columns`."""

    def completed(self, about: dict[str, Any], id: str) -> dict[str, Any]:
        """Return what `describe` found, with what the id of the sample tells beside it, such as a date."""
        return about

    @abstractmethod
    def show(self, payload: bytes, uri: str) -> str:
        """Return a self-contained, escaped HTML fragment that shows the sample to a person."""

    @abstractmethod
    def suffix(self, payload: bytes) -> str:
        """Return the file suffix, with its dot, under which the sample is exported."""

    def rules(self, columns: pa.Table) -> Iterable[Rule]:
        """Return what must hold of the curated set beside balance; each rule judges what those before left.

        Args:
            columns: those of `thinned_by`, of all samples that are embedded.
        """
        return ()


class FittedModality(Modality):
    """A modality that learns from a sample of the pool before it decodes, such as the range of the values."""

    @property
    def learns(self) -> bool:
        """Whether it has to, as it is set."""
        return True

    @abstractmethod
    def glimpse(self, payload: bytes) -> Any:
        """Return the little of a sample that is learned from.

        Raises:
            Rejected: the sample is damaged.
        """

    @abstractmethod
    def fit(self, samples: Sequence[Any]) -> dict[str, NDArray[Any]]:
        """Learn from glimpses, whatever their order, and return the state, plain arrays.

        The modality is ready afterwards, as after `set_state`.
        """

    @abstractmethod
    def set_state(self, state: dict[str, NDArray[Any]]) -> None:
        """Take the state that `fit` returned, here or on another machine.

        Raises:
            ModalityError: the state is not one of this modality.
        """
