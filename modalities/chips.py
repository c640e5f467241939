"""What is a chip? A window of a scene, cut out as a small GeoTIFF that says where it is from.

Only GDAL's GeoTIFF driver ever opens a file of the pool: others (VRT, say) would follow what the file says
to other files and addresses.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from modalities.base import MAX_PIXELS, ModalityError, Rejected

try:
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning
    from rasterio.io import MemoryFile
    from rasterio.warp import transform as warp_points
except ImportError as error:
    raise ModalityError(
        "modality 'satellite' needs rasterio, which is not installed: install evenset[satellite]."
    ) from error

DRIVER = "GTiff"
MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""How a TIFF or a BigTIFF begins."""

TAGS = "EVENSET"
"""Namespace of the tags that a chip carries about its scene."""

LON_LAT = "EPSG:4326"

NAMED = 20
"""Bands that a message names at most: hyperspectral scenes have hundreds."""

_ENVIRONMENT = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",  # neither sidecar files nor listings of a bucket
    "GDAL_TIFF_INTERNAL_MASK": True,
    "GDAL_NUM_THREADS": 1,
    "GDAL_PAM_ENABLED": False,
    "CPL_LOG_ERRORS": False,
}


class Window(NamedTuple):
    """Pixels of a scene: column and row of the upper left one, columns, rows. May reach over the edge."""

    x: int
    y: int
    width: int
    height: int


@dataclass(frozen=True)
class Chip:
    """A chip as it was cut out.

    Attributes:
        pixels: (bands, rows, columns) as the scene has them.
        valid: (rows, columns), False where any band has no data.
        bands: a name for each band.
        crs: of the scene, as rasterio has it, or None.
        transform: from pixels to the CRS.
        nodata: the scene's, or None.
        about: ``scene``, ``window``, ``datetime`` (ISO 8601), ``cloud`` and ``asked``, the bands for which
            who cut it out had asked, as far as they are known.
        scales: by which the values of each band are multiplied, to mean something.
        offsets: and what is then added to them.
        mask: (rows, columns), the band that says where clouds are, if it was asked for and is not cut away.
    """

    pixels: NDArray[Any]
    valid: NDArray[np.bool_]
    bands: Sequence[str]
    crs: Any
    transform: Any
    nodata: float | None
    about: dict[str, Any]
    scales: Sequence[float]
    offsets: Sequence[float]
    mask: NDArray[Any] | None = None

    @property
    def nodata_fraction(self) -> float:
        """Share of the pixels that lack a band."""
        return 1 - float(self.valid.mean())


@contextmanager
def gdal() -> Iterator[None]:
    """GDAL as files of a stranger are to be opened: alone, on one thread, and without a word."""
    with warnings.catch_warnings(), rasterio.Env(**_ENVIRONMENT):
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield


def is_tiff(payload: bytes) -> bool:
    """Tell whether bytes begin as a TIFF does."""
    return payload[:4] in MAGIC


def pack(chip: Chip) -> bytes:
    """Return a chip as a GeoTIFF; the same chip is always the same bytes."""
    bands, height, width = chip.pixels.shape
    profile = {"width": width, "height": height, "count": bands, "dtype": chip.pixels.dtype}
    profile |= {"crs": chip.crs, "transform": chip.transform, "nodata": chip.nodata}
    predictor = 3 if chip.pixels.dtype.kind == "f" else 2
    packing = {"compress": "deflate", "zlevel": 1, "predictor": predictor, "interleave": "band"}
    with gdal(), MemoryFile() as memory:
        with memory.open(driver=DRIVER, **profile, **packing) as file:
            file.write(chip.pixels)
            file.descriptions, file.scales, file.offsets = chip.bands, chip.scales, chip.offsets
            file.update_tags(ns=TAGS, about=json.dumps(chip.about, sort_keys=True))
            if not chip.valid.all():
                file.write_mask(chip.valid)
        return bytes(memory.getbuffer())


Pick = Callable[[Sequence[str], dict[str, Any]], tuple[Sequence[int], int | None]]
"""Says by the names of the bands of a file, and what it tells about itself, which places are those of a chip,
and which is that of the cloud mask."""


