"""Float32 matrix products on a CPU, each probed against float64 before it is trusted.

A route may round differently from another, or use lower precision behind one's back (oneDNN on
machines with AMX); `probe` refuses a route whose error exceeds the bound that assignment relies on.
Which is the fastest depends on the CPU: an OpenBLAS that does not know it takes twice the time of
oneDNN, and so does MKL on those of AMD.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import cache

import numpy as np
from numpy.typing import NDArray

from curation.errors import CurationError

Matmul = Callable[[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]], NDArray[np.float32]]
"""Rows (m, d) times transposed centroids (d, c): the array (m, c) that is given, or another."""

AUTO = "auto"
"""The fastest of the routes whose library is there already."""

_TRIAL = 1024, 512  # rows and centroids of a trial: a tile that fits the cache
_TRIALS = 3
_WIDEST = 1024  # dimensions from which on the order of the routes does not change
_ULP = 2.0**-24


def _numpy(
    rows: NDArray[np.float32], transposed: NDArray[np.float32], out: NDArray[np.float32]
) -> NDArray[np.float32]:
    return np.matmul(rows, transposed, out=out)


def _torch(
    rows: NDArray[np.float32], transposed: NDArray[np.float32], out: NDArray[np.float32]
) -> NDArray[np.float32]:
    import torch  # 2 s to import: only for those who ask for this route

    torch.mm(torch.from_numpy(rows), torch.from_numpy(transposed), out=torch.from_numpy(out))
    return out


def _onednn(
    rows: NDArray[np.float32], transposed: NDArray[np.float32], out: NDArray[np.float32]
) -> NDArray[np.float32]:
    import torch

    # torch.mm asks MKL; what would make it ask oneDNN holds for the whole process
    tensors = torch.from_numpy(rows), torch.from_numpy(np.ascontiguousarray(transposed.T))
    product = torch.ops.mkldnn._linear_pointwise(*tensors, None, "none", [], "")
    found: NDArray[np.float32] = product.numpy()
    return found


ROUTES: dict[str, Matmul] = {"numpy": _numpy, "torch": _torch, "onednn": _onednn}


def product_bound(dimensions: int) -> float:
    """gamma_d = d u / (1 - d u): |fl(x.c) - x.c| <= gamma_d |x| |c| for any order of float32 sums.

    Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., section 3.1.
    """
    return dimensions * _ULP / (1 - dimensions * _ULP)


def route(name: str, dimensions: int) -> Matmul:
    """The matrix product called `name`, after a probe at this number of dimensions.

    Raises:
        CurationError: There is no such route, or its error on this machine is above the bound.
    """
    if name == AUTO:
        # torch takes 2 s to import, and is not imported for this
        name = _fastest(1 << (min(dimensions, _WIDEST) - 1).bit_length(), "torch" in sys.modules)
    return _probed(name, dimensions)


@cache
def _fastest(dimensions: int, with_torch: bool) -> str:
    if not with_torch:
        return "numpy"
    rows, others = (np.ones((count, dimensions), np.float32) for count in _TRIAL)
    out = np.empty(_TRIAL, np.float32)
    seconds: dict[str, float] = {}
    for name in [name for _ in range(_TRIALS) for name in ROUTES]:
        began = time.perf_counter()
        try:
            _probed(name, dimensions)(rows, others.T, out)
        except (CurationError, RuntimeError, AttributeError):  # a build of torch without it, or imprecise
            continue
        took = time.perf_counter() - began
        seconds[name] = min(took, seconds.get(name, took))
    return min(seconds, key=seconds.__getitem__)


@cache
def _probed(name: str, dimensions: int) -> Matmul:
    if name not in ROUTES:
        raise CurationError(f"there is no matrix product {name!r}; there are {AUTO}, {', '.join(ROUTES)}")
    error = probe(ROUTES[name], dimensions)
    if error > 1:
        raise CurationError(
            f"the {name!r} matrix product errs by {error:.1f} times its bound at {dimensions} dimensions "
            "(a reduced-precision mode may be on); choose another route"
        )
    return ROUTES[name]


def probe(matmul: Matmul, dimensions: int) -> float:
    """Largest error of a route on two random 256-row blocks, as a share of its bound."""
    generator = np.random.Generator(np.random.PCG64(dimensions))
    blocks = generator.standard_normal((2, 256, dimensions))
    blocks /= np.linalg.norm(blocks, axis=2, keepdims=True)
    rows, others = blocks.astype(np.float32)
    product = matmul(rows, others.T, np.empty((256, 256), np.float32))
    error = np.abs(product - rows.astype(np.float64) @ others.T.astype(np.float64)).max()
    return float(error / (product_bound(dimensions) * (1 + 1e-6)))
