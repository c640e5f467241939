"""What encoders with a torch model share: loading, batches of one shape, and a device that does not wait."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from modalities.base import Encoder, ModalityError
from modalities.encoders.device import Stream, check_dtype, place

if TYPE_CHECKING:
    import torch

BATCH_SIZE = 32


class TorchEncoder(Encoder):
    """An encoder whose model is a torch module.

    Args:
        spec: the name it was asked for by.
        batch_size: rows of a batch.
        dtype: arithmetic of the model, see `modalities.encoders.device.place`.
        device: see there.
    """

    measurable = True

    def __init__(self, spec: str, batch_size: int | None, dtype: str | None, device: str | None) -> None:
        self.spec = spec
        self.batch_size = batch_size or BATCH_SIZE
        self.dtype = check_dtype(dtype)
        self.device = device
        self._model: Any = None
        self._stream: Stream | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_model": None, "_stream": None}

    @abstractmethod
    def _build(self) -> Any:
        """The module with its weights, on the CPU; may raise anything."""

    @abstractmethod
    def _stage(self, batch: Sequence[Any], like: Sequence[Any]) -> list[tuple[NDArray[Any], ...]]:
        """The inputs of the model for a batch, filled up to its fixed shape: one tuple of arrays a call."""

    @abstractmethod
    def _forward(self, inputs: list[tuple[torch.Tensor, ...]]) -> torch.Tensor:
        """Embeddings (batch_size, dim) of what `_stage` made, now on the device."""

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
        calls = (
            (lambda batch=batch, like=like: self._stage(batch, batch if like is None else like), len(batch))
            for batch, like in batches
        )
        return self._stream.run(calls, self._forward)


def why(error: Exception) -> str:
    """An error of a library in one line."""
    if type(error).__name__ == "UnpicklingError":  # torch's own words end in how to run it all the same
        return "the file is damaged, or holds more than weights, such as a program, and those are not run"
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