def unpack(payload: bytes, most: int = MAX_PIXELS, pick: Pick | None = None) -> Chip:
    """Read a GeoTIFF, one that `pack` made or another, of so many values (pixels x bands) at most.

    Args:
        payload: its bytes.
        most: see above.
        pick: the bands to read, which alone say where there are data; None: all.

    Raises:
        Rejected: it is damaged, or too large.
    """
    try:
        with gdal(), MemoryFile(payload) as memory, memory.open(driver=DRIVER) as file:
            check_size(file.count * file.width * file.height, most)
            check_file(file, most)
            names, about = band_names(file), _about(file)
            places, mask = (range(len(names)), None) if pick is None else pick(names, about)
            numbers = [place + 1 for place in places]
            pixels = file.read(numbers)
            valid = valid_in(file, pixels, None, indexes=numbers)
            clouds = None if mask is None else file.read(mask + 1)
            crs = None if file.transform == rasterio.Affine.identity() else file.crs
            bands = [names[place] for place in places]
            scales, offsets = ([of[place] for place in places] for of in (file.scales, file.offsets))
            known = (bands, crs, file.transform, file.nodata, about, scales, offsets, clouds)
            return Chip(pixels, valid, *known)
    except Rejected:
        raise
    except Exception:  # GDAL's errors have many types, and a damaged header may surface as any
        raise Rejected("The TIFF is truncated or damaged.") from None


def check_size(values: int, most: int) -> None:
    """Raise Rejected where so many values (pixels x bands) are more than that."""
    if values > most:
        raise Rejected(f"It has {values:,} values, more than {most:,} (limits.pixels).")


def check_file(file: Any, most: int) -> None:
    """Raise Rejected where a raster cannot be read safely, or not as numbers.

    Args:
        file: open.
        most: values of a block, which is decompressed as a whole.
    """
    rows, columns = file.block_shapes[0]
    interleaved = file.interleaving and file.interleaving.name == "pixel"
    check_size(rows * columns * (file.count if interleaved else 1), most)
    odd = next((kind for kind in file.dtypes if np.dtype(kind).kind not in "uif"), None)
    if odd:
        raise Rejected(f"Its values are of type {odd}, which is neither an integer nor a float.")


def check_scale(name: str, kind: np.dtype[Any], scale: float, offset: float) -> None:
    """Raise Rejected where the tags of a band do not make a reflectance of it: it would be all white.

    Where there are no tags GDAL says 1 and 0, and it writes none that say so. Floats may be reflectances as
    they are, whole numbers may not.
    """
    if (scale, offset) == (1, 0) and kind.kind in "ui":
        raise Rejected(
            f"Its band {name} has whole numbers, and no tags that scale them (satellite.scale=tags): leave"
            " it out of satellite.bands, or write the range, as in satellite.scale=[0, 10000], or auto."
        )


def valid_in(file: Any, pixels: NDArray[Any], window: Any, **how: Any) -> NDArray[np.bool_]:
    """Where (rows, columns) all bands that were read have data: by mask or nodata value, and no NaN.

    Args:
        file: open.
        pixels: (bands, rows, columns) that were read from it.
        window: from where; None for all of it.
        how: how they were read, and which: ``indexes``.
    """
    valid = np.ones(pixels.shape[1:], dtype=bool)
    if any(flag.name != "all_valid" for flags in file.mask_flag_enums for flag in flags):
        masks = file.read_masks(window=window, **how) if pixels.size else pixels
        valid &= (masks != 0).all(axis=0)
    if pixels.dtype.kind == "f":
        valid &= np.isfinite(pixels).all(axis=0)
    return valid


def band_names(file: Any) -> list[str]:
    """Return the descriptions of a file's bands; a number where there is none."""
    return [text or str(number) for number, text in enumerate(file.descriptions, start=1)]


