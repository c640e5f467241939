"""How is a scene cut? By windows on the grid of its finest band, read one by one and never as a whole."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.dtypes import can_cast_dtype
from rasterio.enums import Resampling
from rasterio.windows import Window as GdalWindow

from modalities.base import Rejected
from modalities.chips import (
    DRIVER,
    Chip,
    Window,
    band_names,
    check_file,
    check_scale,
    check_size,
    dated,
    gdal,
    lon_lat,
    moment_in,
    valid_in,
)
from modalities.satellite_settings import SatelliteSettings, chosen_bands, length_in_metres
from modalities.sources.paths import Root
from modalities.sources.walk import is_local

BAND_NAME = re.compile(
    r"(?P<scene>.+)_(?P<band>(?:(?:SR|ST|TOA)_)?B\d{1,2}[A-Z]?|SCL|CLM|QA_PIXEL|QA60|MSK_CLDPRB)(?:_\d+m)?",
    re.IGNORECASE,
)
"""How files end that hold one band of a scene."""

METRES_A_DEGREE = 111_195.0
"""Of latitude, on a sphere with Earth's mean radius."""


@dataclass(frozen=True)
class Scene:
    """A scene as its headers describe it, all that is needed to name its chips.

    Attributes:
        name: relative to the root, as ids have it.
        files: of the scene, relative to the root, in the order of their bands.
        size: columns and rows of the finest band.
        chip: columns and rows that a chip covers, and `stride` those from one to the next.
        stride: see there.
        shape: rows and columns that a chip is read as.
        least: the share of a chip that must lie inside the scene.
        bytes: of a chip.
        broken: why there are no chips, if there are none.
    """

    name: str
    files: list[str]
    size: list[int] = field(default_factory=lambda: [0, 0])
    chip: list[int] = field(default_factory=lambda: [1, 1])
    stride: list[int] = field(default_factory=lambda: [1, 1])
    shape: list[int] = field(default_factory=lambda: [1, 1])
    least: float = 1.0
    bytes: int = 0
    broken: str | None = None

    def windows(self) -> list[Window]:
        """Return the windows of its chips, row by row."""
        (width, height), (wide, high) = self.size, self.chip
        columns = _starts(width, wide, self.stride[0])
        rows = _starts(height, high, self.stride[1])
        return [
            Window(x, y, wide, high)
            for y in rows
            for x in columns
            if min(wide, width - x) * min(high, height - y) >= self.least * wide * high
        ]

    def __len__(self) -> int:
        return 1 if self.broken else len(self.windows())


def _starts(length: int, size: int, stride: int) -> list[int]:
    """Where chips begin along one side: none lies in what the one before has covered to the edge."""
    return [start for start in range(0, length, stride) if not start or start - stride + size < length]


def open_raster(root: Root, name: str) -> Any:
    """Open a GeoTIFF on any filesystem; its pixels are read when they are asked for.

    Raises:
        Rejected: it is gone, may not be read, or is no GeoTIFF.
    """
    fs, path = root.join(name)
    try:
        with gdal():
            if is_local(fs):
                return rasterio.open(Path(path), driver=DRIVER)
            return rasterio.open(path, driver=DRIVER, opener=fs.open)
    except FileNotFoundError:
        raise Rejected(f"The file {root.label(name)} is gone.") from None
    except PermissionError:
        raise Rejected(f"The file {root.label(name)} may not be read (permission denied).") from None
    except Exception:  # of GDAL and of filesystems, of many types
        raise Rejected(f"The file {root.label(name)} is no GeoTIFF, or is damaged.") from None


