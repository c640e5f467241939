"""What encoders with a torch model share: loading, batches of one shape, and a device that does not wait."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from modalities.base import ModalityError
from modalities.encoders.base import Encoder
from modalities.encoders.device import Staged, Stream, check_dtype, place
from modalities.encoders.pixels import Pixels
from modalities.encoders.tokens import Tokens

if TYPE_CHECKING:
    import torch

BATCH_SIZE = 32


class TorchEncoder(Encoder):
    """An encoder whose model is a torch module.

    Args:
        spec: the name it was asked for by.
        takes: how samples become its input: `Pixels` or `Tokens`.
        batch_size: rows of a batch.
        dtype: arithmetic of the model, see `modalities.encoders.device.place`.
        device: see there.
    """

    def __init__(
        self,
        spec: str,
        takes: Pixels | Tokens,
        *,
        batch_size: int | None = None,
        dtype: str | None = None,
        device: str | None = None,
    ) -> None:
        self.spec = spec
        self.batch_size = batch_size or BATCH_SIZE
        self.dtype = check_dtype(dtype)
        self.device = device
        self.input_shape, self.input_dtype = takes.shape, takes.dtype
        self.truncates = isinstance(takes, Tokens)
        self.more = takes.more if isinstance(takes, Tokens) else ""
        self._takes = takes
        self._pad = 0
        self._model: Any = None
        self._stream: Stream | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_model": None, "_stream": None}

    @abstractmethod
    def _build(self) -> Any:
        """The module with its weights, on the CPU; may raise anything."""

    def _images(self, pixels: torch.Tensor) -> torch.Tensor:
        """Embeddings (rows, dim) of normalised pictures (rows, bands, height, width)."""
        raise NotImplementedError

    def _texts(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Embeddings (rows, dim) of tokens (rows, length), of which those count whose mask is 1."""
        raise NotImplementedError

    def open(self) -> None:
        """Open the tokenizer of a model of texts."""
        if isinstance(self._takes, Tokens):
            self._takes.open()

    def prepare(self, sample: Any) -> NDArray[Any]:
        """Scale and crop a picture as the model was trained, to uint8; or return the tokens of a text."""
        if isinstance(self._takes, Tokens):
            return self._takes.prepare(sample)
        return self._takes.prepare(sample, self.spec)

    def is_truncated(self, sample: Any, prepared: NDArray[Any] | str) -> bool:
        """Whether a text is longer than what the model reads of it."""
        return isinstance(self._takes, Tokens) and self._takes.is_truncated(sample, np.asarray(prepared))

    def order(self, prepared: Sequence[Any]) -> NDArray[np.int64]:
        """Return texts from the longest to the shortest, in tokens; ties, and pictures, keep their order."""
        return self._takes.order(prepared) if isinstance(self._takes, Tokens) else super().order(prepared)

    def load(self) -> None:
        """Build the model and load its weights: safetensors first, a pickle with ``weights_only``."""
        device, dtype = place(self.device, self.dtype)
        try:
            model = self._build()
        except ModalityError:
            raise
        except Exception as error:
            # Missing files, unpickling, the hub's client, and mismatched weights all come through here.
            raise ModalityError(f"The weights of {self.spec!r} cannot be loaded ({why(error)}).") from error
        self._model = model.eval().to(device=device, dtype=dtype)
        self._stream = Stream(device)
        self.device, self.dtype = str(device), str(dtype).removeprefix("torch.")

    def encode(self, batch: Sequence[Any], like: Sequence[Any] | None = None) -> NDArray[np.float32]:
        """Encode up to `batch_size` prepared rows; missing rows are filled up."""
        (found,) = self.outcomes([(batch, like)])
        if isinstance(found, Exception):
            raise found
        return found

    def outcomes(
        self, batches: Iterable[tuple[Sequence[Any], Sequence[Any] | None]]
    ) -> Iterator[NDArray[np.float32] | Exception]:
        """Embeddings of each batch, in order; while the device computes one, the next is on its way to it."""
        assert self._stream is not None, "load() comes first"
        staged = (
            (partial(self._stage, batch, batch if like is None else like), len(batch))
            for batch, like in batches
        )
        return self._stream.run(staged, self._forward)

    def _stage(self, batch: Sequence[Any], like: Sequence[Any]) -> Staged:
        """The arrays of a batch, filled up to its fixed shape."""
        if isinstance(self._takes, Tokens):
            return self._takes.stage(batch, like, self.batch_size, self._pad)
        return [(self._takes.stack(batch, self.batch_size),)]

    def _forward(self, inputs: list[tuple[torch.Tensor, ...]]) -> torch.Tensor:
        """Embeddings (batch_size, dim) of what `_stage` made, now on the device."""
        if isinstance(self._takes, Tokens):
            embeddings = [self._texts(ids, mask) for ids, mask, _ in inputs]
            combined: torch.Tensor = self._takes.combine(embeddings, [weights for _, _, weights in inputs])
            return combined
        ((stacked,),) = inputs
        return self._images(self._takes.normalised(stacked, next(self._model.parameters()).dtype))


def why(error: Exception) -> str:
    """An error of a library in one line."""
    if type(error).__name__ == "UnpicklingError":  # torch's own words end in how to run it all the same
        return "the file is damaged, or holds more than weights, such as a program, and those are not run"
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
