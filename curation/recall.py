"""How many points an approximate assignment has brought to their nearest centroid: told by a sample."""

from __future__ import annotations

from curation.chance import Purpose, salt
from curation.descent import View
from curation.workers import Handle

SAMPLE = 4096
"""Points that are assigned exactly to find out."""


def recall(view: View, own: list[Handle], slices: list[Handle]) -> tuple[float, int]:
    """Share of a sample of the workers' points whose centroid is the nearest, and the sample's size.

    2 d k operations a point of the sample.

    Args:
        view: All points.
        own: Their labels.
        slices: The centroids.
    """
    workers, (seed, *place) = view.workers, view.place
    word = int(salt(seed, Purpose.RECALL, *place))

    def ask() -> tuple[float, int]:
        chosen = workers.sample(word, SAMPLE)
        hits = workers.get(workers.points("hits", chosen, *slices, own=own))
        return sum(int(part) for part in hits) / len(chosen), len(chosen)

    return workers.attempt(ask, lambda: None)