def described(
    name: str, names: list[str], files: Sequence[Any], options: SatelliteSettings, most: int
) -> Scene:
    """Read from the headers how a scene is cut, into chips of so many values (pixels x bands) at most.

    Raises:
        Rejected: it lies nowhere, its files do not match, it lacks a band, or its scale, or has no room for
            a chip.
    """
    finest = max(files, key=lambda file: file.width)
    if finest.crs is None:
        raise Rejected(
            "The scene has no CRS, so it lies nowhere: give it one, or take its files as they are with"
            " source.format=files."
        )
    for file in files:
        check_file(file, most)
        near = 1.5 * max(map(abs, file.res))
        if file.crs != finest.crs or not np.allclose(file.bounds, finest.bounds, rtol=0, atol=near):
            raise Rejected("The files of the scene do not cover the same ground in the same CRS.")
    known = _names(names, files)
    wanted, mask = chosen_bands(known, options.bands, options.cloud.band)
    if options.scale == "tags":
        _check_scales(known, files, wanted)
    metres = _metres_a_pixel(finest)
    factors = [1.0, 1.0] if options.resolution is None else [options.resolution / m for m in metres]
    pixels = _in_pixels(options.chip, metres, factors)
    stride = pixels if options.stride is None else _in_pixels(options.stride, metres, factors)
    shape = [max(1, round(side / factor)) for side, factor in zip(pixels, factors, strict=True)][::-1]
    values = shape[0] * shape[1] * (len(wanted) + (mask is not None))
    check_size(values, most)
    kind = np.result_type(*(kind for file in files for kind in file.dtypes))
    least = 1.0 if options.edges == "drop" else max(1 - options.max_nodata, 1e-9)
    scene = Scene(
        name, names, [finest.width, finest.height], pixels, stride, shape, least, values * kind.itemsize
    )
    if not scene.windows():
        raise Rejected(
            f"The scene of {finest.width} x {finest.height} pixels has no room for a chip of"
            f" {pixels[0]} x {pixels[1]}: lower satellite.chip, or let more of a chip lie outside it"
            " (satellite.edges, satellite.max_nodata)."
        )
    return scene


def _names(names: Sequence[str], files: Sequence[Any]) -> list[str]:
    """Names of the bands of a scene: of files of a band each, what their names end in."""
    found: list[str] = []
    for name, file in zip(names, files, strict=True):
        band = BAND_NAME.fullmatch(PurePosixPath(name).stem) if len(files) > 1 else None
        found += [band["band"]] if band else band_names(file)
    return found


def _check_scales(names: Sequence[str], files: Sequence[Any], wanted: Sequence[int]) -> None:
    """Raise Rejected where one of the bands that are wanted, by their places, lacks its scale."""
    bands = [band for file in files for band in zip(file.dtypes, file.scales, file.offsets, strict=True)]
    for place in wanted:
        kind, scale, offset = bands[place]
        check_scale(names[place], np.dtype(kind), scale, offset)


def _metres_a_pixel(file: Any) -> list[float]:
    """Metres that a column and a row measure: in a projected CRS by its unit, else where the scene lies.

    Raises:
        Rejected: it lies nowhere on Earth.
    """
    across, down = file.res
    if file.crs.is_projected:
        return [across * file.crs.linear_units_factor[1], down * file.crs.linear_units_factor[1]]
    middle = file.transform @ (file.width / 2, file.height / 2)
    _, (lat,) = lon_lat(file.crs, [middle[0]], [middle[1]])
    return [across * METRES_A_DEGREE * max(float(np.cos(np.radians(lat))), 1e-6), down * METRES_A_DEGREE]


def _in_pixels(length: int | str, metres: Sequence[float], factors: Sequence[float]) -> list[int]:
    """A length as columns and rows of the scene."""
    if isinstance(length, str):
        return [max(1, round((length_in_metres(length) or 0) / side)) for side in metres]
    return [max(1, round(length * factor)) for factor in factors]


