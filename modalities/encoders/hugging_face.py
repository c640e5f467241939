"""Models of the library transformers with one tower, for images or texts, by the pooling of their tokens."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from modalities.base import ModalityError
from modalities.encoders.hub import model_folder, read_json
from modalities.encoders.pixels import Pixels
from modalities.encoders.tokens import LENGTHS, Tokens, hugging_face, positions
from modalities.encoders.torch_encoder import TorchEncoder

if TYPE_CHECKING:
    import torch

POOLINGS = ("auto", "mean", "cls")

UNUSED = ("pooler", "lm_head", "classifier", "mask_token")
"""Beginnings and ends of names of weights that a checkpoint may lack: embeddings do not come from them."""

FILTERS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
"""Pillow's numbers, as preprocessor_config.json has them."""


class HuggingFace(TorchEncoder):
    """A model that transformers' AutoModel opens, as ``hf:NAME``.

    Args:
        argument: name on the hub, folder, or ``local-dir:FOLDER``.
        kind: ``raster`` or ``text``.
        batch_size: rows of a batch.
        dtype: arithmetic of the model, see `modalities.encoders.device.place`.
        device: see there.
        pooling: ``mean`` over all tokens, or ``cls``, the first one; ``auto`` takes the mean of a text, and
            of a picture the class token, or the mean where the model has none.
        long_text: see `modalities.encoders.tokens.Tokens`.

    Raises:
        ModalityError: there is no such model here, none could be fetched, or it is not of this kind.
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
        pooling: str | None = None,
        long_text: str | None = None,
    ) -> None:
        spec = f"hf:{argument}"
        if not argument:
            raise ModalityError(
                "encoder.model 'hf' lacks its model: write hf:NAME, such as hf:facebook/dinov2-base."
            )
        if pooling not in (None, *POOLINGS):
            raise ModalityError(f"encoder.pooling {pooling!r} is unknown; there are {', '.join(POOLINGS)}.")
        self._name, self._pooling = argument, pooling or "auto"
        folder = model_folder(argument, weights=False)
        self.dim, longest = _described(spec, folder, kind)
        takes: Pixels | Tokens
        if kind == "raster":
            takes = _pixels(folder, spec)
        else:
            where = partial(model_folder, argument, weights=False)
            takes = Tokens(partial(hugging_face, where, longest), longest, long_text)
        super().__init__(spec, takes, batch_size=batch_size, dtype=dtype, device=device)

    def _build(self) -> Any:
        from transformers import AutoModel
        from transformers.utils import logging

        logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        folder = model_folder(self._name, weights=True, pickled=True)
        model, loading = AutoModel.from_pretrained(
            str(folder),
            trust_remote_code=False,
            local_files_only=True,
            weights_only=True,
            output_loading_info=True,
        )
        lacking = sorted(
            name for name in loading["missing_keys"] if not any(part in name.split(".") for part in UNUSED)
        )
        if lacking:
            raise ModalityError(
                f"The weights of {self.spec!r} are those of another architecture: {len(lacking)} are missing,"
                f" {lacking[0]} among them."
            )
        pictures = isinstance(self._takes, Pixels)
        named = any(name.endswith("cls_token") for name, _ in model.named_parameters())
        if self._pooling == "cls" and pictures and not named:
            raise ModalityError(f"encoder.pooling cls: {self.spec!r} has no class token: take mean.")
        if self._pooling == "auto":
            self._pooling = "cls" if pictures and named else "mean"
        self._pad = getattr(model.config, "pad_token_id", None) or 0
        return model

    def _images(self, pixels: torch.Tensor) -> torch.Tensor:
        return self._pooled(self._model(pixel_values=pixels).last_hidden_state, None)

    def _texts(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return self._pooled(self._model(input_ids=ids, attention_mask=mask).last_hidden_state, mask)

    def _pooled(self, states: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """One embedding a row from the states (rows, tokens, dim), or (rows, dim, height, width)."""
        if states.ndim == 4:
            states = states.flatten(2).transpose(1, 2)
        if self._pooling == "cls":
            return states[:, 0]
        if mask is None:
            return states.float().mean(dim=1)
        weights = mask[:, :, None].float()
        return (states.float() * weights).sum(dim=1) / weights.sum(dim=1)


def _described(spec: str, folder: Path, kind: str) -> tuple[int, int]:
    """Length of the embeddings, and how many tokens the model reads, from its description."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)
    except Exception as error:  # what a folder may hold is anything
        said = " ".join(str(error).split())
        raise ModalityError(f"encoder.model {spec!r} cannot be used: {said}") from error
    if hasattr(config, "text_config") or hasattr(config, "vision_config"):
        raise ModalityError(f"encoder.model {spec!r} has several towers: take open_clip for such a model.")
    if getattr(config, "is_encoder_decoder", False):
        raise ModalityError(f"encoder.model {spec!r} has a decoder: take a model that is an encoder alone.")
    sizes = getattr(config, "hidden_sizes", None)
    dim = getattr(config, "hidden_size", None) or (sizes[-1] if sizes else None)
    if not isinstance(dim, int):
        raise ModalityError(f"encoder.model {spec!r} does not say how long its embeddings are.")
    if kind == "raster":
        return dim, 0
    if not hasattr(config, "vocab_size"):
        raise ModalityError(f"encoder.model {spec!r} has no vocabulary: it is no model for texts.")
    longest, tokenizer = positions(config.to_dict()), folder / "tokenizer_config.json"
    most = read_json(tokenizer).get("model_max_length", longest) if tokenizer.is_file() else longest
    return dim, int(min(longest, most, LENGTHS[-1]))


