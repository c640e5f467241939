"""Float32 matrix products on a CPU, each probed against float64 before it is trusted.

A route may round differently from another, or use lower precision behind one's back (oneDNN on
machines with AMX); `probe` refuses a route whose error exceeds the bound that assignment relies on.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
from numpy.typing import NDArray

from curation.errors import CurationError

Matmul = Callable[[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]], NDArray[np.float32]]
"""Rows (m, d) times transposed centroids (d, c) into an array (m, c), which is returned."""

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


ROUTES: dict[str, Matmul] = {"numpy": _numpy, "torch": _torch}


def product_bound(dimensions: int) -> float:
    """gamma_d = d u / (1 - d u): |fl(x.c) - x.c| <= gamma_d |x| |c| for any order of float32 sums.

    Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., section 3.1.
    """
    return dimensions * _ULP / (1 - dimensions * _ULP)


@cache
def route(name: str, dimensions: int) -> Matmul:
    """The matrix product called `name`, after a probe at this number of dimensions.

    Raises:
        CurationError: There is no such route, or its error on this machine is above the bound.
    """
    if name not in ROUTES:
        raise CurationError(f"there is no matrix product {name!r}; there are {', '.join(ROUTES)}")
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
