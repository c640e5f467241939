"""How a picture becomes the input of a vision model: cut to one size in uint8, normalised on the device."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from modalities.base import Rejected

if TYPE_CHECKING:
    import torch

FILTERS = {
    "nearest": Pillow.Resampling.NEAREST,
    "box": Pillow.Resampling.BOX,
    "bilinear": Pillow.Resampling.BILINEAR,
    "hamming": Pillow.Resampling.HAMMING,
    "bicubic": Pillow.Resampling.BICUBIC,
    "lanczos": Pillow.Resampling.LANCZOS,
}


@dataclass(frozen=True)
class Pixels:
    """The preprocessing that a vision model was trained with.

    Attributes:
        size: height and width of its input.
        mean: of its training pixels in 0..1, one a band; three are red, green and blue.
        std: their standard deviation.
        filter: of `FILTERS`; others count as bicubic.
        crop: side of the centred piece that is kept, as a share of the side that fits; timm's ``crop_pct``.
        fit: ``shortest``: the largest centred piece with the input's aspect ratio; ``squash``: all of the
            picture, stretched; ``longest``: all of it, with black borders.
        reverse: the model has the last band first, as those that were trained on blue, green and red.
    """

    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    filter: str = "bicubic"
    crop: float = 1.0
    fit: str = "shortest"
    reverse: bool = False

    dtype: ClassVar[np.dtype[Any]] = np.dtype(np.uint8)

    @property
    def bands(self) -> int:
        """How many the model takes."""
        return len(self.mean)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of a prepared picture."""
        return (*self.size, self.bands)

    def prepare(self, sample: NDArray[Any], spec: str) -> NDArray[np.uint8]:
        """Scale and crop a raster in 0..255 that has the model's bands; grey will do for a model of colours.

        Raises:
            Rejected: it has another number of bands.
        """
        there, taken = sample.shape[2], (1, 3) if self.bands == 3 else (self.bands,)
        if there not in taken:
            raise Rejected(
                f"It has {there} bands, but {spec} takes {' or '.join(map(str, taken))}: choose {self.bands}"
                " with satellite.bands."
            )
        pixels = np.clip(np.nan_to_num(sample), 0, 255).astype(np.uint8)
        if self.bands == 3:
            return self._fitted(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))
        return np.stack([self._fitted(pixels[:, :, band]) for band in range(there)], axis=2)

    def _fitted(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """One band (height, width), or three (height, width, 3), in the size of the input."""
        image = Pillow.fromarray(np.ascontiguousarray(pixels))
        height, width = self.size
        resample = FILTERS.get(self.filter, Pillow.Resampling.BICUBIC)
        if self.fit == "longest":
            scale = min(width / image.width, height / image.height)
            inner = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
            framed = Pillow.new(image.mode, (width, height))
            framed.paste(image.resize(inner, resample), ((width - inner[0]) // 2, (height - inner[1]) // 2))
            return np.asarray(framed)
        # The same as resizing, then cropping, but a picture of 1 x 10,000 pixels never becomes one of
        # 224 x 2,240,000.
        across, down = image.width / width, image.height / height
        if self.fit != "squash":
            across = down = min(across, down)
        across, down = width * across * self.crop, height * down * self.crop
        left, top = (image.width - across) / 2, (image.height - down) / 2
        box = (left, top, left + across, top + down)
        return np.asarray(image.resize((width, height), resample, box=box))

    def stack(self, batch: Sequence[Any], rows: int) -> NDArray[np.uint8]:
        """A batch of prepared pictures (rows, height, width, bands); missing ones are black."""
        stacked = np.zeros((rows, *self.shape), dtype=np.uint8)
        for row, picture in enumerate(batch):
            stacked[row] = picture
        return stacked

    def normalised(self, stacked: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """The input of the model (rows, bands, height, width), computed where ``stacked`` lies."""
        pixels = stacked.permute(0, 3, 1, 2).float() / 255
        if self.reverse:
            pixels = pixels.flip(1)
        mean, std = _bands(self.mean, stacked.device), _bands(self.std, stacked.device)
        return ((pixels - mean) / std).to(dtype)


@functools.cache  # a copy to a GPU from memory that is not pinned would wait for all that it has to do
def _bands(values: tuple[float, ...], device: torch.device) -> torch.Tensor:
    import torch

    return torch.tensor(values, device=device)[:, None, None]
