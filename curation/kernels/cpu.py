"""Float32 matrix products on a CPU, each probed against float64 before it is trusted.

A route may round differently from another, or use lower precision behind one's back (oneDNN on
machines with AMX); `probe` refuses a route whose error exceeds the bound that assignment relies on,
and is asked again where PyTorch has been told of another precision. Which is the fastest depends on the
CPU: an OpenBLAS that does not know it takes twice the time of oneDNN, and so does MKL on those of AMD.
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
_TIES = 1 + 0.49 * 2.0**-7, 1 + 0.49 * 2.0**-10  # bfloat16 and tf32 round them down, by nearly half a step
_TIED = 16  # coordinates of a row that hold one: the fewer, the less may float32 err


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
    precision = _precision()
    if name == AUTO:
        name = _fastest(1 << (min(dimensions, _WIDEST) - 1).bit_length(), precision)
    return _probed(name, dimensions, precision)


def _precision() -> str:
    """What PyTorch may make of float32 products, which anybody may change; nothing while it is not loaded."""
    if "torch" not in sys.modules:  # it takes 2 s to import, and is not imported for this
        return ""
    import torch

    # `torch.get_float32_matmul_precision` follows from it, or raises where this alone was set
    return str(torch.backends.mkldnn.matmul.fp32_precision)  # type: ignore[attr-defined]


@cache
def _fastest(dimensions: int, precision: str) -> str:
    if not precision:
        return "numpy"
    rows, others = (np.ones((count, dimensions), np.float32) for count in _TRIAL)
    out = np.empty(_TRIAL, np.float32)
    seconds: dict[str, float] = {}
    for name in [name for _ in range(_TRIALS) for name in ROUTES]:
        began = time.perf_counter()
        try:
            _probed(name, dimensions, precision)(rows, others.T, out)
        except (CurationError, RuntimeError, AttributeError):  # a build of torch without it, or imprecise
            continue
        took = time.perf_counter() - began
        seconds[name] = min(took, seconds.get(name, took))
    if not seconds:
        raise CurationError(
            "no float32 matrix product keeps its error bound on this machine: a mode of reduced "
            "precision is on (torch.backends.mkldnn.matmul.fp32_precision, MKL_CBWR or the like); turn it off"
        )
    return min(seconds, key=seconds.__getitem__)


@cache
def _probed(name: str, dimensions: int, precision: str) -> Matmul:
    if name not in ROUTES:
        raise CurationError(f"there is no matrix product {name!r}; there are {AUTO}, {', '.join(ROUTES)}")
    error = probe(ROUTES[name], dimensions)
    if not error <= 1:
        raise CurationError(
            f"the {name!r} matrix product errs by {error:.1f} times its bound at {dimensions} dimensions "
            "(a reduced-precision mode may be on); choose another route"
        )
    return ROUTES[name]


def probe(matmul: Matmul, dimensions: int) -> float:
    """Largest error of a route on two pairs of 256-row blocks, as a share of its bound.

    One pair is random. There errors cancel, so that in many dimensions those of lower precision are within
    the bound as well; the rows of the other are the worst for it: all of their few coordinates it rounds
    the same way.
    """
    generator = np.random.Generator(np.random.PCG64(dimensions))
    rows, others = generator.standard_normal((2, 256, dimensions))
    tied = np.zeros((256, dimensions))
    tied[:, :_TIED] = np.resize(_TIES, (256, 1))
    worst = _error(matmul, tied, tied, min(dimensions, _TIED))
    return float(np.maximum(_error(matmul, rows, others, dimensions), worst))


def _error(matmul: Matmul, rows: NDArray[np.float64], others: NDArray[np.float64], terms: int) -> np.float64:
    """Largest error of products of so many terms other than zero, as a share of their bound."""
    left, right = rows.astype(np.float32), others.astype(np.float32)
    product = matmul(left, right.T, np.empty((len(left), len(right)), np.float32))
    rows, others = left.astype(np.float64), right.astype(np.float64)
    norms = np.outer(np.linalg.norm(rows, axis=1), np.linalg.norm(others, axis=1))
    worst: np.float64 = (np.abs(product - rows @ others.T) / norms).max()
    return worst / product_bound(terms)
