"""Everything that a run can be told: one typed config."""

from __future__ import annotations

import functools
import itertools
import math
import re
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ByteSize,
    Field,
    NonNegativeInt,
    PositiveInt,
    create_model,
    field_validator,
    model_validator,
)

import modalities
from modalities.base import MAX_PIXELS, ModalityError, Settings
from pipelines.errors import RequestError

LATER = "is not built yet (it comes in a later release)"
Auto = Literal["auto"]


class Section(Settings):
    """A group of keys of this program's own."""


class Source(Section):
    """Where the pool is."""

    path: str | list[str] | None = None
    """the pool: a file, folder, glob, list:FILE (of paths), or several; anything fsspec opens (required)"""
    format: str = "auto"
    """auto, files, webdataset (tars), parquet, jsonl, txt, embeddings, or one of the modality's own"""
    column: str | None = None
    """the column that holds the sample, for parquet and jsonl; the suffix of its member, for webdataset"""
    id_column: str | None = None
    """the column that names the sample, by default path#row; __key__: path without suffix (files, tars)"""
    keep: list[str] = Field(default_factory=list)
    """columns that stay with the samples up to the export, such as [license]: parquet, jsonl, webdataset"""


class Encoder(Section):
    """What turns a sample into an embedding. What is auto is settled once a run, and kept."""

    model: str = "auto"
    """auto (offline), patches, open_clip:ARCH/TAG, timm:ARCH.TAG, sentence-transformers:NAME, hf:NAME"""
    batch_size: Auto | PositiveInt = "auto"
    """samples in a batch; auto: 32, or the fastest for pools from 50,000 on; halved if memory runs out"""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """the model's arithmetic: auto, float32, bfloat16 or float16"""
    long_text: Literal["truncate", "windows"] = "truncate"
    """a text longer than the model reads: truncate (it is marked and counted), or windows (their mean)"""
    pooling: Literal["auto", "mean", "cls"] = "auto"
    """of hf models: mean of all tokens, or cls, the first; auto: mean of texts, cls of images that have it"""
    normalize: Literal["unit", "centre", "none"] = "unit"
    """unit (norm 1), centre (the pool's mean subtracted, then norm 1), or none (as they are, in float32)"""
    actors: Auto | tuple[PositiveInt, PositiveInt] = "auto"
    """[min, max] encoder actors; auto: from 1 to one a GPU, or to one a CPU but one"""
    num_gpus: Auto | Annotated[float, Field(ge=0)] = "auto"
    """GPUs that an encoder actor takes; auto: 1 where the cluster has any or may get them, else 0"""

    @field_validator("actors")
    @classmethod
    def _actors_are_a_range(cls, value: tuple[int, int] | str) -> tuple[int, int] | str:
        if isinstance(value, tuple) and value[0] > value[1]:
            raise ValueError(f"[{value[0]}, {value[1]}] is no range: write [min, max], the smaller first")
        return value


class Resample(Section):
    """Resampling-clustering (Vo et al., section 3.3)."""

    steps: NonNegativeInt = 10
    """resampling steps at each level; 0: none"""
    points: Auto | list[NonNegativeInt] = "auto"
    """points kept of a cluster, level by level, 0 or 1: none; auto: 0 at level 1, half the mean size above"""
    strategy: Literal["closest", "random"] = "closest"
    """which points of a cluster are kept: closest (to the centroid) or random"""


def _as_levels(value: Any) -> Any:
    return [value] if isinstance(value, int | float) and not isinstance(value, bool) else value


