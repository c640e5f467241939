"""ImageNet's MobileNetV2 1.0/224 as plain convolutions, from the benchmarks' data folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors import safe_open
from torch.nn import functional

WEIGHTS = "mobilenet_v2_imagenet_fp16.safetensors"
SIDE = 128  # pixels: 32x32 and 64x64 pictures gain nothing from the 224 of its training
_BATCH = 32


class MobileNetV2:
    """The network without its classifier.

    Args:
        weights: The safetensors file; its metadata lists the layers.
    """

    def __init__(self, weights: Path) -> None:
        with safe_open(str(weights), "pt") as file:
            self.layers = json.loads(file.metadata()["layers"])[:-1]
            self.tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118

    @torch.inference_mode()
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Features (n, 1280) of pictures (n, 3, height, width) in [-1, 1]."""
        skip = x
        for layer in self.layers:
            if layer["start"]:
                skip = x
            weight = self.tensors[layer["k"] + ".weight"]
            if weight.shape[-1] == 3:
                # the network was trained with TensorFlow's "same" padding, which is uneven at stride 2
                x = functional.pad(x, (0, 1, 0, 1) if layer["stride"] == 2 else (1, 1, 1, 1))
            bias = self.tensors[layer["k"] + ".bias"]
            x = functional.conv2d(x, weight, bias, layer["stride"], groups=layer["groups"])
            if layer["relu6"]:
                x = x.clamp(0, 6)
            if layer["add"]:
                x = x + skip
        return x.mean((2, 3))

    def encode(self, pictures: Sequence[Image.Image]) -> NDArray[np.float32]:
        """Features (n, 1280) of pictures."""
        out = [
            self.forward(torch.stack([_pixels(picture) for picture in pictures[i : i + _BATCH]])).numpy()
            for i in range(0, len(pictures), _BATCH)
        ]
        return np.concatenate(out)


def _pixels(picture: Image.Image) -> torch.Tensor:
    """A picture as (3, SIDE, SIDE) in [-1, 1]."""
    image = picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 127.5 - 1
