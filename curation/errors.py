"""What `curation` raises when a request cannot be met."""

from __future__ import annotations


class CurationError(ValueError):
    """A request that cannot be met: the message names the thing, the value and the way out."""


class UnfitRowError(CurationError):
    """A row that cannot be used.

    Args:
        row: Its number.
        why: What is wrong with it, and the way out.
    """

    def __init__(self, row: int, why: str) -> None:
        super().__init__(f"row {row} {why}")
        self.row, self.why = row, why

    def __reduce__(self) -> tuple[type[UnfitRowError], tuple[int, str]]:
        return type(self), (self.row, self.why)  # as other errors, it may come from another process


class WorkerRestartedError(RuntimeError):
    """A worker lost what it had computed since the fit began (its process was replaced)."""


class RegroupError(RuntimeError):
    """Others should go on from the last checkpoint: machines have come, or one was lost with what it held."""
