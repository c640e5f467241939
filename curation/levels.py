"""How many clusters a pool gets where nobody said: levels and sizes from the number of points."""

from __future__ import annotations

LEAF = 10
"""Points of a mean leaf at least: fewer make clusters of near copies."""
MOST_LEAVES = 10_000_000
"""As many as the paper took for 743 million images."""
LEAST = 10
"""Clusters of a level at least, above the leaves."""
PAPER_FROM = 1_000_000
"""Leaves from which the paper's ratios hold; smaller trees go up in smaller steps."""


def auto_clusters(n_points: int) -> list[int]:
    """Levels for a pool, from the leaves up: a leaf for every ten samples, up to ten million.

    Each level above has a fifth of the clusters of the one below, three levels in all, none of fewer
    than ten clusters; from a million leaves on the paper's ratios 20, 10 and 5.
    """
    levels = [max(1, min(n_points // LEAF, MOST_LEAVES))]
    for ratio in _ratios(levels[0]):
        if levels[-1] // ratio < LEAST:
            break
        levels.append(levels[-1] // ratio)
    return levels


def auto_reason(n_points: int) -> str:
    """Why `auto_clusters` chose what it chose, one sentence for a person."""
    levels = auto_clusters(n_points)
    leaves, ratios = levels[0], _ratios(levels[0])
    if leaves == 1:
        clauses = [f"too few for two leaves of {LEAF}"]
    else:
        most = leaves == MOST_LEAVES
        clauses = [f"no more than {leaves:,} leaves" if most else f"a leaf for every {LEAF} samples"]
        if taken := ratios[: len(levels) - 1]:
            shares = list(dict.fromkeys(f"1/{ratio}" for ratio in taken))
            clauses.append(f"each level {', then '.join(shares)} of the one below")
        if len(levels) <= len(ratios):
            clauses.append(f"none above of fewer than {LEAST} clusters")
    shape = " > ".join(f"{level:,}" for level in levels)
    return f"cluster.n_clusters auto is {shape} for {n_points:,} samples: {'; '.join(clauses)}"


def _ratios(leaves: int) -> tuple[int, ...]:
    return (20, 10, 5) if leaves >= PAPER_FROM else (5, 5)
