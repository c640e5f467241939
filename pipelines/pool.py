"""The pool that a config names: opened, counted and identified before any work starts."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from glob import has_magic

import numpy as np
from numpy.typing import NDArray

import modalities
from modalities.base import Modality, Part, Record, Source
from modalities.mapper import Mapper, threads
from modalities.sources.embeddings import EmbeddingsSource
from modalities.sources.globs import Glob
from modalities.sources.paths import File, expand_braces, list_files
from modalities.sources.secrets import redacted
from pipelines.config import Config
from pipelines.errors import RequestError
from pipelines.owner import settled
from pipelines.store import absolute


@dataclass(frozen=True)
class Pool:
    """A pool, listed but not read.

    Attributes:
        source: Reads it.
        modality: What its samples are.
        parts: Its parts in canonical order, of which a few at a time are held as objects.
        samples: Of each part how many there are, int64; those that will turn out to be unusable included.
        fingerprint: Changes when the listing does: names, sizes, rows.
        bytes: Of all files, as far as their sizes are known.
        url: Of the folder that its names are relative to.
    """

    source: Source
    modality: Modality
    parts: Sequence[Part]
    samples: NDArray[np.int64]
    fingerprint: str
    bytes: int
    url: str

    @property
    def size(self) -> int:
        """Number of samples, the ones that will turn out to be unusable included."""
        return int(self.samples.sum())

    def left(self, done: Collection[int]) -> NDArray[np.int64]:
        """The indices of the parts that are not among ``done``, in order."""
        indices = np.arange(len(self.parts))
        return indices[~np.isin(indices, np.fromiter(done, np.int64))]

    def chosen(self, indices: Iterable[int]) -> Iterator[Part]:
        """The parts with these indices, as they are asked for."""
        return (self.parts[int(index)] for index in indices)


def samples_of(part: Part) -> int:
    """Number of samples of a part."""
    if "files" in part.spec:
        return len(part.spec["files"])
    return int(part.spec["stop"]) - int(part.spec["start"])


def records(source: Source, part: Part, wanted: set[str]) -> Iterator[Record]:
    """The records of a part with the ``wanted`` ids, reading no further than the last of them.

    Where a sample is a file, the others are not opened: one of them may hang, or kill the process.
    """
    if wanted <= set(part.spec.get("files", ())):
        part = Part(part.index, {**part.spec, "files": sorted(wanted)})
    left = set(wanted)
    for record in source.read(part):
        if record.id in left:
            left.discard(record.id)
            yield record
        if not left:
            return


def source_paths(config: Config) -> list[str]:
    """``source.path`` as a list, with local paths absolute: a worker has another working directory."""
    path = config.source.path or []
    return [settled(p) for p in ([path] if isinstance(path, str) else path)]


def open_pool(config: Config, mapper: Mapper = threads) -> Pool:
    """List the pool.

    Args:
        config: What was asked for, with absolute paths.
        mapper: Looks into files, where what is in them is to be known (`pipelines.index`).

    Raises:
        ModalityError: The path is not there, the pool is empty, a column is missing, ...
        RequestError: The run directory lies in the pool.
    """
    modality = modalities.modality(config.modality, config.own)
    modality.max_pixels = config.limits.pixels
    paths = source_paths(config)
    output = absolute(config.output or "")
    for path in (one for given in paths for one in expand_braces(given)):
        if _reaches(path, output):
            raise RequestError(
                f"output {output} lies inside the pool {path}, so that the results would become samples: put"
                " one of them elsewhere"
            )
    settings, listing = config.source, list_files(paths, config.limits.timeout)
    source = modalities.source(
        settings.format,
        listing,
        column=settings.column,
        id_column=settings.id_column,
        keep=settings.keep,
        modality=modality,
    )
    parts = source.parts(mapper)
    return Pool(source, modality, parts, *_identified(listing.files, parts), listing.root.url)


def _reaches(path: str, output: str) -> bool:
    """Whether results in the folder ``output`` would be files of the pool at ``path``.

    Links are followed on both sides. Of a glob, the part before its first wildcard is a folder, and the
    rest is compared component by component.
    """
    there = "://" not in path and os.path.exists(path)  # noqa: PTH110 - a name may have brackets
    glob = Glob(path.rstrip("/")) if has_magic(path) and not there else None
    base, output = _real((glob.root if glob else path) or "/").rstrip("/"), _real(output)
    if not f"{output}/".startswith(f"{base}/"):
        return False
    inside = output[len(base) :].strip("/")
    return glob is None or not inside or glob.leads(inside)


def _real(path: str) -> str:
    return path if "://" in path else os.path.realpath(path)


def is_embedded(pool: Pool) -> bool:
    """Whether the pool holds embeddings rather than samples."""
    return isinstance(pool.source, EmbeddingsSource)


def _identified(files: Iterable[File], parts: Sequence[Part]) -> tuple[NDArray[np.int64], str, int]:
    """Samples of each part, the fingerprint, and the bytes of all files, each of which is unpacked once.

    The fingerprint is a hash of every part and of the name and size of every file.

    Times of change are left out: a pool that was copied, or shipped with a job, is the same pool. So is one
    whose uri was signed anew.
    """
    listing, samples, size = hashlib.blake2b(digest_size=16), np.zeros(len(parts), np.int64), 0
    for part in parts:
        samples[part.index] = samples_of(part)
        listing.update(redacted(json.dumps(part.spec, sort_keys=True)).encode("utf-8", "surrogateescape"))
    for file in files:
        size += file.size or 0
        listing.update(f"\n{redacted(file.name)}\0{file.size}".encode("utf-8", "surrogateescape"))
    return samples, listing.hexdigest(), size


def check_numbers(config: Config, pool: int, what: str) -> None:
    """Refuse what ``pool`` samples cannot give, before the work for it starts.

    Args:
        config: What was asked for.
        pool: Number of samples there are.
        what: What they are, for the message ("samples in the pool").

    Raises:
        RequestError: More clusters than samples, or a target that the pool cannot fill.
    """
    levels, sample = config.cluster.n_clusters, config.sample
    if isinstance(levels, list) and levels[0] > pool:
        raise RequestError(
            f"cluster.n_clusters asks for {levels[0]:,} clusters but there are only {pool:,} {what}: ask for"
            " fewer, or write auto"
        )
    most = pool * sample.max_repeats
    if sample.count(pool) > most:
        repeats = f" x max_repeats {sample.max_repeats}" if sample.max_repeats > 1 else ""
        raise RequestError(
            f"sample.size {sample.count(pool):,} is more than the {pool:,} {what}{repeats} can fill:"
            f" lower it to {most:,}, or raise sample.max_repeats to {-(-sample.count(pool) // max(pool, 1))}"
        )
