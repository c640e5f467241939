"""Plain tables, means with their standard errors, and verdicts that are computed, never written down."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from benchmarks.cells import described, machine

NOISE = 2.0
"""Gaps of at most this many standard errors are called undecided."""


@dataclass(frozen=True)
class Verdict:
    """What a run shows about one claim.

    Attributes:
        claim: The claim.
        holds: Whether the numbers bear it out; None where they cannot tell, which is no failure.
        evidence: The numbers.
    """

    claim: str
    holds: bool | None
    evidence: str

    def __str__(self) -> str:
        word = {True: "yes", False: "NO", None: "undecided"}[self.holds]
        return f"{self.claim}: {word}, {self.evidence}"


@dataclass(frozen=True)
class Gap:
    """A paired difference: mean over the runs, and the standard error of that mean."""

    mean: float
    error: float

    @property
    def errors(self) -> float:
        """The gap in standard errors; signed, and infinite where the runs do not differ in it."""
        return self.mean / self.error if self.error else float(np.copysign(np.inf, self.mean))

    def __str__(self) -> str:
        return f"gap {self.mean:+.4f}, {self.errors:.1f} standard errors"


def mean_error(values: ArrayLike) -> tuple[float, float]:
    """Mean of runs (n,) and its standard error (NaN for a single run)."""
    runs: NDArray[np.float64] = np.asarray(values, np.float64)
    return float(runs.mean()), float(runs.std(ddof=1) / len(runs) ** 0.5) if len(runs) > 1 else float("nan")


def paired_gap(low: ArrayLike, high: ArrayLike) -> Gap:
    """By how much `high` exceeds `low` over paired runs, both of shape (n,)."""
    return Gap(*mean_error(np.asarray(high, np.float64) - np.asarray(low, np.float64)))


def below(low_name: str, low: ArrayLike, high_name: str, high: ArrayLike, noise: float = 0.0) -> Verdict:
    """Is `low` below `high` in the mean of paired runs?

    Args:
        low_name: Name of what should be low.
        low: Its runs (n,).
        high_name: Name of what should be high.
        high: Its runs (n,).
        noise: Gaps of at most this many standard errors are undecided.
    """
    gap = paired_gap(low, high)
    decided = noise == 0 or abs(gap.mean) > noise * gap.error
    return Verdict(f"{low_name} < {high_name}", gap.mean > 0 if decided else None, str(gap))


def at_most(name: str, values: ArrayLike, limit: float, why: str) -> Verdict:
    """Is the mean of runs (n,) at most a limit?"""
    mean, error = mean_error(values)
    return Verdict(f"{name} <= {limit:.3f} ({why})", mean <= limit, f"mean {mean:.4f} +- {error:.4f}")


def near(name: str, values: ArrayLike, target: float, tolerance: float) -> Verdict:
    """Is the mean of runs (n,) within a tolerance of a target?"""
    mean, error = mean_error(values)
    claim = f"{name} within {tolerance:g} of {target:.4f}"
    return Verdict(claim, abs(mean - target) <= tolerance, f"mean {mean:.4f} +- {error:.4f}")


def shown(values: ArrayLike, digits: int = 4) -> str:
    """Mean and standard error of runs, for a cell of a table."""
    mean, error = mean_error(values)
    return f"{mean:.{digits}f} +- {error:.{digits}f}"


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows under headers as aligned text, the first column to the left and the others to the right."""
    cells = [list(headers), *(list(row) for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(headers))]
    lines = [
        "  ".join(
            c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in cells
    ]
    return "\n".join([lines[0], "  ".join("-" * w for w in widths), *lines[1:]])


def environment() -> str:
    """What the numbers were measured with: CPU, versions, and BLAS kernels with their threads."""
    return described([{"machine": machine()}])


def conclude(verdicts: Sequence[Verdict]) -> int:
    """Prints the verdicts; returns the exit code: 1 when a claim failed."""
    print()
    for verdict in verdicts:
        print(verdict)
    failed = sum(verdict.holds is False for verdict in verdicts)
    print(
        f"{failed} of {len(verdicts)} claims failed" if failed else f"none of {len(verdicts)} claims failed"
    )
    return 1 if failed else 0
