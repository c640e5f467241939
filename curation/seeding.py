"""Greedy k-means++ (Arthur and Vassilvitskii, SODA 2007, section 7), over points spread over workers.

The first seed is a uniform draw. Each step draws 2 + floor(ln k) candidates with weights D (the
squared distance to the nearest seed), and keeps the one that lowers the sum of D most. D is exact,
sums of it are integers, and draws are hashes, so the seeds do not depend on where the points live.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from curation import chance, exact
from curation.kernels.cpu import product_bound, route

if TYPE_CHECKING:
    from curation.workers import Handle, Workers

_ULP = 2.0**-24
_TWO_53 = 2.0**53
_SCORES = 1 << 22  # in hand: 16 MB, twice
_NONE = np.empty(0, np.int64)


def candidates_per_step(n_clusters: int) -> int:
    """2 + floor(ln k), as the paper's authors and scikit-learn take."""
    return 2 + int(math.log(n_clusters))


class Seeding:
    """One block's part in a seeding: its points' exact squared distances to the seeds so far.

    A step reads the float32 rows once (2 n d L operations); only pairs that may improve are then
    computed in float64, n L ln k of them over a whole seeding on clustered data.

    Args:
        rows: Points (n, d) on the grid.
        keys: Their keys (n, 2).
        squares: Their exact squared norms (n,).
        distances: Exact squared distances (n,) to the seeds so far; None when there are none.
        matmul: Route of the float32 product.
        weights: Whole-numbered weights (n,); None: all one.
    """

    def __init__(
        self,
        rows: NDArray[np.float32],
        keys: NDArray[np.uint64],
        squares: NDArray[np.float64],
        distances: NDArray[np.float64] | None,
        matmul: str,
        weights: NDArray[np.int64] | None,
    ) -> None:
        self.weights = weights
        self.rows = rows
        self.matmul = route(matmul, rows.shape[1])
        self.keys = keys
        self.mixed = chance.mixed(keys)
        self.squares = squares
        self.distances = distances if distances is not None else np.full(len(rows), np.inf)
        norms = np.sqrt(squares)
        # |fl(score) - score| of assign.py's docstring, for candidates of norm up to 65/64, doubled:
        # the threshold below is rounded as well
        largest = 65 / 64
        product = norms * largest
        gamma = product_bound(rows.shape[1])
        self._slack = 2 * ((gamma + _ULP) * product + 2 * _ULP * largest**2 + _ULP * squares)
        self._threshold = self._thresholds(slice(None))
        self._pairs: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]] | None = None

    def propose(
        self, step: int, salt: int, count: int, chosen: int | None
    ) -> tuple[tuple[NDArray[np.float64], NDArray[np.uint64]], NDArray[np.float32]]:
        """Takes the last step's winner into account and draws this block's candidates.

        Args:
            step: Number of the step; 0 draws uniformly.
            salt: Salt of the step's draw.
            count: Candidates wanted.
            chosen: Which candidate of the last `gains` became a seed.

        Returns:
            ((values (m,), keys (m, 2)), rows (m, d)), m <= count, ascending: the smallest U / D.
        """
        if chosen is not None and self._pairs is not None:
            row, candidate, distance = self._pairs
            mine = candidate == chosen
            self.distances[row[mine]] = distance[mine]
            self._threshold[row[mine]] = self._thresholds(row[mine])
            self._pairs = None
        u = chance.draws(self.mixed, np.uint64(salt))
        if self.weights is not None:
            u = u if step else chance.race(u)
            with np.errstate(divide="ignore"):
                u = u / self.weights
        if step == 0:
            index = chance.smallest(u, self.keys, count)
            index = index[np.isfinite(u[index])]
            return (u[index], self.keys[index]), self.rows[index]
        with np.errstate(divide="ignore"):
            values = u / self.distances
        # rounded: it only sizes the filter
        weight = float(self.distances.sum() if self.weights is None else self.distances @ self.weights)
        near = np.flatnonzero(values <= 4 * count * _TWO_53 / weight) if weight > 0 else np.empty(0, np.int64)
        if len(near) < count:
            near = np.flatnonzero(np.isfinite(values))
        index = near[chance.smallest(values[near], self.keys[near], count)]
        return (values[index], self.keys[index]), self.rows[index]

    def gains(self, step: int, picks: list[tuple[int, int]], *proposed: NDArray[np.float32]) -> list[int]:
        """By how much each candidate would lower this block's sum of D, in units of 2^-48.

        Args:
            step: Number of the step; at 0 the only candidate is taken whatever it gains.
            picks: The candidates: (block, row among its proposals).
            proposed: The rows that each block proposed.
        """
        candidates = np.stack([proposed[block][row] for block, row in picks])
        row, candidate = self._near(candidates)
        distance = exact.squared_distances(self.rows, candidates, row, candidate)
        if step == 0:
            self._pairs = (row, candidate, distance)
            return [0] * len(picks)
        gain = self.distances[row] - distance
        better = gain > 0
        self._pairs = (row[better], candidate[better], distance[better])
        units = exact.square_units(gain[better])
        high, low = np.zeros((2, len(picks)), np.int64)
        weight = np.int64(1) if self.weights is None else self.weights[row[better]]
        np.add.at(high, candidate[better], (units >> 24) * weight)
        np.add.at(low, candidate[better], (units & 0xFFFFFF) * weight)
        return [(int(h) << 24) + int(part) for h, part in zip(high, low, strict=True)]

    def _near(self, candidates: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Rows and candidates of the pairs whose score does not rule out that they gain."""
        half = (exact.squared_norms(candidates) / 2).astype(np.float32)
        across, step = np.ascontiguousarray(candidates.T), max(1, _SCORES // len(candidates))
        product = np.empty((min(step, len(self.rows)), len(candidates)), np.float32)
        found: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
        for start in range(0, len(self.rows), step):
            part = self.rows[start : start + step]
            products = self.matmul(part, across, product[: len(part)])
            # one candidate after another, so that comparing and searching run along memory
            scores = np.subtract(half[:, None], products.T, order="C")
            hits = np.flatnonzero((scores <= self._threshold[start : start + step]).ravel())
            candidate, row = np.divmod(hits, len(part))
            found.append((row + start, candidate))
        if not found:
            return _NONE, _NONE
        rows, which = zip(*found, strict=True)
        return np.concatenate(rows), np.concatenate(which)

    def _thresholds(self, index: slice | NDArray[np.int64]) -> NDArray[np.float32]:
        """Score (float32, rounded up) above which a candidate surely does not improve a point."""
        limit = (self.distances[index] - self.squares[index]) / 2 + self._slack[index]
        return np.nextafter(limit.astype(np.float32), np.float32(np.inf))


def seed(workers: Workers, view: str, n_clusters: int, place: tuple[int, int, int]) -> list[Handle]:
    """Seeds of a view as centroid slices; fewer than `n_clusters` where there are fewer distinct points.

    Args:
        workers: Who holds the points.
        view: The points to seed from.
        n_clusters: Seeds wanted.
        place: (seed, level, resampling step), the salt of the draws.
    """
    seeds: list[NDArray[np.uint64]] = []
    count = candidates_per_step(n_clusters)
    pending: int | None = None

    def restore() -> None:
        nonlocal pending
        pending = None
        found = workers.gather(np.stack(seeds)) if seeds else []
        workers.get(workers.points("start_seeding", view, *found))

    def step(number: int) -> tuple[NDArray[np.uint64], int] | None:
        purpose = chance.Purpose.SEED_CANDIDATES if number else chance.Purpose.FIRST_SEED
        salt = int(chance.salt(place[0], purpose, *place[1:], number))
        asked = workers.points("propose", number, salt, count if number else 1, pending, returns=2)
        offers = workers.get([offer for offer, _ in asked])
        values, keys = (np.concatenate(column) for column in zip(*offers, strict=True))
        sizes = [len(offer[0]) for offer in offers]
        origin = [(block, row) for block, size in enumerate(sizes) for row in range(size)]
        best = chance.smallest(values, keys, count if number else 1)
        if not len(best):
            return None
        picks = [origin[i] for i in best]
        gains = workers.get(workers.points("gains", number, picks, *(rows for _, rows in asked)))
        totals = [sum(column) for column in zip(*gains, strict=True)]
        winner = totals.index(max(totals))  # the first of equals: candidates come in drawing order
        return keys[best[winner]], winner

    workers.attempt(restore, lambda: None)
    while len(seeds) < n_clusters:
        number = len(seeds)
        found = workers.attempt(partial(step, number), restore)
        if found is None:
            break
        seeds.append(found[0])
        pending = found[1]
        workers.tick("seeding", len(seeds), n_clusters)
    workers.ask("end_seeding")
    return workers.gather(np.stack(seeds))