class Cluster(Section):
    """Hierarchical k-means with resampling."""

    n_clusters: Annotated[Auto | list[PositiveInt], BeforeValidator(_as_levels)] = "auto"
    """clusters of each level, from the leaves up, such as [3000, 1000, 300]"""
    split: list[PositiveInt] | None = None
    """clusters that each coarse cluster of a level is divided into, an entry a level, 1: none"""
    resample: Resample = Resample()
    max_iter: PositiveInt = 50
    """iterations of k-means at most"""
    tol: Annotated[float, Field(ge=0)] = 1e-4
    """stop when an iteration lowers the objective by at most this share of it; 0: when nothing moves"""
    distance: Literal["euclidean", "cosine"] = "euclidean"
    """euclidean, or cosine (spherical k-means)"""
    algorithm: Literal["auto", "lloyd", "ivf"] = "auto"
    """auto (looks at near centroids), lloyd (at all of them), or ivf (auto, its full scans approximate)"""
    init: Literal["auto", "k-means++"] = "auto"
    """where a fit starts: auto (D^2 sampling in batches), or k-means++ (greedy, one by one)"""
    shards: Auto | PositiveInt = "auto"
    """point shards that share the work; no result depends on it"""
    num_gpus: Auto | Annotated[float, Field(ge=0)] = "auto"
    """GPUs that a point shard takes, or a share of one; auto: those of the cluster, shared out equally"""
    reduce: Literal["auto", "store", "collective"] = "auto"
    """how shards add up: by the object store, or collective (NCCL, gloo); auto: so where each has a GPU"""
    memory: Auto | Annotated[ByteSize, Field(gt=0)] = "auto"
    """bytes (or 1GiB) of points a shard holds, the rest is streamed; auto: half the memory for all"""
    checkpoint: Annotated[float, Field(ge=0)] = 60.0
    """seconds between two saved states of the fit, from which a killed run goes on; 0: none are saved"""

    @field_validator("n_clusters")
    @classmethod
    def _levels_shrink(cls, value: list[int] | str) -> list[int] | str:
        if isinstance(value, list):
            if not value:
                raise ValueError("the list is empty: name the clusters of at least one level, or write auto")
            if any(below <= above for below, above in itertools.pairwise(value)):
                raise ValueError(f"{value} does not decrease: list the levels from the leaves up")
        return value

    @field_validator("algorithm")
    @classmethod
    def _ivf_has_faiss(cls, value: str) -> str:
        if value == "ivf" and find_spec("faiss") is None:
            raise ValueError("ivf needs FAISS, which is not installed: install evenset[cpu] or evenset[gpu]")
        return value

    @model_validator(mode="after")
    def _one_entry_a_level(self) -> Cluster:
        lists = {"cluster.resample.points": self.resample.points, "cluster.split": self.split}
        for key, entries in lists.items():
            if isinstance(entries, list) and self.n_clusters == "auto":
                raise ValueError(f"{key} is a list while cluster.n_clusters is auto: list its levels too")
            if isinstance(entries, list) and len(entries) != len(self.n_clusters):
                levels = f"cluster.n_clusters has {len(self.n_clusters)} levels"
                raise ValueError(f"{key} has {len(entries)} entries but {levels}: one entry a level")
        return self

    @model_validator(mode="after")
    def _splits_divide_levels_that_are_not_resampled(self) -> Cluster:
        points = self.resample.points
        for i, leaves in enumerate(self.split or []):
            if self.n_clusters[i] % leaves:
                raise ValueError(
                    f"cluster.split: {self.n_clusters[i]} clusters are not coarse clusters of {leaves} each"
                )
            if leaves > 1 and self.resample.steps and isinstance(points, list) and points[i] > 1:
                raise ValueError(
                    f"cluster.split: level {i + 1} is split and resampled, of which a level can have one: "
                    "make its entry of cluster.resample.points 0"
                )
        return self


def _as_size(value: Any) -> Any:
    if isinstance(value, str) and (match := re.fullmatch(r"([0-9]*\.?[0-9]+)\s*%", value.strip())):
        value = float(match[1]) / 100
        if not 0 < value < 1:
            raise ValueError("a share is above 0 % and below 100 %")
    numeric = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not numeric or value <= 0:
        raise ValueError(f"{value!r} is no size: write a count, a share below 1, or a percentage such as 10%")
    if value >= 1 and value != int(value):
        raise ValueError(f"{value} is no whole number: a count is one, and a share is below 1")
    return int(value) if value >= 1 else value


class Sample(Section):
    """Which samples of the pool are drawn."""

    size: Annotated[int | float, BeforeValidator(_as_size)] = 0.1
    """how many to draw: a count, or a share of the pool (0.1 or 10%)"""
    within: Literal["random", "closest", "furthest"] = "random"
    """which points of a leaf cluster come first: random, closest or furthest (from the centroid)"""
    max_repeats: Annotated[int, Field(ge=1, lt=2**31)] = 1
    """how often one sample may be drawn at most"""

    def count(self, pool: int) -> int:
        """The number of draws from a pool of ``pool`` samples; a share is rounded and at least 1."""
        return self.size if isinstance(self.size, int) else max(1, round(self.size * pool))


class Export(Section):
    """In which forms the curated set is written."""

    formats: list[Literal["parquet", "files", "ids", "geoparquet"]] = Field(default=["parquet", "ids"])
    """any of parquet (with the payload), files (a folder of them), ids (names), geoparquet (footprints)"""

    @field_validator("formats", mode="before")
    @classmethod
    def _formats_are_built(cls, value: Any) -> Any:
        value = [value] if isinstance(value, str) else value
        return _refuse_later(value, ("webdataset", "jsonl", "litdata", "huggingface"))


