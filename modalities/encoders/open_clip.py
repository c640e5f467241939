"""The two towers of CLIP models, through open_clip: images and texts into one space."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from modalities.base import Encoder, ModalityError, Rejected
from modalities.encoders.device import check_dtype, place

MAX_CHARACTERS = 10_000
"""The context of CLIP is 77 tokens."""

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
"""Of the pixels that the first CLIP was trained on; a checkpoint that was trained otherwise says so."""


class OpenClip(Encoder):
    """A model of open_clip as ``open_clip:ARCH/PRETRAINED``.

    Args:
        argument: ``ARCH/PRETRAINED``: an architecture and a tag of open_clip, or a checkpoint file. With
            nothing after the slash the weights are random, the same ones every time: of use for tests alone.
        kind: ``raster`` takes the image tower, ``text`` the text tower.
        batch_size: rows of a batch.
        dtype: arithmetic of the model, see `modalities.encoders.device.place`.
        device: see there.

    Raises:
        ModalityError: open_clip knows no such architecture or no such weights of it.
    """

    accepts: ClassVar[tuple[str, ...]] = ("raster", "text")

    def __init__(
        self,
        argument: str,
        *,
        kind: str = "raster",
        batch_size: int | None = None,
        dtype: str | None = None,
        device: str | None = None,
    ) -> None:
        self.spec = f"open_clip:{argument}"
        self._arch, slash, self._pretrained = argument.partition("/")
        if not self._arch or not slash:
            raise ModalityError(
                f"encoder.model {self.spec!r}: write open_clip:ARCH/PRETRAINED, such as"
                " open_clip:ViT-B-32/laion2b_s34b_b79k."
            )
        self.batch_size = batch_size or 32
        self.dtype = check_dtype(dtype)
        self.device = device
        self._kind = kind
        config = _model_config(self._arch)
        self.dim = int(config["embed_dim"])
        self._preprocess = _preprocess(self._arch, self._pretrained)
        self._model: Any = None
        self._tokenizer: Any = None
        if kind == "raster":
            size = self._preprocess.get("size", config["vision_cfg"]["image_size"])
            self._size = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
            self.input_shape = (*self._size, 3)
            self.input_dtype = np.dtype(np.uint8)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_model": None, "_tokenizer": None}

    def prepare(self, sample: Any) -> NDArray[np.uint8] | str:
        """Scale and crop an image as the model was trained, to uint8; or return the beginning of a text."""
        if self._kind == "text":
            text: str = sample[:MAX_CHARACTERS]
            return text
        if sample.shape[2] not in (1, 3):
            raise Rejected(f"The image has {sample.shape[2]} bands, but {self.spec} takes 1 or 3.")
        pixels = np.clip(np.nan_to_num(sample), 0, 255).astype(np.uint8)
        image = Pillow.fromarray(np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3))))
        height, width = self._size
        filters = {"bilinear": Pillow.Resampling.BILINEAR, "bicubic": Pillow.Resampling.BICUBIC}
        resample = filters.get(self._preprocess.get("interpolation", "bicubic"), Pillow.Resampling.BICUBIC)
        if self._preprocess.get("resize_mode", "shortest") == "squash":
            return np.asarray(image.resize((width, height), resample))
        # The largest centred piece with the model's aspect ratio; the same as resizing, then cropping, but a
        # picture of 1 x 10,000 pixels never becomes one of 224 x 2,240,000.
        scale = min(image.width / width, image.height / height)
        left = (image.width - width * scale) / 2
        top = (image.height - height * scale) / 2
        box = (left, top, left + width * scale, top + height * scale)
        return np.asarray(image.resize((width, height), resample, box=box))

    def load(self) -> None:
        """Build the model and load its weights; a file is read with ``weights_only``."""
        import open_clip
        import torch

        device, dtype = place(self.device, self.dtype)
        pretrained = self._pretrained or None
        try:
            # Random weights are drawn without disturbing anybody else's random numbers.
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                self._model = open_clip.create_model(
                    self._arch,
                    pretrained=os.path.expanduser(pretrained) if pretrained else None,  # noqa: PTH111
                    require_pretrained=pretrained is not None,
                    pretrained_text=pretrained is not None,
                    weights_only=True,
                )
            if self._kind == "text":
                self._tokenizer = open_clip.get_tokenizer(self._arch)
        except Exception as error:
            # Missing files, unpickling, the hub's client, and mismatched weights all come through here.
            raise ModalityError(f"The weights of {self.spec!r} cannot be loaded ({_why(error)}).") from error
        self._model = self._model.eval().to(device=device, dtype=dtype)
        self.device, self.dtype = str(device), str(dtype).removeprefix("torch.")

    def encode(
        self, batch: Sequence[NDArray[Any] | str], like: Sequence[NDArray[Any] | str] | None = None
    ) -> NDArray[np.float32]:
        """Encode up to `batch_size` prepared rows; missing rows are filled up."""
        import torch

        device, dtype = torch.device(self.device or "cpu"), getattr(torch, self.dtype or "float32")
        with torch.inference_mode():
            if self._kind == "text":
                texts = [*map(str, batch), *[""] * (self.batch_size - len(batch))]
                output = self._model.encode_text(self._tokenizer(texts).to(device))
            else:
                rows = np.zeros((self.batch_size, *(self.input_shape or ())), dtype=np.uint8)
                rows[: len(batch)] = np.stack([np.asarray(row) for row in batch])
                pixels = torch.from_numpy(rows).to(device).permute(0, 3, 1, 2).float() / 255
                mean = torch.tensor(self._preprocess.get("mean", MEAN), device=device)[:, None, None]
                std = torch.tensor(self._preprocess.get("std", STD), device=device)[:, None, None]
                output = self._model.encode_image(((pixels - mean) / std).to(dtype))
        embeddings: NDArray[np.float32] = output.float().cpu().numpy()
        return embeddings[: len(batch)]


def _why(error: Exception) -> str:
    if type(error).__name__ == "UnpicklingError":  # torch's own words end in how to run it all the same
        return "the file is damaged, or holds more than weights, such as a program, and those are not run"
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _model_config(arch: str) -> dict[str, Any]:
    import open_clip

    config = open_clip.get_model_config(arch)
    if config is None:
        from difflib import get_close_matches

        near = get_close_matches(arch, open_clip.list_models(), n=3, cutoff=0.4)
        hint = f": did you mean {' or '.join(near)}?" if near else "."
        raise ModalityError(f"encoder.model: open_clip has no architecture {arch!r}{hint}")
    found: dict[str, Any] = config
    return found


def _preprocess(arch: str, pretrained: str) -> dict[str, Any]:
    """Return how open_clip says that images were treated in training."""
    if not pretrained or Path(pretrained).expanduser().is_file():
        return {}
    import open_clip

    config: dict[str, Any] = open_clip.get_pretrained_cfg(arch, pretrained)
    if not config:
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(arch)) or "none"
        raise ModalityError(
            f"encoder.model: {pretrained!r} is no file and no weights of {arch}; there are {tags}."
        )
    keys = ("size", "mean", "std", "interpolation", "resize_mode")
    return {key: config[key] for key in keys if config.get(key) is not None}
