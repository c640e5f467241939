"""What became of samples: how many were embedded, how many rejected, and why."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Tally:
    """What became of the samples.

    Attributes:
        embedded: How many have an embedding.
        rejected: How many have not.
        reasons: Why not, with how often.
        digests: Of the embeddings, a part each.
        spoiled: Indices of the parts with rejects.
        truncated: How many of the embedded the encoder read a part of alone.
    """

    embedded: int = 0
    rejected: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    digests: list[str] = field(default_factory=list)
    spoiled: list[int] = field(default_factory=list)
    truncated: int = 0

    def add(self, other: Tally) -> None:
        """Take in the counts of other parts."""
        self.embedded += other.embedded
        self.rejected += other.rejected
        self.reasons.update(other.reasons)
        self.digests += other.digests
        self.spoiled += other.spoiled
        self.truncated += other.truncated

    def told(self, most: int = 3) -> str:
        """The commonest reasons with their counts."""
        told = "; ".join(f"{n:,} x {reason.rstrip('.')}" for reason, n in self.reasons.most_common(most))
        return told + (f"; and {len(self.reasons) - most} other reasons" if len(self.reasons) > most else "")
