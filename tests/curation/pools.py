"""Pools for the tests of the clustering."""

import numpy as np
from numpy.typing import NDArray


def blobs(n: int, d: int, components: int, seed: int = 0, spread: float = 0.4) -> NDArray[np.float32]:
    """A long-tailed mixture of Gaussians, (n, d) float32."""
    generator = np.random.default_rng(seed)
    means = generator.standard_normal((components, d))
    share = 1 / np.arange(1, components + 1)
    which = generator.choice(components, n, p=share / share.sum())
    return (means[which] + spread * generator.standard_normal((n, d))).astype(np.float32)
