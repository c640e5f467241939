"""The two towers of CLIP models, through open_clip: images and texts into one space."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from modalities.base import ModalityError
from modalities.encoders.hub import read_json
from modalities.encoders.pixels import Pixels
from modalities.encoders.tokens import Tokens, Windower
from modalities.encoders.torch_encoder import TorchEncoder, why

if TYPE_CHECKING:
    import torch

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
"""Of the pixels that the first CLIP was trained on; a checkpoint that was trained otherwise says so."""

SIZE = 224
"""Of the pictures of a tower that does not say."""

LOCAL, HUB = "local-dir:", "hf-hub:"


class OpenClip(TorchEncoder):
    """A model of open_clip as ``open_clip:ARCH/PRETRAINED``.

    Args:
        argument: ``ARCH/PRETRAINED``: an architecture and a tag of open_clip, or a checkpoint file. With
            nothing after the slash the weights are random, the same ones every time: of use for tests alone.
            Or ``hf-hub:ORG/NAME`` or ``local-dir:FOLDER``, with an ``open_clip_config.json``.
        kind: ``raster`` takes the image tower, ``text`` the text tower.
        batch_size: rows of a batch.
        dtype: arithmetic of the model, see `modalities.encoders.device.place`.
        device: see there.
        long_text: see `modalities.encoders.tokens.Tokens`.

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
        long_text: str | None = None,
    ) -> None:
        spec = f"open_clip:{argument}"
        self._arch, self._pretrained = _parsed(argument, spec)
        config = _model_config(self._arch, spec)
        takes: Pixels | Tokens
        try:
            self.dim = int(config["embed_dim"])
            if kind == "raster":
                takes = _pixels(_preprocess(self._arch, self._pretrained), config["vision_cfg"])
            else:
                takes = _tokens(self._arch, config["text_cfg"], long_text)
        except (KeyError, TypeError, ValueError) as error:
            raise ModalityError(f"encoder.model {spec!r}: its description is damaged ({error!r}).") from error
        super().__init__(spec, takes, batch_size=batch_size, dtype=dtype, device=device)

    def _build(self) -> Any:
        import open_clip
        import torch

        drawn = not self._pretrained and not _is_described_elsewhere(self._arch)
        # Random weights are drawn without disturbing anybody else's random numbers.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return open_clip.create_model(
                self._arch,
                pretrained=self._pretrained or None,
                require_pretrained=not drawn,
                pretrained_text=not drawn,
                weights_only=True,
            )

    def _images(self, pixels: torch.Tensor) -> torch.Tensor:
        embeddings: torch.Tensor = self._model.encode_image(pixels)
        return embeddings

    def _texts(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        embeddings: torch.Tensor = self._model.encode_text(ids)
        return embeddings


def _is_described_elsewhere(arch: str) -> bool:
    """Whether the description of a model comes with its weights, and not with open_clip."""
    return arch.startswith((HUB, LOCAL))


def _parsed(argument: str, spec: str) -> tuple[str, str]:
    """Architecture and weights."""
    if argument.startswith(LOCAL):
        folder = Path(argument.removeprefix(LOCAL)).expanduser()
        if not folder.is_dir():
            raise ModalityError(f"encoder.model {spec!r}: there is no folder {str(folder)!r} here.")
        return f"{LOCAL}{folder}", ""
    if argument.startswith(HUB):
        return argument, ""
    arch, slash, pretrained = argument.partition("/")
    if not arch or not slash:
        raise ModalityError(
            f"encoder.model {spec!r}: write open_clip:ARCH/PRETRAINED, such as"
            " open_clip:ViT-B-32/laion2b_s34b_b79k."
        )
    return arch, str(Path(pretrained).expanduser()) if pretrained else ""


def _description(arch: str) -> dict[str, Any]:
    """What a folder or a repository of the hub says of its model."""
    if arch.startswith(LOCAL):
        return read_json(Path(arch.removeprefix(LOCAL)) / "open_clip_config.json")
    from open_clip.pretrained import download_pretrained_from_hf

    try:
        path = download_pretrained_from_hf(arch.removeprefix(HUB), filename="open_clip_config.json")
    except Exception as error:  # the hub's client raises almost anything
        raise ModalityError(
            f"encoder.model: {arch.removeprefix(HUB)!r} is neither in the cache nor could it be fetched, or"
            f" it is no model of open_clip ({why(error)}). Check the name and the network."
        ) from error
    return read_json(Path(path))


def _model_config(arch: str, spec: str) -> dict[str, Any]:
    if _is_described_elsewhere(arch):
        found = _description(arch).get("model_cfg")
        if not isinstance(found, dict):
            raise ModalityError(f"encoder.model {spec!r}: its open_clip_config.json has no model_cfg.")
        return found
    import open_clip

    config: dict[str, Any] | None = open_clip.get_model_config(arch)
    if config is None:
        from difflib import get_close_matches

        near = get_close_matches(arch, open_clip.list_models(), n=3, cutoff=0.4)
        hint = f": did you mean {' or '.join(near)}?" if near else "."
        raise ModalityError(f"encoder.model: open_clip has no architecture {arch!r}{hint}")
    return config


def _preprocess(arch: str, pretrained: str) -> dict[str, Any]:
    """Return how open_clip says that images were treated in training."""
    if _is_described_elsewhere(arch):
        told: dict[str, Any] = _description(arch).get("preprocess_cfg", {})
        return told
    if not pretrained or Path(pretrained).is_file():
        return {}
    import open_clip

    config: dict[str, Any] = open_clip.get_pretrained_cfg(arch, pretrained)
    if not config:
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(arch)) or "none"
        raise ModalityError(
            f"encoder.model: {pretrained!r} is no file and no weights of {arch}; there are {tags}."
        )
    return config