class Reader:
    """Cuts chips out of a scene whose files are open, and whose blocks have so many values at most.

    Raises:
        Rejected: the scene is not what it was when the pool was listed.
    """

    def __init__(self, scene: Scene, files: Sequence[Any], options: SatelliteSettings, most: int) -> None:
        self._scene, self._files, self._options = scene, files, options
        self._finest = max(files, key=lambda file: file.width)
        if [self._finest.width, self._finest.height] != scene.size or self._finest.crs is None:
            raise Rejected("The scene is not what it was when the pool was listed.")
        for file in files:
            check_file(file, most)
        places = [(file, band) for file in files for band in range(1, file.count + 1)]
        names = _names(scene.files, files)
        wanted, mask = chosen_bands(names, options.bands, options.cloud.band)
        self._bands = [places[i] for i in wanted]
        self._names = [names[i] for i in wanted]
        self._mask = None if mask is None else places[mask]
        moments = (moment_in(file.tags()) for file in files)
        self._moment = dated(next(filter(None, moments), None), [scene.name], options.date)
        kind = np.result_type(*(file.dtypes[band - 1] for file, band in self._bands))
        wide = kind.kind in "iu" and kind.itemsize > 4  # encoders see float32 anyway
        self._kind = np.dtype(np.float64) if wide else kind
        nodata = {file.nodatavals[band - 1] for file, band in self._bands}
        self._nodata = nodata.pop() if len(nodata) == 1 else None
        if self._nodata is not None and not can_cast_dtype([self._nodata], self._kind):
            self._nodata = None  # the file's own bands cannot have it; a mask says what is missing

    def chip(self, window: Window) -> Chip:
        """Read one.

        Raises:
            Rejected: its pixels are damaged.
        """
        scene, finest = self._scene, self._finest
        inside = Window(
            window.x,
            window.y,
            min(window.width, scene.size[0] - window.x),
            min(window.height, scene.size[1] - window.y),
        )
        rows = max(1, round(scene.shape[0] * inside.height / window.height))
        columns = max(1, round(scene.shape[1] * inside.width / window.width))
        fill = self._nodata if self._nodata is not None else 0
        pixels = np.full((len(self._bands), *scene.shape), fill, self._kind)
        valid = np.zeros(scene.shape, dtype=bool)
        shape = (rows, columns)
        try:
            with gdal():
                valid[:rows, :columns] = self._read(inside, shape, pixels)
                cloud = None
                if self._mask is not None:
                    file, band = self._mask
                    mask = file.read(band, window=self._window(file, inside), out_shape=shape)
                    cloud = self._options.cloud.share(mask, valid[:rows, :columns])
        except Rejected:
            raise
        except Exception:  # of GDAL and of filesystems, of many types
            raise Rejected("Its pixels cannot be read: the file is truncated or damaged.") from None
        zoom = rasterio.Affine.scale(window.width / scene.shape[1], window.height / scene.shape[0])
        place = finest.transform @ rasterio.Affine.translation(window.x, window.y) @ zoom
        about: dict[str, Any] = {"scene": scene.name, "window": list(window), "datetime": self._moment}
        about |= {"cloud": cloud, "asked": self._options.bands}
        scales = [file.scales[band - 1] for file, band in self._bands]
        offsets = [file.offsets[band - 1] for file, band in self._bands]
        return Chip(pixels, valid, self._names, finest.crs, place, self._nodata, about, scales, offsets)

    def _read(self, inside: Window, shape: tuple[int, int], pixels: NDArray[Any]) -> NDArray[np.bool_]:
        """Fill in the pixels; return where all bands are valid."""
        valid = np.ones(shape, dtype=bool)
        for file in dict.fromkeys(file for file, _ in self._bands):
            rows = [i for i, (other, _) in enumerate(self._bands) if other is file]
            numbers = [self._bands[i][1] for i in rows]
            how = {"window": self._window(file, inside), "indexes": numbers, "out_shape": (len(rows), *shape)}
            fewer = how["window"].width > shape[1]
            found = file.read(resampling=Resampling.average if fewer else Resampling.bilinear, **how)
            valid &= valid_in(file, found, **how)
            pixels[rows, : shape[0], : shape[1]] = found
        return valid

    def _window(self, file: Any, inside: Window) -> GdalWindow:
        """The window in the pixels of a file that may be coarser."""
        across, down = file.width / self._scene.size[0], file.height / self._scene.size[1]
        return GdalWindow(inside.x * across, inside.y * down, inside.width * across, inside.height * down)
