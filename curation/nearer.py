"""Rows and new centroids that are nearer than what the rows have: sifted in float32, found exactly.

A pair passes where its float32 score (`curation.assign`) does not rule out that it is nearer; the few
that pass are computed in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from curation.assign import Assigner, Centroids, room, score_bound, score_shift, spans
from curation.kernels import settling
from curation.kernels.cpu import route
from curation.kernels.threads import each

Work = Callable[..., None]
"""What is done to the scores of a tile."""


def attract(
    assigner: Assigner,
    rows: NDArray[np.float32],
    squares: NDArray[np.float64],
    centroids: Centroids,
    offset: int,
    labels: NDArray[np.int32],
    distances: NDArray[np.float64],
) -> None:
    """Labels rows with new centroids that are nearer than what they have; of equals the first.

    2 d operations a pair in float32; those that pass, a few a row, once more in float64.

    Args:
        assigner: How to compute.
        rows: Rows (n, d) on the grid.
        squares: Their exact squared norms (n,).
        centroids: New centroids (m, d) on the grid.
        offset: Number of the first of them.
        labels: Labels of the rows (n,), changed in place.
        distances: Their exact squared distances (n,), finite; changed in place.
    """

    def work(tile: slice, *scores: NDArray[np.floating]) -> None:
        settling.attract(rows[tile], centroids.values, distances[tile], labels[tile], offset, *scores)

    _sift(assigner, rows, squares, centroids, lambda: work)


def gains(
    assigner: Assigner,
    rows: NDArray[np.float32],
    squares: NDArray[np.float64],
    centroids: Centroids,
    distances: NDArray[np.float64],
    weights: NDArray[np.int64] | None,
) -> NDArray[np.int64]:
    """By how much centroids would lower the squared distances of rows, added up exactly.

    Args:
        assigner: How to compute.
        rows: Rows (n, d) on the grid.
        squares: Their exact squared norms (n,).
        centroids: Centroids (m, d) on the grid.
        distances: Exact squared distances of the rows (n,), finite.
        weights: Whole-numbered weights (n,), of sum at most 2^36; None: all one.

    Returns:
        Gains (2, m): sums of the bits above 2^-24 and of those below, in steps of 2^-24 and of 2^-48.
    """
    many = np.empty(0, np.int64) if weights is None else weights
    parts = [np.zeros((2, len(centroids.values)), np.int64)]

    def worker() -> Work:
        part = np.zeros_like(parts[0])
        parts.append(part)

        def work(tile: slice, *scores: NDArray[np.floating]) -> None:
            settling.gains(rows[tile], centroids.values, distances[tile], many[tile], part, *scores)

        return work

    _sift(assigner, rows, squares, centroids, worker)
    return np.sum(parts, axis=0)  # type: ignore[no-any-return]


def _sift(
    assigner: Assigner,
    rows: NDArray[np.float32],
    squares: NDArray[np.float64],
    centroids: Centroids,
    worker: Callable[[], Work],
) -> None:
    """Hands the scores of every tile to the work of a worker, one of which each thread has."""
    width, count = rows.shape[1], len(centroids.values)
    matmul = route(assigner.matmul, width)

    def run(tiles: Iterator[tuple[int, int]]) -> None:
        work, scores = worker(), np.empty(0, np.float32)
        for low, high in tiles:
            tile = slice(low, high)
            norms = np.sqrt(squares[tile])
            shifts = score_shift(norms, centroids.norm, width)
            # |c|^2 / 2 - x.c of a centroid at a distance of nothing, shifted, and the most that it errs by
            least = score_bound(norms, centroids.norm, width) + shifts - squares[tile] / 2
            scores = room(scores, (high - low) * count)
            products = scores[: (high - low) * count].reshape(high - low, count)
            products = matmul(rows[tile], centroids.values.T, products)
            work(tile, products, centroids.half_squares, shifts, least)

    each(assigner.n_threads, run, spans(len(rows), assigner.tile_rows(count)))