def find_band(wanted: int | str, names: Sequence[str], key: str) -> int:
    """Return the place of a band that is named by its number, from 1, or by its description.

    ``B04`` and ``b4`` are one description.

    Args:
        wanted: the band.
        names: of all bands.
        key: of the config, which asks for it.

    Raises:
        Rejected: there is no such band.
    """
    if isinstance(wanted, int):
        if 1 <= wanted <= len(names):
            return wanted - 1
        raise Rejected(f"It has {len(names)} bands, and {key} asks for number {wanted}.")
    known = [_bare(name) for name in names]
    if _bare(wanted) in known:
        return known.index(_bare(wanted))
    told = [*names[:NAMED], "..."] if len(names) > NAMED else names
    raise Rejected(f"It has no band {wanted!r}, only {', '.join(told)} ({key}).")


def _bare(name: str) -> str:
    return re.sub(r"(?<![0-9])0+(?=[0-9])", "", name.strip().casefold())


def _about(file: Any) -> dict[str, Any]:
    try:
        about = json.loads(file.tags(ns=TAGS).get("about", "{}"))
    except ValueError:
        about = {}
    about = about if isinstance(about, dict) else {}
    moment = about.get("datetime") or moment_in(file.tags())
    return {**about, "datetime": moment}


def moment_in(tags: dict[str, str]) -> str | None:
    """Return the time in a TIFF's tags as ISO 8601 in UTC, or None."""
    for name in ("datetime", "DATETIME", "ACQUISITIONDATETIME", "TIFFTAG_DATETIME"):
        text = tags.get(name, "").strip()
        text = re.sub(r"^(\d{4}):(\d\d):(\d\d)", r"\1-\2-\3", text)  # TIFF 6.0 has colons in the date
        try:
            found = datetime.fromisoformat(text)
        except ValueError:
            continue
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC).isoformat()
    return None


_DATES = (
    re.compile(r"(?<!\d)(?P<year>(?:19|20)\d\d)(?P<month>\d\d)(?P<day>\d\d)(?!\d)"),
    re.compile(r"(?<!\d)(?P<year>(?:19|20)\d\d)[-_](?P<month>\d\d)[-_](?P<day>\d\d)(?!\d)"),
    re.compile(r"L[COTEM]\d\d{6}(?P<year>(?:19|20)\d\d)(?P<doy>\d{3})"),  # Landsat before Collection 1
)
"""Dates in the names of scenes, as Sentinel and Landsat products have them (times of day are not digits)."""


def moment_named(name: str, pattern: str | None = None) -> str | None:
    """Return the day in a scene's name as ISO 8601 in UTC, or None.

    Args:
        name: of the scene.
        pattern: a regular expression with the groups year, month, day or doy; None knows usual names.
    """
    for expression in (re.compile(pattern),) if pattern else _DATES:
        # in the names of Sentinel-2 a time follows, as in 20200131T101321
        found = expression.search(re.sub(r"(?<=\d{8})T\d{6}", "", name))
        if found is None:
            continue
        parts = {key: int(value) for key, value in found.groupdict().items() if value}
        try:
            day = datetime(parts["year"], parts.get("month", 1), parts.get("day", 1), tzinfo=UTC)
            return (day + timedelta(days=parts.get("doy", 1) - 1)).isoformat()
        except (ValueError, KeyError, OverflowError):
            continue
    return None


def dated(moment: str | None, names: Iterable[str], pattern: str | None) -> str | None:
    """Return of when a scene is, as ISO 8601 in UTC, or None: tags come before names that follow no pattern.

    Args:
        moment: what its tags say.
        names: of which the first with a date counts.
        pattern: as in `moment_named`.
    """
    day = next(filter(None, (moment_named(name, pattern) for name in names)), None)
    return day or moment if pattern else moment or day


def lon_lat(crs: Any, xs: Sequence[float], ys: Sequence[float]) -> tuple[list[float], list[float]]:
    """Bring points to longitudes in [-180, 180) and latitudes.

    Raises:
        Rejected: the CRS has no way there, or the points do not lie on Earth.
    """
    try:
        with gdal():
            lon, lat = warp_points(crs, LON_LAT, xs, ys)[:2]
    except Exception as error:  # of PROJ, of many types
        raise Rejected(f"Its CRS cannot be brought to longitude and latitude ({error}).") from None
    if not np.isfinite([lon, lat]).all() or max(map(abs, lat)) > 90.0001:
        raise Rejected("Its place in its CRS is not on Earth.")
    return [(x + 180) % 360 - 180 for x in lon], list(lat)
