"""What an image sample is: the bytes of one encoded picture, opened with Pillow."""

from __future__ import annotations

import base64
import html
import io
import warnings
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import ImageOps, UnidentifiedImageError

from modalities.base import Modality, Rejected

THUMBNAIL = 128
"""Longest side, in pixels, of what `show` draws."""

# Pillow's other readers start outside programs (EPS, WMF), are of video (MPEG, FLI), want a library that is
# not there (GRIB, HDF5), or are of instruments and of single programs of old (FITS, PCD, XPM).
SUFFIX_OF_FORMAT = {
    "PNG": ".png",
    "JPEG": ".jpg",
    "MPO": ".jpg",
    "GIF": ".gif",
    "BMP": ".bmp",
    "TIFF": ".tif",
    "WEBP": ".webp",
    "PPM": ".ppm",
    "JPEG2000": ".jp2",
    "AVIF": ".avif",
    "QOI": ".qoi",
    "PSD": ".psd",
    "DDS": ".dds",
    "DIB": ".dib",
    "ICO": ".ico",
    "CUR": ".cur",
    "SGI": ".sgi",
    "PCX": ".pcx",
    "TGA": ".tga",  # the last, as nothing but a plausible header tells it
}
"""Formats that are read, in the order in which they are tried, and the suffix with which each is exported."""

Pillow.init()
READABLE = tuple(name for name in SUFFIX_OF_FORMAT if name in Pillow.OPEN)
"""Formats this build of Pillow opens (MPO comes through JPEG's reader)."""

SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".gif", ".bmp", ".tif", ".tiff", ".webp"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".avif"),
)
"""The usual ones, which count whatever this build of Pillow opens."""


def _suffixes() -> tuple[str, ...]:
    """The usual suffixes, and all others that Pillow knows of the formats that are read."""
    others = (suffix for suffix, name in Pillow.registered_extensions().items() if name in SUFFIX_OF_FORMAT)
    return tuple(dict.fromkeys([*SUFFIXES, *sorted(others)]))


class Image(Modality):
    """Pictures; `decode` returns (height, width, bands) with 1 (grey) or 3 (RGB) bands in 0..255."""

    name: ClassVar[str] = "image"
    kind: ClassVar[str] = "raster"
    default_encoder: ClassVar[str] = "patches"
    suffixes: ClassVar[tuple[str, ...]] = _suffixes()
    columns: ClassVar[dict[str, pa.DataType]] = {
        "width": pa.int32(),
        "height": pa.int32(),
        "bytes": pa.int64(),
    }
    column_names: ClassVar[tuple[str, ...]] = ("image", "img", "bytes", "jpg", "png", "picture", "content")
    layout: ClassVar[Literal["tiles", "rows"]] = "tiles"

    def decode(self, payload: bytes) -> NDArray[np.uint8] | NDArray[np.float32]:
        """Decode a picture as a viewer would show it: upright, flattened onto white, first frame.

        Returns:
            (H, W, 1) or (H, W, 3): uint8, or float32 in 0..255 where the file has more than 8 bits.

        Raises:
            Rejected: the picture is empty, damaged, in no known format, or has more than `max_pixels`.
        """
        pixels = self.values(payload)
        return pixels if pixels.dtype == np.uint8 else _shown(pixels)

    def values(self, payload: bytes) -> NDArray[Any]:
        """As `decode`, but what has more than 8 bits as the file has it: (H, W, 1), integers or floats.

        Raises:
            Rejected: see `decode`.
        """
        image = _open(payload, self.max_pixels)
        try:
            image.load()
            _check_pixels(image, self.max_pixels)  # an icon may hold a larger picture than it says
            return _pixels(_upright(image))
        except Rejected:
            raise
        except Exception:
            # Damaged headers surface as almost any exception (OSError, SyntaxError, struct.error, ...).
            raise Rejected("The image data are truncated or damaged.") from None

    def describe(self, sample: Any, payload: bytes) -> dict[str, Any]:
        """Return width and height in pixels (upright) and the bytes of the file."""
        return {"width": sample.shape[1], "height": sample.shape[0], "bytes": len(payload)}

    def show(self, payload: bytes, uri: str) -> str:
        """Return an ``<img>`` that carries its own thumbnail, at most `THUMBNAIL` pixels a side."""
        title = html.escape(uri)
        try:
            pixels = self.decode(payload)
        except Rejected as reason:
            return f'<span class="sample" title="{title}">{html.escape(str(reason))}</span>'
        drawn = pixels.astype(np.uint8)
        image = Pillow.fromarray(drawn[:, :, 0] if drawn.shape[2] == 1 else drawn)
        image.thumbnail((THUMBNAIL, THUMBNAIL))
        enlarge = THUMBNAIL // 2 // max(image.size)
        if enlarge > 1:  # an icon of 8 pixels is unreadable: draw its pixels as squares
            image = image.resize((image.width * enlarge, image.height * enlarge), Pillow.Resampling.NEAREST)
        # JPEG keeps a page of thumbnails small; squares need sharp edges.
        kind = "png" if enlarge > 1 else "jpeg"
        buffer = io.BytesIO()
        image.save(buffer, kind.upper(), quality=85)
        data = base64.b64encode(buffer.getvalue()).decode("ascii")
        return (
            f'<img class="sample" src="data:image/{kind};base64,{data}" alt="{title}" title="{title}"'
            f' width="{image.width}" height="{image.height}">'
        )

    def suffix(self, payload: bytes) -> str:
        """Return the suffix of the picture's own format."""
        return SUFFIX_OF_FORMAT[_open(payload, self.max_pixels).format or ""]


