"""Where does a model run, and in which arithmetic? How do its inputs get there? For every torch encoder."""

from __future__ import annotations

import functools
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from modalities.base import ModalityError

if TYPE_CHECKING:
    import torch

DTYPES = ("float32", "bfloat16", "float16")

GAIN = 2.0
"""How many times as fast as in float32 a CPU has to multiply in bfloat16: the rest of a model is slower so.

A Zen 5 does three times, and a ViT-B-32 gains as much. A Xeon with AVX512_BF16 and no AMX does 1.1 times, and
loses a third.
"""


def check_dtype(dtype: str | None) -> str | None:
    """Return a dtype's name, None for ``auto``.

    Raises:
        ModalityError: it is none of `DTYPES`.
    """
    if dtype in (None, "auto"):
        return None
    if dtype not in DTYPES:
        raise ModalityError(f"encoder.dtype {dtype!r} is unknown; there are auto, {', '.join(DTYPES)}.")
    return dtype


def place(device: str | None, dtype: str | None) -> tuple[torch.device, torch.dtype]:
    """Decide device and dtype on the machine that runs the model.

    Left open, the device is a GPU where there is one, and the dtype is bfloat16 where the hardware multiplies
    it (cosine above 0.998) and, on a CPU, at `GAIN` times the speed of float32; else float32.

    Raises:
        ModalityError: the device is not there.
    """
    import torch

    try:
        where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError as error:
        raise ModalityError(f"The device {device!r} is unknown: {str(error).splitlines()[0]}.") from error
    if where.type == "cuda" and not torch.cuda.is_available():
        raise ModalityError(f"The device {device!r} is not there: torch sees no GPU on this machine.")
    if dtype is None:
        dtype = "bfloat16" if _multiplies_bfloat16(where) else "float32"
    return where, getattr(torch, dtype)


def _multiplies_bfloat16(device: torch.device) -> bool:
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu":
        return False
    able = torch.cpu.get_capabilities()
    return bool(able.get("avx512_bf16") or able.get("amx_bf16")) and _bfloat16_gain() >= GAIN


@functools.cache
def _bfloat16_gain() -> float:
    """Time of a product of matrices in float32 over that in bfloat16, the best of a few of each."""
    import torch

    best = []
    for dtype in (torch.float32, torch.bfloat16):
        rows, weights = torch.ones(512, 768, dtype=dtype), torch.ones(768, 768, dtype=dtype)
        seconds = []
        for _ in range(6):
            began = time.perf_counter()
            torch.nn.functional.linear(rows, weights)
            seconds.append(time.perf_counter() - began)
        best.append(min(seconds))
    return best[0] / best[1]


Staged = list[tuple[NDArray[Any], ...]]
"""The arrays of one batch, a tuple for each call of the model."""


class Stream:
    """Feeds a model: on a GPU, the next batch is copied and begun while this one is computed.

    Copies go from pinned memory on a stream of their own. On a CPU everything happens in turn; the
    results are the same.

    Args:
        device: where the model is.
    """

    def __init__(self, device: torch.device) -> None:
        import torch

        self._device = device
        self._copies = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    def run(
        self,
        batches: Iterable[tuple[Callable[[], Staged], int]],
        forward: Callable[[list[tuple[torch.Tensor, ...]]], torch.Tensor],
    ) -> Iterator[NDArray[np.float32] | Exception]:
        """What ``forward`` makes of each batch (rows, dim), or what was raised over it.

        Args:
            batches: for each, what stages it, and how many of its rows are wanted.
            forward: the model.
        """
        waiting: tuple[Any, int] | None = None
        for stage, rows in batches:
            begun = self._begin(stage, forward)
            if waiting is not None:
                yield self._result(*waiting)
            waiting = (begun, rows)
        if waiting is not None:
            yield self._result(*waiting)

    def _begin(self, stage: Callable[[], Staged], forward: Callable[..., torch.Tensor]) -> Any:
        import torch

        try:
            with torch.inference_mode():
                return self._fetch(forward(self._send(stage())))
        except Exception as error:  # whatever a model raises goes to who asked for its result
            traceback.clear_frames(error.__traceback__)  # what was computed, or its memory is not free
            return error

    def _send(self, staged: Staged) -> list[tuple[torch.Tensor, ...]]:
        import torch

        with torch.cuda.stream(self._copies) if self._copies is not None else nullcontext():
            sent = [tuple(map(self._sent, map(torch.from_numpy, arrays))) for arrays in staged]
        if self._copies is not None:
            computes = torch.cuda.current_stream(self._device)
            computes.wait_stream(self._copies)
            for tensor in (tensor for tensors in sent for tensor in tensors):
                tensor.record_stream(computes)  # or its memory would be given to a later copy too early
        return sent

    def _sent(self, tensor: torch.Tensor) -> torch.Tensor:
        if self._copies is None:
            return tensor.to(self._device)
        return tensor.pin_memory().to(self._device, non_blocking=True)

    def _fetch(self, output: torch.Tensor) -> tuple[torch.Tensor, torch.cuda.Event | None]:
        import torch

        output = output.float()
        if self._copies is None:
            return output.cpu(), None
        host = torch.empty(output.shape, dtype=output.dtype, pin_memory=True)
        host.copy_(output, non_blocking=True)
        there = torch.cuda.Event()  # type: ignore[no-untyped-call]
        there.record(torch.cuda.current_stream(self._device))
        return host, there

    @staticmethod
    def _result(begun: Any, rows: int) -> NDArray[np.float32] | Exception:
        if isinstance(begun, Exception):
            return begun
        host, there = begun
        try:
            if there is not None:
                there.synchronize()
        except Exception as error:  # a GPU tells of its errors late
            return error
        found: NDArray[np.float32] = host.numpy()[:rows]
        return found
