"""What is a satellite tile? A chip of a scene with any number of bands, on its place on Earth."""

from __future__ import annotations

import base64
import html
import io
import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image as Pillow

from modalities.base import FittedModality, ModalityError, Rejected, Settings, Source
from modalities.chips import Chip, check_scale, dated, is_tiff, lon_lat, unpack
from modalities.image import THUMBNAIL, Image
from modalities.rules import Rule
from modalities.satellite_settings import Percentiles, SatelliteSettings, Scaling, chosen_bands
from modalities.sources.files import PART_ROWS
from modalities.sources.paths import Listing
from modalities.thinning import COLUMNS, chip_rules

WHITE = 255.0
"""Encoders take values from 0 to this, as of a picture."""

GLIMPSE = 32
"""Pixels a side of a chip by which ranges of values are learned."""


class Satellite(FittedModality):
    """Chips of scenes; `decode` returns (rows, columns, bands), uint8 or float32, mostly in 0..255.

    Pixels without data get the mean of the chip's others in their band, which is what an encoder overlooks
    most easily. A tile that is no TIFF is opened as a picture.

    Args:
        options: the ``satellite`` section of the config.
    """

    name: ClassVar[str] = "satellite"
    kind: ClassVar[str] = "raster"
    default_encoder: ClassVar[str] = "patches"
    suffixes: ClassVar[tuple[str, ...]] = (".tif", ".tiff", ".gtiff", ".jpg", ".jpeg", ".png", ".jp2")
    columns: ClassVar[dict[str, pa.DataType]] = {
        "scene": pa.string(),
        "window": pa.list_(pa.int32(), 4),
        "crs": pa.string(),
        "bounds": pa.list_(pa.float64(), 4),
        "corners": pa.list_(pa.float64(), 8),
        "lon": pa.float64(),
        "lat": pa.float64(),
        "datetime": pa.timestamp("us", "UTC"),
        "nodata": pa.float32(),
        "cloud": pa.float32(),
    }
    column_names: ClassVar[tuple[str, ...]] = ("image", "tile", "chip", "tif", *Image.column_names)
    formats: ClassVar[dict[str, tuple[str, ...]]] = {"geotiff": (".tif", ".tiff", ".gtiff")}
    layout: ClassVar[Literal["tiles", "rows"]] = "tiles"
    settings: ClassVar[type[Settings] | None] = SatelliteSettings
    sampling_settings: ClassVar[tuple[str, ...]] = ("thin", "cap")

    def __init__(self, options: SatelliteSettings | None = None) -> None:
        self.options = options or SatelliteSettings()
        asked = (self.options.thin.distance_m, self.options.cap.per_cell, self.options.cap.per_date)
        self.thinned_by = () if asked == (None, None, None) else COLUMNS
        self._ranges: list[tuple[float, float]] = []
        self._latest: tuple[bytes, Chip, float | None] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_latest": None}

    def open(self, format: str, listing: Listing, part_rows: int | None) -> Source:
        """Open a pool of scenes, to cut them into chips."""
        from modalities.sources.geotiff import GeoTiffSource

        suffixes = self.formats[format]
        return GeoTiffSource(listing, self.options, suffixes, part_rows or PART_ROWS, self.max_pixels)

    @property
    def learns(self) -> bool:
        """Whether the range of the pool's values is wanted."""
        return self.options.scale == "auto" or isinstance(self.options.scale, Percentiles)

    def decode(self, payload: bytes) -> NDArray[np.uint8] | NDArray[np.float32]:
        """Return the bands asked for, scaled.

        Raises:
            Rejected: the chip is damaged or too large, has little data or much cloud, or lacks a band.
        """
        chip, cloud = self._chip(payload)
        if chip.nodata_fraction > self.options.max_nodata or not chip.valid.any():
            raise Rejected(_too_much("has no data in", "max_nodata", self.options.max_nodata))
        if cloud is not None and cloud > self.options.max_cloud:
            raise Rejected(_too_much("is under clouds in", "max_cloud", self.options.max_cloud))
        return self._scaled(chip, self._scale(chip, payload))

    def describe(self, sample: Any, payload: bytes) -> dict[str, Any]:
        """Return where the chip is from, where on Earth it lies, of when it is, and what it lacks."""
        chip, cloud = self._chip(payload)
        about = chip.about
        found: dict[str, Any] = {"nodata": chip.nodata_fraction}
        told = {"cloud": cloud, "scene": about.get("scene"), "window": about.get("window")}
        found |= {name: value for name, value in told.items() if value is not None}
        if about.get("datetime"):
            found["datetime"] = datetime.fromisoformat(about["datetime"])
        if chip.crs is not None:
            rows, columns = chip.valid.shape
            pixels = ((0, 0), (0, rows), (columns, rows), (columns, 0))
            corners = [chip.transform @ corner for corner in pixels]
            xs, ys = zip(*corners, strict=True)
            (lon,), (lat,) = lon_lat(chip.crs, [sum(xs) / 4], [sum(ys) / 4])
            found |= {"crs": chip.crs.to_string(), "bounds": [min(xs), min(ys), max(xs), max(ys)]}
            found |= {"lon": lon, "lat": lat}
            if chip.transform.b or chip.transform.d:
                found["corners"] = [coordinate for corner in corners for coordinate in corner]
        return found

    def completed(self, about: dict[str, Any], id: str) -> dict[str, Any]:
        """Return ``about`` with the date that the scene's name, or the id of a tile, tells."""
        moment = about.get("datetime")
        names = [about["scene"]] if "scene" in about else _names_in(id, self.options.date)
        found = dated(moment and moment.isoformat(), names, self.options.date)
        return about | {"datetime": datetime.fromisoformat(found)} if found else about

    def show(self, payload: bytes, uri: str) -> str:
        """Return an ``<img>`` of three bands, each stretched between its 2nd and 98th percentile."""
        if not is_tiff(payload):
            return self._pictures.show(payload, uri)
        title = html.escape(uri)
        try:
            chip, _ = self._chip(payload)
        except Rejected as reason:
            return f'<span class="sample" title="{title}">{html.escape(str(reason))}</span>'
        bands = [*range(len(chip.pixels))]
        shown = bands[:3] if len(bands) >= 3 else bands[:1]
        if self.options.bands is None and len(bands) > 3:
            shown = shown[::-1]  # bands are in the order of wavelengths, and red is the longest
        planes = [_stretched(chip.pixels[band], chip.valid) for band in shown]
        image = Pillow.fromarray(np.stack(planes, axis=2) if len(planes) == 3 else planes[0])
        scale = THUMBNAIL / max(image.size)
        if scale < 1 or scale >= 2:
            whole = max(1, int(scale)) if scale > 1 else scale
            size = (max(1, round(image.width * whole)), max(1, round(image.height * whole)))
            image = image.resize(size, Pillow.Resampling.NEAREST if whole > 1 else Pillow.Resampling.BOX)
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=85)
        data = base64.b64encode(buffer.getvalue()).decode("ascii")
        return (
            f'<img class="sample" src="data:image/jpeg;base64,{data}" alt="{title}" title="{title}"'
            f' width="{image.width}" height="{image.height}">'
        )

    def suffix(self, payload: bytes) -> str:
        """Return ``.tif``, or the suffix of a picture."""
        return ".tif" if is_tiff(payload) else self._pictures.suffix(payload)

    def rules(self, columns: pa.Table) -> Iterable[Rule]:
        """Return how far apart chips are, and how many there may be of one cell and of one date."""
        return chip_rules(columns, self.options.thin, self.options.cap)

    def glimpse(self, payload: bytes) -> Any:
        """Return values of a chip as they are (bands, n), NaN for no data; of 8 bits nothing, if left so."""
        nothing = np.empty((0, 0), np.float32)
        if self.options.scale == "auto" and not is_tiff(payload):
            return nothing  # as below, and without a look at it
        chip, _ = self._chip(payload)
        if not chip.valid.any():
            raise Rejected(_too_much("has no data in", "max_nodata", self.options.max_nodata))
        if self._scale(chip, payload) == "none":
            return nothing
        steps = [max(1, size // GLIMPSE) for size in chip.valid.shape]
        few = chip.pixels[:, :: steps[0], :: steps[1]].astype(np.float32)
        few[:, ~chip.valid[:: steps[0], :: steps[1]]] = np.nan
        return few.reshape(len(few), -1)

    def fit(self, samples: Sequence[Any]) -> dict[str, NDArray[Any]]:
        """Learn for each band the range of the values in glimpses of the pool."""
        percent = self.options.scale.percentiles if isinstance(self.options.scale, Percentiles) else (2, 98)
        ranges = []
        for band in range(max(map(len, samples), default=0)):
            values = np.concatenate([sample[band] for sample in samples if len(sample) > band])
            values = values[np.isfinite(values)]
            # of sorted values, so that nothing depends on the order in which they came
            low, high = np.percentile(np.sort(values), percent) if len(values) else (0.0, 1.0)
            ranges.append((float(low), float(high) if high > low else float(low) + 1))
        state = {"ranges": np.array(ranges, np.float64).reshape(-1, 2)}
        self.set_state(state)
        return state

    def set_state(self, state: dict[str, NDArray[Any]]) -> None:
        """Take the ranges that `fit` returned."""
        if set(state) != {"ranges"} or state["ranges"].shape[1:] != (2,):
            raise ModalityError(
                f"The state of modality 'satellite' has the arrays {sorted(state)}, not ranges."
            )
        self._ranges = [(float(low), float(high)) for low, high in state["ranges"]]

    @property
    def _pictures(self) -> Image:
        """What reads tiles that are no TIFF."""
        image = Image()
        image.max_pixels = self.max_pixels
        return image

    def _chip(self, payload: bytes) -> tuple[Chip, float | None]:
        """The chip with the bands asked for, and the share of its pixels that are cloud, if that is known.

        The latest is kept: `describe` comes after `decode`, and need not inflate the same bytes again.
        """
        if self._latest is None or self._latest[0] is not payload:
            self._latest = (payload, *self._looked_at(payload))
        return self._latest[1:]

    def _looked_at(self, payload: bytes) -> tuple[Chip, float | None]:
        chip = unpack(payload, self.max_pixels, self._pick) if is_tiff(payload) else self._pictured(payload)
        if chip.mask is not None:
            return chip, self.options.cloud.share(chip.mask, chip.valid)
        return chip, chip.about.get("cloud")

    def _pick(self, names: Sequence[str], about: dict[str, Any]) -> tuple[list[int], int | None]:
        """Places of the bands asked for, and of the cloud mask; a chip of ours may be all that was asked for.

        Its bands have other numbers than in the scene that it was cut out of, by the same settings.
        """
        bands, cloud = self.options.bands, self.options.cloud.band
        if bands is not None and about.get("asked") == bands:
            bands = [*range(1, len(names) + 1)]
        return chosen_bands(names, bands, cloud if about.get("cloud") is None else None)

    def _pictured(self, payload: bytes) -> Chip:
        """A picture as a chip that lies nowhere, its values as in the file where they are to be scaled."""
        shown = self.options.scale in ("auto", "none")
        pixels = self._pictures.decode(payload) if shown else self._pictures.values(payload)
        pixels = pixels.transpose(2, 0, 1)
        names = ["red", "green", "blue"] if len(pixels) == 3 else ["grey"]
        places, mask = self._pick(names, {})
        bands, clouds = pixels[places], None if mask is None else pixels[mask]
        valid = np.asarray(np.isfinite(bands).all(axis=0))
        names, count = [names[place] for place in places], len(places)
        return Chip(bands, valid, names, None, None, None, {}, [1.0] * count, [0.0] * count, clouds)

    def _scale(self, chip: Chip, payload: bytes) -> Scaling:
        """How a chip is scaled: not at all where ``auto`` meets 8 bits, or a picture as it is shown."""
        shown = chip.pixels.dtype == np.uint8 or not is_tiff(payload)
        return "none" if shown and self.options.scale == "auto" else self.options.scale

    def _scaled(self, chip: Chip, scale: Scaling) -> NDArray[np.uint8] | NDArray[np.float32]:
        pixels = chip.pixels
        if pixels.dtype == np.uint8 and scale == "none" and chip.valid.all():
            return np.ascontiguousarray(pixels.transpose(1, 2, 0))
        values = pixels.astype(np.float32)
        if scale == "tags":
            for name, scale_of, offset_of in zip(chip.bands, chip.scales, chip.offsets, strict=True):
                check_scale(name, pixels.dtype, scale_of, offset_of)
            gain, offset = (np.array(of, np.float32)[:, None, None] for of in (chip.scales, chip.offsets))
            values = (values * gain + offset) * WHITE
        elif scale != "none":
            for band, (low, high) in enumerate(self._ranges_for(len(values))):
                values[band] = np.clip((values[band] - low) * (WHITE / (high - low)), 0, WHITE)
        if not chip.valid.all():
            for band in values:
                band[~chip.valid] = band[chip.valid].mean(dtype=np.float64)
        return np.ascontiguousarray(values.transpose(1, 2, 0))

    def _ranges_for(self, bands: int) -> Sequence[tuple[float, float]]:
        scale = self.options.scale
        if isinstance(scale, tuple):
            return [scale] * bands
        ranges = scale if isinstance(scale, list) else self._ranges
        if len(ranges) < bands:
            raise Rejected(
                f"It has {bands} bands, and satellite.scale has ranges for {len(ranges)}"
                f"{'' if isinstance(scale, list) else ', as many as were seen in a sample of the pool'}."
            )
        return ranges[:bands]


def _names_in(id: str, pattern: str | None) -> list[str]:
    """What a tile's id says of it, first what is its own: what follows the path of a tar or a table."""
    numbers = r"#\d+$" if pattern else r"(^|#)\d+$"  # of a row, or all of the id: they may look like a date
    name = re.sub(numbers, "", id)
    return [name.rpartition("#")[2], name]


def _too_much(what: str, key: str, most: float) -> str:
    # the share itself is left out: reasons are counted, and would all differ
    return f"The chip {what} more than {100 * most:g} % of its pixels (satellite.{key})."


def _stretched(band: NDArray[Any], valid: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """A band (rows, columns) as a picture; black where it has no data."""
    values = band[valid].astype(np.float64)
    if not len(values):
        return np.zeros(band.shape, np.uint8)
    low, high = np.percentile(values, (2, 98))
    drawn = np.zeros(band.shape)
    drawn[valid] = np.clip((values - low) * (255 / (high - low)), 0, 255) if high > low else 128
    return drawn.astype(np.uint8)