def _open(payload: bytes, most: int) -> Pillow.Image:
    if not payload:
        raise Rejected("The file is empty.")
    if Pillow.MAX_IMAGE_PIXELS is not None and most > 2 * Pillow.MAX_IMAGE_PIXELS:
        Pillow.MAX_IMAGE_PIXELS = most  # from twice as many on, Pillow refuses by itself
    try:
        with warnings.catch_warnings():
            # what is asked for below is the stricter limit
            warnings.simplefilter("ignore")
            image = Pillow.open(io.BytesIO(payload), formats=READABLE)
    except UnidentifiedImageError:
        raise Rejected("The file is not an image in a known format.") from None
    except Pillow.DecompressionBombError:
        raise _too_large(most) from None
    except Exception:
        # A damaged header may raise almost anything, and costs this sample alone.
        raise Rejected("The image data are truncated or damaged.") from None
    _check_pixels(image, most)
    return image


def _check_pixels(image: Pillow.Image, most: int) -> None:
    if image.width * image.height > most:
        raise _too_large(most)


def _too_large(most: int) -> Rejected:
    return Rejected(f"The image has more than {most:,} pixels (limits.pixels).")


def _upright(image: Pillow.Image) -> Pillow.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:
        return image  # an unreadable EXIF block says nothing about the picture


def _pixels(image: Pillow.Image) -> NDArray[Any]:
    if image.mode.startswith("I") or image.mode == "F":
        return np.asarray(image)[:, :, None]
    if image.has_transparency_data:
        # What lies under transparent pixels is arbitrary; a viewer shows the page behind them.
        image = image.convert("RGBA")
        image = Pillow.alpha_composite(Pillow.new("RGBA", image.size, "white"), image).convert("RGB")
    elif image.mode in ("1", "L"):
        return np.asarray(image.convert("L"))[:, :, None]
    return np.asarray(image.convert("RGB"))


def _shown(values: NDArray[Any]) -> NDArray[np.float32]:
    """Scale values of 16 bits, 32 bits or float to float32 in 0..255."""
    grey = values.astype(np.float64)
    if not np.isfinite(grey).all():
        raise Rejected("The image holds NaN or infinite pixels.")
    low, high = float(grey.min()), float(grey.max())
    if np.issubdtype(values.dtype, np.integer) and low >= 0 and high <= 65_535:
        low, high = 0.0, 65_535.0
    scaled = (grey - low) * (255.0 / (high - low)) if high > low else np.zeros_like(grey)
    return scaled.astype(np.float32)
