"""What every encoder is: prepared samples in, embeddings out, in batches of a fixed shape."""

from __future__ import annotations

import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

KMeansFn = Callable[[NDArray[np.float32], int, int], NDArray[np.float32]]
"""(points (n, d), n_clusters, seed) -> centroids (k, d)."""


OUT_OF_MEMORY = ("allocate memory", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
"""What a RuntimeError says where memory ran out."""


class OutOfMemory(RuntimeError):
    """Memory ran out over every sample of a batch: a smaller batch may fit."""


def ran_out(error: Any) -> bool:
    """Whether what came of a batch is an error that tells of memory.

    On a GPU torch has a class for it, on a CPU a RuntimeError of its allocator; CUDA's libraries have words.
    """
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in OUT_OF_MEMORY)


class Encoder(ABC):
    """Turns samples into embeddings. Picklable before `load`, which runs once in each process.

    Attributes:
        accepts: the kinds of `Modality` that it can encode.
        spec: the name it was asked for by.
        dim: length of an embedding.
        batch_size: rows of every model batch, shorter ones are filled up; set anew while the best is sought.
        input_shape: shape of a prepared sample that is an array, -1 for a length that varies; None for a str.
        input_dtype: dtype of a prepared sample that is an array, None for a str.
        truncates: it may read a part of a sample alone, and `is_truncated` says of which.
        more: how more of such samples would be read, for a person; empty where nothing can be done.
    """

    accepts: ClassVar[tuple[str, ...]]
    spec: str
    dim: int
    batch_size: int
    input_shape: tuple[int, ...] | None = None
    input_dtype: np.dtype[Any] | None = None
    truncates: bool = False
    more: str = ""

    def open(self) -> None:  # noqa: B027 - most encoders need nothing
        """Open what `prepare` needs, such as a tokenizer; called once before it in each process.

        Raises:
            ModalityError: it is not there.
        """

    @abstractmethod
    def prepare(self, sample: Any) -> NDArray[Any] | str:
        """Bring a decoded sample into the encoder's input format; needs no weights.

        Returns:
            An array of `input_shape` and `input_dtype`, or a str.

        Raises:
            Rejected: the encoder cannot take this sample (a wrong number of bands, say).
        """

    @abstractmethod
    def load(self) -> None:
        """Load the weights onto the device.

        Raises:
            ModalityError: the weights are not there.
        """

    @abstractmethod
    def encode(
        self, batch: Sequence[NDArray[Any] | str], like: Sequence[NDArray[Any] | str] | None = None
    ) -> NDArray[np.float32]:
        """Encode up to `batch_size` prepared rows as one model batch of a fixed shape.

        Args:
            batch: prepared rows.
            like: take the shape of the model's input from these rows instead, so that a row retried alone
                meets the arithmetic it would have met in its batch.

        Returns:
            (len(batch), dim).
        """

    def is_truncated(self, sample: Any, prepared: NDArray[Any] | str) -> bool:
        """Return whether a part of a decoded sample alone is encoded."""
        return False

    def outcomes(
        self,
        batches: Iterable[tuple[Sequence[NDArray[Any] | str], Sequence[NDArray[Any] | str] | None]],
    ) -> Iterator[NDArray[np.float32] | Exception]:
        """Encode batches one after another, as `encode` does; what it raises stands in place of a result."""
        for batch, like in batches:
            try:
                yield self.encode(batch, like)
            except Exception as error:  # whatever a model raises goes to who asked for its result
                traceback.clear_frames(error.__traceback__)  # what was computed, or its memory is not free
                yield error

    def order(self, prepared: Sequence[NDArray[Any] | str]) -> NDArray[np.int64]:
        """Return the order in which rows are cut into batches, a permutation of ``range(n)``."""
        return np.arange(len(prepared), dtype=np.int64)

    def encode_all(
        self, prepared: Sequence[NDArray[Any] | str]
    ) -> tuple[NDArray[np.float32], list[str | None]]:
        """Encode all rows of one part.

        Batches depend only on the rows of the part and on `batch_size`, so an embedding does not depend on
        which process made it (docs/method.md, "The same answer everywhere"). When a batch fails, its rows
        are tried one by one in the shape of that batch.

        Returns:
            Embeddings (n, dim), NaN for rows that failed, and for each row the reason or None.

        Raises:
            OutOfMemory: memory ran out over every row of a batch, and the next could be smaller.
            RuntimeError: every row of a full batch failed, so it is the encoder that is broken.
        """
        embeddings = np.full((len(prepared), self.dim), np.nan, dtype=np.float32)
        reasons: list[str | None] = [None] * len(prepared)
        batches = self.batches(prepared)
        found = self.outcomes(([prepared[i] for i in rows], None) for rows in batches)
        for rows, outcome in zip(batches, found, strict=True):
            embeddings[rows], told = self._judged([prepared[i] for i in rows], range(len(rows)), outcome)
            for row, reason in zip(rows, told, strict=True):
                reasons[row] = reason
        return embeddings, reasons

    def batches(self, prepared: Sequence[NDArray[Any] | str]) -> list[NDArray[np.int64]]:
        """Return the rows of each batch of a part."""
        order = self.order(prepared)
        return [order[i : i + self.batch_size] for i in range(0, len(prepared), self.batch_size)]

    def encode_batch(
        self, batch: Sequence[NDArray[Any] | str], places: Sequence[int]
    ) -> tuple[NDArray[np.float32], list[str | None]]:
        """Encode rows of a batch, some or all, in the shape of that batch and each in its place.

        Args:
            batch: its prepared rows, all of them.
            places: which of them to encode; another of these stands in the place of any other.

        Returns:
            Embeddings (len(places), dim), NaN for rows that failed, and for each row the reason or None.

        Raises:
            OutOfMemory: memory ran out over every row of the batch, and it could be smaller.
            RuntimeError: every row of a full batch failed, so it is the encoder that is broken.
        """
        if len(places) == len(batch):
            (outcome,) = self.outcomes([(batch, None)])
        else:
            stand_in = [batch[places[0]]] * len(batch)
            for place in places:
                stand_in[place] = batch[place]
            (outcome,) = self.outcomes([(stand_in, batch)])
        return self._judged(batch, places, outcome)

    def _judged(
        self,
        batch: Sequence[NDArray[Any] | str],
        places: Sequence[int],
        outcome: NDArray[np.float32] | Exception,
    ) -> tuple[NDArray[np.float32], list[str | None]]:
        """As `encode_batch`, of what came of the batch as a whole."""
        reasons: list[str | None] = [None] * len(places)
        if isinstance(outcome, Exception) or np.shape(outcome) != (len(batch), self.dim):
            # a row may be at fault: all are tried again, each with its reason
            embeddings, reasons = self._encode_singly(batch, places)
        else:
            embeddings = np.array(outcome, np.float32)[list(places)]
        for row in np.flatnonzero(~np.isfinite(embeddings).all(axis=1)):
            embeddings[row] = np.nan
            reasons[row] = (
                reasons[row] or f"The encoder {self.spec} returned an embedding with NaN or infinity."
            )
        return embeddings, reasons

    def _encode_singly(
        self, batch: Sequence[NDArray[Any] | str], places: Sequence[int]
    ) -> tuple[NDArray[np.float32], list[str | None]]:
        embeddings = np.full((len(places), self.dim), np.nan, dtype=np.float32)
        reasons: list[str | None] = [None] * len(places)
        failures: list[Exception] = []
        for row, place in enumerate(places):
            (outcome,) = self.outcomes([([batch[place]], batch)])
            if not isinstance(outcome, Exception):
                if np.shape(outcome) == (1, self.dim):
                    embeddings[row] = outcome[0]
                    continue
                outcome = ValueError(f"it returned the shape {np.shape(outcome)} instead of {(1, self.dim)}")
            failures.append(outcome)
            reasons[row] = f"The encoder {self.spec} failed on it ({type(outcome).__name__}: {outcome})."
        if len(failures) == len(batch) and self.batch_size > 1:
            self._give_up(failures)
        return embeddings, reasons

    def _give_up(self, failures: Sequence[Exception]) -> None:
        """Raise where it is not the samples of a batch that are at fault, on all of which it failed."""
        last = failures[-1]
        told = f"{type(last).__name__}: {last}"
        if all(map(ran_out, failures)):
            raise OutOfMemory(
                f"The encoder {self.spec} has no memory for batches of {self.batch_size} samples ({told});"
                " lower encoder.batch_size."
            ) from last
        if len(failures) == self.batch_size:
            raise RuntimeError(
                f"The encoder {self.spec} failed on each of the {len(failures)} samples of a batch; the last"
                f" time with {told}."
            ) from last


class FittedEncoder(Encoder):
    """An encoder that first learns from a sample of the pool."""

    @abstractmethod
    def fit(self, samples: Sequence[Any], kmeans: KMeansFn, seed: int) -> dict[str, NDArray[Any]]:
        """Learn from decoded samples and return the state, plain arrays that `numpy.savez` can hold.

        The encoder is ready afterwards, as after `set_state`.

        Raises:
            ModalityError: there is too little to learn from.
        """

    @abstractmethod
    def set_state(self, state: dict[str, NDArray[Any]]) -> None:
        """Take the state that `fit` returned, here or on another machine.

        Raises:
            ModalityError: the state is not one of this encoder.
        """
