"""What is asked of satellite chips: the section ``satellite`` of the config."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, Field, PositiveInt, field_validator, model_validator

from modalities.base import Rejected, Settings
from modalities.chips import find_band
from modalities.thinning import Cap, Thin


def _is_range(value: tuple[float, float]) -> tuple[float, float]:
    if value[0] >= value[1]:
        raise ValueError(f"[{value[0]:g}, {value[1]:g}] is no range: write the smaller first")
    return value


Range = Annotated[tuple[float, float], AfterValidator(_is_range)]
Percent = Annotated[float, Field(ge=0, le=100)]


def _is_band(value: int | str) -> int | str:
    if isinstance(value, int) and value < 1:
        raise ValueError(f"{value} is no band: they are numbered from 1")
    return value


Band = Annotated[int | str, AfterValidator(_is_band)]


class Percentiles(Settings):
    """Values of the pool that become black and white, for each band its own."""

    percentiles: Annotated[tuple[Percent, Percent], AfterValidator(_is_range)]
    """[low, high], in percent"""


Scaling = Literal["auto", "none", "tags"] | Range | list[Range] | Percentiles


class Cloud(Settings):
    """Which pixels are clouds."""

    band: Band | None = None
    """the mask's band, by number or description, such as SCL; it is no band of the chip"""
    values: list[int] = Field(default=[3, 8, 9, 10])
    """its values that mean cloud or shadow; the default is of Sentinel-2's SCL"""

    def share(self, mask: NDArray[Any], valid: NDArray[np.bool_]) -> float:
        """Share of the valid pixels (rows, columns) that a mask says are cloud."""
        return float(np.isin(mask[valid], self.values).mean()) if valid.any() else 0.0


class SatelliteSettings(Settings):
    """How scenes are cut into chips, and what becomes of their values."""

    chip: PositiveInt | str = 256
    """side of a chip in pixels, or in metres such as 2560m"""
    stride: PositiveInt | str | None = None
    """from one chip to the next, in pixels or metres; by default a chip's side, so that none overlap"""
    edges: Literal["pad", "drop"] = "pad"
    """chips that reach over the scene's edge: pad (where max_nodata allows it), or drop"""
    resolution: Annotated[float, Field(gt=0)] | None = None
    """metres a pixel at which scenes are read, from their overviews; by default their own"""
    bands: Annotated[list[Band], Field(min_length=1)] | None = None
    """the bands of a chip, by number from 1 or by description, such as [B04, B03, B02]; by default all"""
    scale: Scaling = "auto"
    """[low, high] or one such for each band, tags, none, {percentiles: [2, 98]}; auto: of all but 8 bits"""
    max_nodata: Annotated[float, Field(ge=0, le=1)] = 0.5
    """the largest share of a chip without data; a chip above it is rejected"""
    max_cloud: Annotated[float, Field(ge=0, le=1)] = 1.0
    """the largest share of a chip under clouds; a chip above it is rejected"""
    cloud: Cloud = Cloud()
    date: str | None = None
    """where names of scenes, or ids of tiles, have a date: a regular expression with year, month, day, doy"""
    thin: Thin = Thin()
    """chips that lie near to each other are left out, but for one"""
    cap: Cap = Cap()
    """chips that are too many of one place or date are left out"""

    @field_validator("scale", mode="before")
    @classmethod
    def _is_ordered(cls, value: Any) -> Any:
        if isinstance(value, list) and len(value) == 2 and all(isinstance(end, int | float) for end in value):
            _is_range((value[0], value[1]))
        return value

    @field_validator("chip", "stride")
    @classmethod
    def _is_length(cls, value: Any) -> Any:
        if isinstance(value, str) and length_in_metres(value) is None:
            raise ValueError(f"{value!r} is no length: write pixels such as 256, or metres such as 2560m")
        return value

    @field_validator("date")
    @classmethod
    def _has_groups(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                groups = re.compile(value).groupindex
            except re.error as error:
                raise ValueError(f"{value!r} is no regular expression: {error}") from None
            if "year" not in groups or not {"month", "day", "doy", "year"} >= {*groups}:
                raise ValueError(
                    f"{value!r} needs the group year, as in (?P<year>\\d{{4}}), and may have month, day, doy"
                )
        return value

    @model_validator(mode="after")
    def _knows_clouds(self) -> SatelliteSettings:
        if self.max_cloud < 1 and self.cloud.band is None:
            raise ValueError(
                f"satellite.max_cloud {self.max_cloud:g} needs satellite.cloud.band beside it: name the band"
                " that says where clouds are, such as SCL, or leave satellite.max_cloud out"
            )
        return self


def length_in_metres(text: str) -> float | None:
    """Return the metres of a length such as ``2560m`` or ``2.5km``, or None."""
    found = re.fullmatch(r"([0-9]+(?:_[0-9]+)*(?:\.[0-9]+)?|\.[0-9]+)\s*(m|km)", text.strip())
    metres = float(found[1]) * (1000 if found[2] == "km" else 1) if found else 0.0
    return metres if 0 < metres < math.inf else None


def chosen_bands(
    names: Sequence[str], asked: Sequence[Band] | None, cloud: Band | None
) -> tuple[list[int], int | None]:
    """Places of the bands that are asked for, by default all, and of the cloud mask, if there is to be one.

    Raises:
        Rejected: one of them is not there.
    """
    mask = None if cloud is None else find_band(cloud, names, "satellite.cloud.band")
    if asked is not None:
        return [find_band(band, names, "satellite.bands") for band in asked], mask
    bands = [band for band in range(len(names)) if band != mask]
    if not bands:
        raise Rejected("It has no band beside the mask of satellite.cloud.band.")
    return bands, mask
