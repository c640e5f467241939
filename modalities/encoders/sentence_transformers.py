"""Text encoders of the sentence-transformers kind: a transformer, a pooling, often a normalisation."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from modalities.base import ModalityError
from modalities.encoders.hub import LOCAL, model_folder, read_json
from modalities.encoders.tokens import LENGTHS, Tokens, hugging_face, positions
from modalities.encoders.torch_encoder import TorchEncoder

if TYPE_CHECKING:
    import torch


class SentenceTransformers(TorchEncoder):
    """A sentence-transformers model by name, or from a folder; its default prompt stands before every text.

    The rows of a part are sorted by their number of tokens before they are cut into batches, so a batch holds
    rows of like length. A batch always has `batch_size` rows and a length of `tokens.LENGTHS`.

    Args:
        argument: name on the model hub, folder, or ``all-MiniLM-L6-v2``, which needs no network.
        kind: ``text``.
        batch_size: rows of a batch.
        dtype: arithmetic of the model, see `modalities.encoders.device.place`.
        device: see there.
        long_text: see `modalities.encoders.tokens.Tokens`.

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
        long_text: str | None = None,
    ) -> None:
        spec = f"sentence-transformers:{argument}"
        if not argument:
            raise ModalityError(
                "encoder.model 'sentence-transformers' lacks its model: write sentence-transformers:NAME,"
                " such as sentence-transformers:all-MiniLM-L6-v2."
            )
        self._name = argument
        described = _folder(argument, weights=False)
        self._prompt = _default_prompt(described)
        self._unread = 0  # tokens of the prompt, where the model leaves them out of its embeddings
        self.dim = _dimension(described, argument)
        inner, longest, lower = _transformer(described)
        where = partial(_folder, argument, weights=False, inner=inner)
        opened = partial(hugging_face, where, longest, lower=lower, prompt=self._prompt)
        takes = Tokens(opened, longest, long_text)
        super().__init__(spec, takes, batch_size=batch_size, dtype=dtype, device=device)

    def _build(self) -> Any:
        """Load the weights (safetensors only), and no code from the model's folder."""
        folder = _folder(self._name, weights=True)
        # 13 s to import, of which transformers 6 s, torch 3 s, scikit-learn 3 s: only where the model runs.
        from sentence_transformers import SentenceTransformer
        from transformers.utils import logging

        logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        model = SentenceTransformer(
            str(folder),
            device="cpu",
            trust_remote_code=False,
            local_files_only=True,
            model_kwargs={"use_safetensors": True},
        )
        _check_weights(folder, model, self.spec)
        self._pad = model.tokenizer.pad_token_id or 0
        if self._prompt and not all(getattr(module, "include_prompt", True) for module in model):
            if isinstance(self._takes, Tokens) and self._takes.averages:
                raise ModalityError(
                    f"encoder.long_text windows: {self.spec!r} leaves its prompt out of its embeddings,"
                    " and the first window alone has it; take truncate."
                )
            self._unread = model.preprocess(["x"], prompt=self._prompt)["prompt_length"]
        return model

    def _texts(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        features: dict[str, Any] = {"input_ids": ids, "attention_mask": mask}
        if self._unread:
            features["prompt_length"] = self._unread
        output: torch.Tensor = self._model(features)["sentence_embedding"]
        return output


def _folder(name: str, *, weights: bool, inner: str = "") -> Path:
    """Where a model is, or a module of it."""
    short = "/" not in name and not name.startswith(LOCAL)
    return model_folder(name, weights=weights, hub=f"sentence-transformers/{name}" if short else None) / inner


def _transformer(folder: Path) -> tuple[str, int, bool]:
    """Folder of the module that reads tokens, how many it reads, and whether in lower case alone."""
    modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
    inner = folder / str(modules[0]["path"])
    if not inner.resolve().is_relative_to(folder.resolve()):
        raise ModalityError(f"encoder.model: {folder}/modules.json leaves its folder.")
    names = ("sentence_bert_config.json", "tokenizer_config.json", "config.json")
    own, tokenizer, config = (
        read_json(inner / name) if (inner / name).is_file() else dict[str, Any]() for name in names
    )
    longest = own.get("max_seq_length")
    if not isinstance(longest, int):
        limits = (tokenizer.get("model_max_length"), positions(config), LENGTHS[-1])
        longest = min(limit for limit in limits if isinstance(limit, int))
    return str(modules[0]["path"]), longest, bool(own.get("do_lower_case"))


def _default_prompt(folder: Path) -> str:
    """What a model has before a text that is neither said to be a query nor anything else."""
    path = folder / "config_sentence_transformers.json"
    config = read_json(path) if path.is_file() else {}
    prompts = config.get("prompts") or {}
    prompt = prompts.get(config.get("default_prompt_name")) if isinstance(prompts, dict) else None
    return prompt if isinstance(prompt, str) else ""


def _check_weights(folder: Path, model: Any, spec: str) -> None:
    """Refuse weights that leave some of the transformer as chance has drawn it.

    Raises:
        ModalityError: the checkpoint is one of another architecture.
    """
    from safetensors import safe_open

    transformer = getattr(model[0], "auto_model", None)
    there: set[str] = set()
    for path in folder.rglob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            there |= set(file.keys())
    if transformer is None:
        return
    lacking = [
        name
        for name, _ in transformer.named_parameters()
        if "pooler" not in name and not any(key == name or key.endswith(f".{name}") for key in there)
    ]
    if lacking:
        raise ModalityError(
            f"The weights of {spec!r} are those of another architecture: {len(lacking)} are missing,"
            f" {lacking[0]} among them."
        )


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
