"""Small scenes on disk, as satellites leave them."""

import numpy as np
import rasterio
from rasterio.transform import from_origin

UTM = "EPSG:32633"
CORNER = (500_000, 5_600_000)


def values(bands=4, height=50, width=70, dtype="uint16", seed=0):
    """Pixels (bands, height, width) that differ everywhere, none of them 0."""
    random = np.random.default_rng(seed)
    top = 250 if np.dtype(dtype).itemsize == 1 else 9_000
    return random.integers(1, top, (bands, height, width)).astype(dtype)


def write_scene(path, pixels=None, crs=UTM, corner=CORNER, metres=10.0, names=None, tags=None, **profile):
    """Write a GeoTIFF, or a COG, whose upper left corner lies at ``corner``; return its pixels."""
    pixels = values() if pixels is None else pixels
    path.parent.mkdir(parents=True, exist_ok=True)
    where = {"transform": from_origin(*corner, metres, metres), "crs": crs}
    profile = {"driver": "GTiff"} | where | profile
    bands, height, width = pixels.shape
    with rasterio.open(
        path, "w", width=width, height=height, count=bands, dtype=pixels.dtype, **profile
    ) as file:
        file.write(pixels)
        if names:
            file.descriptions = names
        if tags:
            file.update_tags(**tags)
    return pixels
