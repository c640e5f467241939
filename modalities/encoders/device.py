"""Where does a model run, and in which arithmetic? Decided here for every torch encoder."""

from __future__ import annotations

from typing import TYPE_CHECKING

from modalities.base import ModalityError

if TYPE_CHECKING:
    import torch

DTYPES = ("float32", "bfloat16", "float16")


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
    it (three times faster than float32 on such CPUs, cosine above 0.998), else float32.

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
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))
