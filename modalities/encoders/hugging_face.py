"""Models of the library transformers with one tower, for images or texts, by the pooling of their tokens."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from modalities.base import ModalityError
from modalities.encoders.hub import model_folder, read_json
from modalities.encoders.pixels import Pixels
from modalities.encoders.tokens import LENGTHS, Tokens, hugging_face
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
    positions = getattr(config, "max_position_embeddings", None) or LENGTHS[-1]
    offset = 2 if config.model_type in ("roberta", "xlm-roberta", "camembert", "mpnet") else 0
    tokenizer = folder / "tokenizer_config.json"
    most = read_json(tokenizer).get("model_max_length", positions) if tokenizer.is_file() else positions
    return dim, int(min(positions - offset, most, LENGTHS[-1]))


def _pixels(folder: Path, spec: str) -> Pixels:
    """The preprocessing that a folder describes."""
    path = folder / "preprocessor_config.json"
    if not path.is_file():
        raise ModalityError(f"encoder.model {spec!r} has no {path.name}: it is no model for images.")
    config = read_json(path)

    def sides(value: Any) -> tuple[int, int]:
        if isinstance(value, dict):
            value = (value.get("height"), value.get("width"))
        height, width = value if isinstance(value, list | tuple) else (value, value)
        return int(height), int(width)

    size = config.get("size")
    size = size if isinstance(size, dict) else {"shortest_edge": size}
    shortest = size.get("shortest_edge")
    try:
        resized = sides(shortest if shortest else size)
        cropped = config.get("crop_size") if config.get("do_center_crop") else None
        target = sides(cropped) if cropped else resized
        share = float(config.get("crop_pct") or 1.0) if not cropped else target[0] / resized[0]
        normalised = config.get("do_normalize", True)
        mean = tuple(map(float, config["image_mean"])) if normalised else (0.0,) * 3
        std = tuple(map(float, config["image_std"])) if normalised else (1.0,) * 3
    except (TypeError, ValueError, KeyError) as error:
        raise ModalityError(
            f"encoder.model {spec!r}: its preprocessor_config.json does not say what size, mean and standard"
            f" deviation its pictures have ({error!r})."
        ) from error
    fit = "shortest" if shortest else "squash"
    return Pixels(target, mean, std, FILTERS.get(config.get("resample", 3), "bicubic"), min(share, 1.0), fit)
