"""How evenly are samples spread over clusters or classes?

Every measure takes counts, shape (m,), one entry a group: the number (or weight) of samples in it,
zero included. With p_i = count_i / sum of counts:

    KL to uniform        sum_i p_i ln(m p_i)                     0 (even) to ln m (all in one)
    entropy, normalised  -sum_i p_i ln p_i / ln m                1 (even) to 0
    Gini                 sum_i (2 i - m - 1) p_(i) / m           0 (even) to (m - 1) / m; p_(i) ascending
    effective number     exp(-sum_i p_i ln p_i)                  m (even) to 1 (Hill number of order 1)
    coverage             share of the groups that hold anything  1 to 1 / m
    head share           share of the samples in the fullest ceil(m / 10) groups

with 0 ln 0 = 0. All are the same for counts in any order, to the last bit, and for counts that are
multiplied by a constant. Logarithms are natural, so KL is in nats. One group alone is even.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from curation.errors import CurationError


@dataclass(frozen=True)
class Balance:
    """All measures of one set of counts.

    Attributes:
        groups: number of groups, m.
        total: sum of the counts.
        kl_to_uniform: KL divergence from the uniform distribution, in nats.
        normalized_entropy: entropy over its largest possible value, 0 to 1.
        gini: Gini coefficient, 0 to (m - 1) / m.
        effective_number: exp(entropy): as many equally full groups would have the same entropy.
        coverage: share of the groups with a count above zero.
        head_share: share of the samples in the fullest tenth of the groups.
    """

    groups: int
    total: float
    kl_to_uniform: float
    normalized_entropy: float
    gini: float
    effective_number: float
    coverage: float
    head_share: float


def balance(counts: ArrayLike) -> Balance:
    """Every measure of this module for counts, shape (m,).

    Raises:
        CurationError: there is no group, a count is negative or not finite, or all are zero.
    """
    shares = _ascending_shares(counts)
    return Balance(
        groups=len(shares),
        total=float(np.sum(np.sort(np.asarray(counts, dtype=np.float64)))),
        kl_to_uniform=_kl(shares),
        normalized_entropy=_normalized_entropy(shares),
        gini=_gini(shares),
        effective_number=float(np.exp(_entropy(shares))),
        coverage=_coverage(shares),
        head_share=_head_share(shares),
    )


def kl_to_uniform(counts: ArrayLike) -> float:
    """KL(p || uniform) = sum_i p_i ln(m p_i) in nats, for counts of shape (m,).

    Raises:
        CurationError: as `balance`.
    """
    return _kl(_ascending_shares(counts))


def _ascending_shares(counts: ArrayLike) -> NDArray[np.float64]:
    """Counts as shares of their sum, smallest first, so that the order they came in cannot matter."""
    values = np.sort(np.asarray(counts, dtype=np.float64), axis=None)
    if values.size == 0:
        raise CurationError("a balance needs at least one group, and there is none")
    if not np.isfinite(values).all() or values[0] < 0:
        bad = values[~np.isfinite(values) | (values < 0)][0]
        raise CurationError(f"counts are zero or more and finite, and one of them is {bad}")
    if values[-1] == 0:
        raise CurationError(f"all {values.size} counts are zero: an empty set has no balance")
    # Divided by the largest first: the sum of huge counts would overflow, that of tiny ones lose digits.
    values = values / values[-1]
    shares: NDArray[np.float64] = values / values.sum()
    return shares


def _entropy(shares: NDArray[np.float64]) -> float:
    held = shares[shares > 0]
    return max(0.0, float(-np.sum(held * np.log(held))))


def _kl(shares: NDArray[np.float64]) -> float:
    held = shares[shares > 0]
    return max(0.0, float(np.sum(held * np.log(held * len(shares)))))


def _normalized_entropy(shares: NDArray[np.float64]) -> float:
    return min(1.0, _entropy(shares) / float(np.log(len(shares)))) if len(shares) > 1 else 1.0


def _gini(shares: NDArray[np.float64]) -> float:
    m = len(shares)
    rank = np.arange(1, m + 1)
    return max(0.0, float(np.sum((2 * rank - m - 1) * shares)) / m)


def _coverage(shares: NDArray[np.float64]) -> float:
    return float(np.count_nonzero(shares)) / len(shares)


def _head_share(shares: NDArray[np.float64]) -> float:
    fullest = -(-len(shares) // 10)
    return min(1.0, float(shares[-fullest:].sum()))
