"""Kernels of OpenBLAS as new as the CPU.

A wheel's OpenBLAS may be older than the CPU, not know it, and fall back to a kernel from long ago, which
takes twice the time. `OPENBLAS_CORETYPE` names a better one, if it is set before NumPy is imported.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

CORETYPE = "OPENBLAS_CORETYPE"

_KERNELS = {  # what a CPU can do, the flag that says so, and the kernels that use it, best known first
    "AVX-512": ("avx512f", ("SkylakeX", "Cooperlake", "SapphireRapids")),
    "AVX2": ("avx2", ("Haswell", "Zen")),
}
_LOOK = (
    "import json, numpy, threadpoolctl; "
    "print(json.dumps([p['architecture'] for p in threadpoolctl.threadpool_info()"
    " if p['internal_api'] == 'openblas']))"
)


def flags() -> frozenset[str]:
    """What this machine's CPU can do, as /proc/cpuinfo calls it; nothing where there is no such file."""
    told = Path("/proc/cpuinfo")
    lines = told.read_text().splitlines() if told.exists() else []
    return frozenset(next((li.partition(":")[2] for li in lines if li.startswith("flags")), "").split())


def kernels() -> tuple[str, ...]:
    """Kernels of the OpenBLAS that NumPy uses in this process; none where it has another BLAS."""
    import numpy  # noqa: F401 (loads its BLAS)
    from threadpoolctl import threadpool_info

    chosen = {
        library.get("architecture") or ""
        for library in threadpool_info()
        # others, such as faiss's own, may be loaded beside it
        if library["internal_api"] == "openblas" and "numpy" in library["filepath"]
    }
    return tuple(sorted(chosen))


def ability(flags: frozenset[str]) -> str:
    """The widest arithmetic that a CPU with these flags has and that there are kernels for; may be none."""
    return next((name for name, (flag, _) in _KERNELS.items() if flag in flags), "")


def better(chosen: Sequence[str], flags: frozenset[str]) -> tuple[str, str] | None:
    """What the CPU can do and the kernel to name, where one of those chosen is older; else None."""
    for ability, (flag, kernels) in _KERNELS.items():
        if flag in flags:
            return None if set(chosen) <= set(kernels) else (ability, kernels[0])
    return None


def warning(chosen: Sequence[str], flags: frozenset[str]) -> str | None:
    """What to say where OpenBLAS uses a kernel that is older than the CPU, else None."""
    found = better(chosen, flags)
    if found is None:
        return None
    ability, kernel = found
    return (
        f"the CPU has {ability}, but OpenBLAS uses its kernel {', '.join(chosen)}, which is older and may"
        f" take twice the time: set {CORETYPE}={kernel} before the run"
    )


def choose() -> None:
    """Names the better kernel for the processes that this one starts, and for this one if there is time.

    Leaves alone what the user has chosen. Results do not depend on it.
    """
    about = flags()
    if CORETYPE in os.environ or "avx2" not in about:
        return
    told = subprocess.run([sys.executable, "-c", _LOOK], capture_output=True, text=True, check=False)
    found = None if told.returncode else better(json.loads(told.stdout), about)
    if found is not None:
        os.environ[CORETYPE] = found[1]
