"""How a text becomes the input of a language model: the tokens of its windows, in batches of few shapes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from modalities.base import ModalityError

LENGTHS = (
    8, 16, 24, 32, 40, 48, 64, 80, 96, 128, 160, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096,
    6144, 8192,
)  # fmt: skip
"""Padded lengths in tokens; a model meets no other shapes, and wastes little on padding."""

MAX_CHARACTERS = 100_000
"""Of a text, what follows is left out: a tokenizer would take minutes over a document of gigabytes."""

END = -1
"""Ends each window of a prepared text; no token has this number."""

LONG_TEXT = ("truncate", "windows")

AFTER_PADDING = {
    *("camembert", "data2vec-text", "esm", "ibert", "layoutlmv3", "lilt", "longformer", "luke", "markuplm"),
    *("mpnet", "roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod"),
}
"""Models of transformers that count positions from the one after padding's, as RoBERTa does."""

Windower = Callable[[str], Sequence[Sequence[int]]]
"""A text as windows of tokens, each with the special ones and none longer than the model reads."""


class Tokens:
    """The input of a language model.

    A prepared text is an int32 array: its windows one after another, each ended by `END`.

    Args:
        opened: Opens the tokenizer, in each process; picklable.
        longest: Tokens that the model reads at once.
        long_text: ``truncate``: the first window stands for the text; ``windows``: the mean of all of them,
            weighted by their tokens.
        pad: The token that fills up a window.
        fixed: Every window is filled up to ``longest``, rather than to the next of `LENGTHS`.
    """

    dtype: ClassVar[np.dtype[Any]] = np.dtype(np.int32)
    shape: ClassVar[tuple[int, ...]] = (-1,)

    def __init__(
        self, opened: Callable[[], Windower], longest: int, long_text: str | None, *, fixed: bool = False
    ) -> None:
        if long_text not in (None, *LONG_TEXT):
            raise ModalityError(f"encoder.long_text {long_text!r} is unknown; there are {LONG_TEXT}.")
        self._opened = opened
        self._windower: Windower | None = None
        self._lengths = (longest,) if fixed else (*(n for n in LENGTHS if n < longest), longest)
        self.averages = long_text == "windows"

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_windower": None}

    @property
    def more(self) -> str:
        """How more of a text would be read that `is_truncated`, for a person."""
        if self.averages:
            return f"of a text {MAX_CHARACTERS:,} characters are read: split what is longer before"
        return f"encoder.long_text=windows reads {MAX_CHARACTERS:,} characters"

    def open(self) -> Windower:
        """The tokenizer, opened if it is not yet.

        Raises:
            ModalityError: It is not there.
        """
        if self._windower is None:
            self._windower = self._opened()
        return self._windower

    def prepare(self, text: str) -> NDArray[np.int32]:
        """The windows of a text; where only the first counts, the second is kept as a sign of more."""
        windows = self.open()(text[:MAX_CHARACTERS])
        windows = windows if self.averages else windows[:2]
        return np.array([token for window in windows for token in (*window, END)], dtype=np.int32)

    def is_truncated(self, text: str, prepared: NDArray[np.int32]) -> bool:
        """Whether the model reads a part of a text alone."""
        unread = len(text) > MAX_CHARACTERS and not text[MAX_CHARACTERS:].isspace()
        return unread or (not self.averages and len(_windows(prepared)) > 1)

    def order(self, prepared: Sequence[Any]) -> NDArray[np.int64]:
        """The rows from the longest to the shortest, so that a batch holds rows of like length."""
        sizes = np.array([sum(map(len, self._read(row))) for row in prepared], dtype=np.int64)
        return np.argsort(-sizes, kind="stable")

    def stage(
        self, batch: Sequence[Any], like: Sequence[Any], rows: int, pad: int = 0
    ) -> list[tuple[NDArray[Any], ...]]:
        """For the first windows of all texts of a batch, for the second ones, ...: what the model takes.

        A text has the same row in each, so that its windows meet the same arithmetic whatever stands
        beside it.

        Returns:
            Tokens (rows, length) int64, 1 where there is one (rows, length) int64, and the tokens of each
            window (rows,) float32.
        """
        texts = [self._read(row) for row in batch]
        longest = max(len(window) for row in like for window in self._read(row))
        length = next(n for n in self._lengths if longest <= n)
        calls: list[tuple[NDArray[Any], ...]] = []
        for turn in range(max(map(len, texts))):
            ids = np.full((rows, length), pad, dtype=np.int64)
            mask = np.zeros((rows, length), dtype=np.int64)
            weights = np.zeros(rows, dtype=np.float32)
            mask[:, 0] = 1  # attention over nothing at all is NaN
            for row, windows in enumerate(texts):
                if turn < len(windows):
                    window = windows[turn]
                    ids[row, : len(window)] = window
                    mask[row, : len(window)] = 1
                    weights[row] = len(window)
            calls.append((ids, mask, weights))
        return calls

    def combine(self, embeddings: Sequence[Any], weights: Sequence[Any]) -> Any:
        """The embeddings of texts from those of their windows, torch tensors (rows, dim) and (rows,)."""
        if not self.averages:
            return embeddings[0]
        total = sum(weights[1:], start=weights[0]).clamp(min=1)
        parts = [e.float() * w[:, None] for e, w in zip(embeddings, weights, strict=True)]
        return sum(parts[1:], start=parts[0]) / total[:, None]

    def _read(self, prepared: NDArray[np.int32]) -> list[NDArray[np.int32]]:
        windows = _windows(prepared)
        return windows if self.averages else windows[:1]


def positions(config: Mapping[str, Any]) -> int:
    """Tokens that a model of transformers has positions for, by its ``config.json``."""
    found = config.get("max_position_embeddings")
    if not isinstance(found, int) or found < 1:
        return LENGTHS[-1]
    padded = config.get("model_type") in AFTER_PADDING and config.get("position_embedding_type") != "rotary"
    padding = config.get("pad_token_id")
    return found - (1 if padding is None else padding) - 1 if padded else found


def _windows(prepared: NDArray[np.int32]) -> list[NDArray[np.int32]]:
    ends = np.flatnonzero(prepared == END)
    return [prepared[start:end] for start, end in zip((0, *(ends[:-1] + 1)), ends, strict=True)]


def hugging_face(
    folder: Callable[[], Any], longest: int, *, lower: bool = False, prompt: str = ""
) -> Windower:
    """The tokenizer in a folder, as the library transformers opens it; no code from the folder is run.

    Args:
        folder: Says where it is.
        longest: Tokens of a window.
        lower: The model reads lower case.
        prompt: Stands before every text.

    Raises:
        ModalityError: It cannot be opened, or knows no windows.
    """
    import os

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from transformers import AutoTokenizer

    where = folder()
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(where), trust_remote_code=False, local_files_only=True)
    except Exception as error:  # a damaged or hostile folder surfaces as almost any exception
        said = " ".join(str(error).split())
        raise ModalityError(f"The tokenizer in {where} cannot be loaded ({said}).") from error
    if not tokenizer.is_fast:
        raise ModalityError(f"The tokenizer in {where} has no tokenizer.json, so it cannot be used.")

    def windows(text: str) -> list[list[int]]:
        text = prompt + text
        found: list[list[int]] = tokenizer(
            text.lower() if lower else text,
            truncation=True,
            max_length=longest,
            return_overflowing_tokens=True,
            return_attention_mask=False,
        )["input_ids"]
        return found

    return windows