def _pixels(told: dict[str, Any], vision: dict[str, Any]) -> Pixels:
    # the tower's: what the preprocessing says of a size is not heard by open_clip either
    size = vision.get("image_size", SIZE)
    height, width = (size, size) if isinstance(size, int) else size
    return Pixels(
        (int(height), int(width)),
        tuple(map(float, told.get("mean") or MEAN)),
        tuple(map(float, told.get("std") or STD)),
        told.get("interpolation") or "bicubic",
        fit=told.get("resize_mode") or "shortest",
    )


def _tokens(arch: str, text: dict[str, Any], long_text: str | None) -> Tokens:
    longest = int(text.get("context_length", 77))
    return Tokens(partial(_windower, arch, longest, long_text), longest, long_text, fixed=True)


def _windower(arch: str, longest: int, long_text: str | None) -> Windower:
    """The tokenizer of a model; that of CLIP itself makes windows, the others one that is filled up."""
    import open_clip

    try:
        tokenizer = open_clip.get_tokenizer(arch)
    except Exception as error:  # files that are not there, the hub's client, ...
        raise ModalityError(f"The tokenizer of {arch!r} cannot be loaded ({why(error)}).") from error
    if isinstance(tokenizer, open_clip.SimpleTokenizer):
        begin, end, most = tokenizer.sot_token_id, tokenizer.eot_token_id, longest - 2

        def windows(text: str) -> list[list[int]]:
            ids = tokenizer.encode(text)
            return [[begin, *ids[i : i + most], end] for i in range(0, max(1, len(ids)), most)]

        return windows
    if long_text == "windows":
        raise ModalityError(f"encoder.long_text windows: the tokenizer of {arch!r} knows no windows.")

    def first(text: str) -> list[list[int]]:
        (ids,) = tokenizer([text]).tolist()
        whole = tokenizer.tokenizer(tokenizer.clean_fn(text) if hasattr(tokenizer, "clean_fn") else text)
        return [ids, ids][: 1 + (len(whole["input_ids"]) > longest)]

    return first
