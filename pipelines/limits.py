"""How much is too much? Rejected samples, and parts that kill their process, before a run stops."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection
from typing import Any

from pipelines.errors import RunError
from pipelines.tally import Tally

ENOUGH_TO_JUDGE = 20_000
"""Samples after which a run with too many rejects stops early, rather than at the end of the pool."""


class Judge:
    """Counts what becomes of samples, and stops a run that loses too many as soon as that is known.

    Args:
        limit: ``limits.rejected``.
        size: Samples of the pool.
    """

    def __init__(self, limit: float, size: int) -> None:
        self._limit, self._size = limit, size
        self._seen = Tally()

    def add(self, row: dict[str, Any]) -> None:
        """Take in what `encode.write` counted of a part.

        Raises:
            RunError: It is too many of the first `ENOUGH_TO_JUDGE` or more, or of the pool whatever comes.
        """
        seen = self._seen
        seen.add(Tally(row["embedded"], row["rejected"], Counter(json.loads(row["reasons"]))))
        samples = seen.embedded + seen.rejected
        sure = samples >= ENOUGH_TO_JUDGE or seen.rejected > self._limit * self._size
        if sure and samples < self._size:  # else all of the pool is judged, with what was done before
            check_rejects(seen, self._limit, self._size)

    @property
    def told(self) -> str:
        """What to say beside the bar."""
        return f"{self._seen.rejected:,} rejected" if self._seen.rejected else ""


def check_rejects(tally: Tally, limit: float, pool: int | None = None) -> None:
    """Stop a run that loses more than it may.

    Args:
        tally: What became of samples.
        limit: ``limits.rejected``.
        pool: Samples of the pool, where these are but the first.

    Raises:
        RunError: Everything was rejected, or a larger share than the limit.
    """
    samples = tally.embedded + tally.rejected
    so_far = " so far" if pool else ""
    early = f"; stopped early, with {pool - samples:,} samples to go" if pool else ""
    if not tally.embedded:
        raise RunError(f"all {samples:,} samples{so_far} were rejected: {tally.told()}{early}")
    if tally.rejected > limit * samples:
        raise RunError(
            f"{tally.rejected:,} of {samples:,} samples{so_far} were rejected, more than"
            f" limits.rejected={limit:g} allows: {tally.told()}{early}; mend the pool, or raise the limit"
        )


def parts_told(parts: Collection[int]) -> str:
    """How many parts, in words."""
    return "1 part" if len(parts) == 1 else f"{len(parts):,} parts"


def check_lost(lost: dict[int, str], most: int) -> None:
    """Stop where it can hardly be single samples that kill.

    Args:
        lost: Parts that killed the process at work on them, and at which work.
        most: ``limits.deadly_parts``.

    Raises:
        RunError: There are more.
    """
    if len(lost) > most:
        works = ", ".join(f"{n:,} x {work}" for work, n in Counter(lost.values()).most_common())
        raise RunError(
            f"{parts_told(lost)} of the pool killed the process at work on them ({works}), more than"
            f" limits.deadly_parts={most} allows, the first of them part {min(lost)}: if memory ran out,"
            " lower encoder.batch_size or encoder.actors; else mend the pool, or raise the limit, and what"
            " kills is rejected"
        )