class Limits(Section):
    """How much is too much."""

    rejected: Annotated[float, Field(ge=0, le=1)] = 0.5
    """the largest share of the pool that may be rejected before the run fails"""
    timeout: Annotated[float, Field(gt=0)] = 120.0
    """seconds that reading or decoding a sample (or reading a row group, or some lines) may take"""
    pixels: PositiveInt = MAX_PIXELS
    """pixels of a picture (values of a satellite chip) above which it is rejected, not decompressed"""
    deadly_parts: NonNegativeInt = 16
    """parts of the pool that may kill the process at work on them before the run stops; 0: none"""


class Ray(Section):
    """Where it runs; no result depends on it."""

    address: str | None = None
    """a Ray cluster to join; by default that of RAY_ADDRESS, else one is started on this machine"""
    object_store_memory: Auto | Annotated[int, Field(ge=80_000_000)] = "auto"
    """bytes of shared memory for a Ray started here; auto: a tenth of the memory, 4 GB at most"""
    cpus: Auto | Annotated[float, Field(ge=1)] = "auto"
    """CPUs by which a run is sized; auto: those there are, and those that an autoscaler may bring"""
    gpus: Auto | Annotated[float, Field(ge=0)] = "auto"
    """GPUs by which a run is sized; auto: those there are, and those that an autoscaler may bring"""


class Config(Section):
    """Everything that a run can be told; each attribute is a dotted key of the file."""

    modality: str = "image"
    """image, text, satellite, one that a plugin adds, or package.module:Class; a section may have its keys"""
    source: Source = Source()
    encoder: Encoder = Encoder()
    cluster: Cluster = Cluster()
    sample: Sample = Sample()
    export: Export = Export()
    limits: Limits = Limits()
    output: str | None = None
    """the run directory; by default runs/<name of the config file>"""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """every random choice follows from it and from the sample's id"""
    ray: Ray = Ray()

    @model_validator(mode="after")
    def _cosine_takes_unit_rows(self) -> Config:
        if self.encoder.normalize == "none" and self.cluster.distance == "cosine":
            raise ValueError("encoder.normalize: cosine clusters unit rows: write unit or centre, not none")
        return self

    @model_validator(mode="after")
    def _embeddings_have_no_files(self) -> Config:
        if self.source.format == "embeddings" and "files" in self.export.formats:
            raise ValueError(
                "export.formats: a pool of embeddings has no files to write: use parquet and ids"
            )
        return self

    section: ClassVar[str | None] = None
    """Name of the modality's own section, where it has one."""

    @property
    def own(self) -> Settings | None:
        """The modality's own section, where it has one."""
        found: Settings | None = getattr(self, self.section) if self.section else None
        return found

    def __reduce_ex__(self, protocol: Any) -> Any:
        # the class of a config with a modality's section is made anew wherever the config arrives
        return (_restored, (self.modality, dict(self))) if self.section else super().__reduce_ex__(protocol)


@functools.cache
def config_of(modality: str) -> type[Config]:
    """The class of a config for a modality: with a section of its name, where it has settings.

    Raises:
        RequestError: There is a section of that name already.
    """
    try:
        declared = modalities.declared(modality)
    except ModalityError:  # it says so when the pool is opened
        return Config
    if declared.settings is None:
        return Config
    if declared.name in Config.model_fields:
        raise RequestError(f"modality {modality!r} has settings, but {declared.name} is a key already")
    section: Any = (declared.settings, Field(default=declared.settings()))
    made = create_model("Config", __base__=Config, __module__=__name__, **{declared.name: section})
    made.section = declared.name
    return made


def _restored(modality: str, values: dict[str, Any]) -> Config:
    return config_of(modality).model_construct(**values)


def _refuse_later(value: Any, later: tuple[str, ...]) -> Any:
    for name in value if isinstance(value, list) else [value]:
        if name in later:
            raise ValueError(f"{name} {LATER}")
    return value


def entries(section: BaseModel, prefix: str = "") -> Iterator[tuple[str, Any, str]]:
    """Every dotted key of ``section`` with its value and its meaning."""
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, Settings):
            yield from entries(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value, field.description or ""


def described() -> str:
    """Every key with its default and its meaning, a line each."""
    keys = [(key, _written(value), meaning) for key, value, meaning in entries(Config())]
    for name in modalities.MODALITIES:
        if own := config_of(name)(modality=name).own:
            keys += [(key, _written(value), meaning) for key, value, meaning in entries(own, f"{name}.")]
    widths = [max(len(row[column]) for row in keys) for column in (0, 1)]
    return "\n".join(f"{key:<{widths[0]}}  {value:<{widths[1]}}  {meaning}" for key, value, meaning in keys)


def _written(value: Any) -> str:
    """As it is written in a config file."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_written, value))}]"
    return "null" if value is None else str(value)