def _pixels(folder: Path, spec: str) -> Pixels:
    """The preprocessing that a folder describes."""
    path = folder / "preprocessor_config.json"
    if not path.is_file():
        raise ModalityError(f"encoder.model {spec!r} has no {path.name}: it is no model for images.")
    config = read_json(path)
    try:
        target, share, fit = _cut(config)
        mean, std = _values(config)
    except (TypeError, ValueError, KeyError, ZeroDivisionError) as error:
        raise ModalityError(
            f"encoder.model {spec!r}: its preprocessor_config.json does not say what size, mean and standard"
            f" deviation its pictures have ({error!r})."
        ) from error
    resample = FILTERS.get(config.get("resample", 3), "bicubic")
    return Pixels(target, mean, std, resample, share, fit, bool(config.get("do_flip_channel_order")))


def _cut(config: Mapping[str, Any]) -> tuple[tuple[int, int], float, str]:
    """Size, share of the side and fit, as `Pixels` has them, of an image processor of transformers."""
    size = config.get("size")
    size = size if isinstance(size, dict) else {"shortest_edge": size}
    shortest = size.get("shortest_edge")
    resized = _sides(shortest if shortest else size)
    cropped = config.get("crop_size") if config.get("do_center_crop") else None
    target = _sides(cropped) if cropped else resized
    kind = _kind(config)
    fit = "shortest" if shortest else "squash"
    if kind.startswith("ConvNext") and resized[0] >= 384:
        return target, 1.0, "squash"  # from this size on its authors stretch, and cut nothing
    if config.get("crop_pct"):
        share = float(config["crop_pct"])
    else:
        share = target[0] / resized[0] * (224 / 256 if kind.startswith("Levit") and shortest else 1)
    return target, min(share, 1.0), fit


def _sides(value: Any) -> tuple[int, int]:
    if isinstance(value, dict):
        value = (value.get("height"), value.get("width"))
    height, width = value if isinstance(value, list | tuple) else (value, value)
    return int(height), int(width)


def _values(config: Mapping[str, Any]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of pixels in 0..1, which a processor may have of pixels in another range."""
    kind = _kind(config)
    mean: tuple[float, ...] = (0.0,) * 3
    std: tuple[float, ...] = (1.0,) * 3
    if config.get("do_normalize", not kind.startswith("MobileViT")):
        mean, std = _a_band(config["image_mean"]), _a_band(config["image_std"])
    if kind.startswith("EfficientNet") and config.get("include_top", True):
        std = tuple(value * value for value in std)  # it divides by it twice
    factor = float(config.get("rescale_factor") or 1 / 255) if config.get("do_rescale", True) else 1.0
    scale = factor * 255  # exactly 1 for 1/255
    return tuple(value / scale for value in mean), tuple(value / scale for value in std)


def _kind(config: Mapping[str, Any]) -> str:
    """The class of an image processor."""
    return str(config.get("image_processor_type") or config.get("feature_extractor_type"))


def _a_band(values: Any) -> tuple[float, ...]:
    """One value a band; where there is but one, it is that of red, green and blue."""
    values = values if isinstance(values, list) else [values]
    return tuple(map(float, values * (3 if len(values) == 1 else 1)))
