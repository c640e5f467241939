"""In which form is an embedding stored? As a unit row, from a centre or not, or as it came."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curation.exact import normalize_rows

HALF = np.dtype(np.float16)


@dataclass(frozen=True)
class Form:
    """How a row is stored.

    Attributes:
        unit: At unit norm; a row without a direction has no such form.
        dtype: In which precision: float16 is fine enough for unit rows alone, with coarse steps far from
            the origin.
        centre: What is subtracted first (d,), or None.
    """

    unit: bool = True
    dtype: np.dtype[Any] = HALF
    centre: NDArray[np.float32] | None = None

    def shifted(self, embeddings: NDArray[Any]) -> NDArray[Any]:
        """Embeddings (n, d) from the centre."""
        return embeddings if self.centre is None else embeddings - self.centre

    def scaled(self, rows: NDArray[Any]) -> NDArray[Any]:
        """Rows (n, d) as they are stored."""
        return (normalize_rows(rows) if self.unit else rows).astype(self.dtype)
