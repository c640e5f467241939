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


def lattice(n: int, d: int, seed: int = 0) -> NDArray[np.float32]:
    """Points of a lattice in eight dimensions, each of these d / 8 times: many are equally near to others."""
    rows = np.random.default_rng(seed).integers(0, 5, (n, 8)).astype(np.float32) + np.float32(0.1)
    return np.repeat(rows, d // 8, axis=1)


def halfway(n: int, d: int, anchors: int, seed: int = 0) -> NDArray[np.float32]:
    """Anchors, and points halfway between neighbours among them: most assignments are close calls."""
    generator = np.random.default_rng(seed)
    means = generator.standard_normal((anchors, d)).astype(np.float32)
    squares = (means**2).sum(1)
    near = np.argpartition(squares - 2 * means @ means.T, 5, axis=1)[:, :5]
    first = generator.integers(0, anchors, n)
    other = near[first, generator.integers(0, 5, n)]  # now and then itself
    return np.where(generator.random((n, 1)) < 0.3, means[first], (means[first] + means[other]) / 2)
