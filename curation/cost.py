"""What clustering takes, before it is done: operations and bytes from n, d, k and the recipe.

A model, not a promise: how many iterations a pool needs, and how many centroids stay candidates of a
point, is known afterwards. The constants below are what the benchmark cases showed; they are all
there is to fit again when the engine changes (docs/plan.md says how).
"""

from __future__ import annotations

import itertools
import math
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING

from curation import recall, sketch, splitting
from curation.assignment import APPROACHES
from curation.batches import FIRST, OVERDRAW
from curation.descent import FEW
from curation.fit import INTERMEDIATE_ITERATIONS, SPARSE, is_small
from curation.merits import FEW_JUDGES, JUDGES
from curation.neighbours import GROUP, NEAR_GROUPS
from curation.seeding import candidates_per_step

if TYPE_CHECKING:
    from curation.descent import Plan
    from curation.recipe import Recipe

ITERATIONS = 30
"""Of a fit that stops by its tolerance; with `tol` 0 it makes `max_iter`."""
LLOYD_ITERATIONS = 25
"""The same where every iteration scans all centroids."""
CANDIDATES = 85
"""Centroids that a point compares itself with in an iteration, in the mean."""
LOOKS = 2 + APPROACHES
"""Looks at candidates in the sketch by which a point finds its cluster between two resampling steps."""
FAR_SCANS = 6
"""Scans of all centroids in the sketch during a fit: those of its hints, and the last."""
UPDATES = 3.0
"""Time of an update with its swaps over that of adding up the rows of each cluster."""
LISTS = 4
"""Lists in which `algorithm: ivf` files k centroids, over sqrt(k), as in `curation.kernels.faiss`."""
FILINGS = 6
"""Comparisons of each centroid with all lists while they are filed: five to find the lists, and the last."""
LISTED = 8.0
"""Time of a comparison in a list over one among candidates: FAISS reads the list anew for every point."""
SPLIT_ITERATIONS = 13
"""Of the division of coarse clusters, where it ends by its tolerance."""
THINNING = 5e-4
"""Seconds in which one of them chooses a batch's seeds among the points drawn, whatever its size."""
NEIGHBOURHOOD = GROUP * NEAR_GROUPS
"""Centroids among which the neighbours of a centroid are looked for."""
PREPARED = 15
"""Updates that take as long as bringing the rows onto the grid, naming them and sketching them."""
LISTING = 18.0
"""Time of neighbour lists over that of their products: they are gathered and sorted as well."""
GROUPING = 1.7
"""The same for the groups of centroids: three scans, in float32."""
ROUND = 0.0005
"""Seconds of a round in which whoever conducts hears from every worker, inside one process."""
ALONE = 1_000_000
"""Inputs of an upper level that one worker takes alone, as in `curation.shards`."""


@dataclass(frozen=True)
class Work:
    """What there is to do.

    Attributes:
        scanned: Pairs of a point and a centroid in scans of all centroids.
        sketched: Pairs in scans of the sketch.
        restricted: Pairs in looks at candidates.
        listed: Pairs in looks at lists of FAISS.
        blocks: Groups of points that look at candidates together, of one worker.
        read: Rows that pass through products.
        updated: Rows that updates and draws read, each in the order of the clusters.
        thinned: Choices of a batch of seeds for a coarse cluster that is divided.
        between: Operations on centroids alone, in float64 on one thread.
        rounds: Times that the driver waits for all workers.
    """

    scanned: float = 0.0
    sketched: float = 0.0
    restricted: float = 0.0
    listed: float = 0.0
    blocks: float = 0.0
    read: float = 0.0
    updated: float = 0.0
    thinned: float = 0.0
    between: float = 0.0
    rounds: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(*(mine + theirs for mine, theirs in zip(astuple(self), astuple(other), strict=True)))

    def __mul__(self, times: float) -> Work:
        return Work(*(times * mine for mine in astuple(self)))

    def operations(self, dimensions: int) -> float:
        """Floating-point operations; a multiplication and an addition are two."""
        pairs = dimensions * (self.scanned + self.restricted + self.listed) + sketch.SIZE * self.sketched
        return 2.0 * pairs + self.between

    def row_bytes(self, dimensions: int, item: int = 4) -> float:
        """Bytes of rows that are read from memory, at `item` bytes a coordinate."""
        return (self.read + self.updated) * dimensions * item


@dataclass(frozen=True)
class Rates:
    """How fast a machine is with all its threads together, at the dimensions of a pool.

    Attributes:
        threads: Threads that were at work.
        gemm: Operations a second of a bare float32 matrix product.
        pair: Seconds a pair in a scan of all centroids.
        sketch: Seconds a pair in a scan of the sketch.
        near: Seconds a pair in a look at candidates.
        block: Seconds a group of points in it, whatever its size.
        update: Bytes of rows a second that are added up cluster by cluster.
        memory: Bytes a second that a copy reads and writes.
        double: Operations a second of a float64 matrix product on one thread.
    """

    threads: int
    gemm: float
    pair: float
    sketch: float
    near: float
    block: float
    update: float
    memory: float
    double: float


@dataclass(frozen=True)
class Crew:
    """Who does it: `shards` workers of `threads` threads each, `round` seconds away from who conducts.

    The largest share of the points is `uneven` times the mean one: the others wait for whoever has it.
    """

    shards: int = 1
    threads: int = 1
    round: float = ROUND
    uneven: float = 1.0


def fit_work(n: int, d: int, k: int, plan: Plan) -> Work:
    """One k-means fit of n points (n, d) with k clusters, without the assignment that follows it."""
    candidates, lloyd = near(k), plan.algorithm == "lloyd"
    brief = plan.intermediate and not lloyd  # which ends whatever it gains
    expected = LLOYD_ITERATIONS if lloyd else INTERMEDIATE_ITERATIONS if brief else ITERATIONS
    times = min(expected, plan.max_iter) if brief or plan.tol > 0 else plan.max_iter
    work = _start(n, d, k, plan)
    if lloyd or candidates == k:
        return work + Work(scanned=float(n) * k, read=n, updated=n, rounds=2) * times
    each = Work(
        restricted=float(n) * candidates,
        blocks=k / GROUP,
        read=n,
        updated=n,
        between=neighbour_work(k, d),
        rounds=3,
    )
    return work + each * times + far_work(n, d, k, plan) * (0 if plan.intermediate else FAR_SCANS)


def near(k: int) -> int:
    """Centroids out of k that a point looks at in an iteration."""
    return k if k <= FEW else CANDIDATES


def scan_work(n: int, k: int) -> Work:
    """One assignment of n points to the nearest of all k centroids."""
    return Work(scanned=float(n) * k, read=n, rounds=1)


def full_work(n: int, d: int, k: int, plan: Plan) -> Work:
    """One assignment of n points to all k centroids as the plan has it done.

    `algorithm: ivf` finds most of the nearest. It is taken to compare a point with the middles of all lists,
    at the pace of a scan, and with the centroids of a few lists, all as long as the mean one. Every worker
    files the centroids for itself, at the pace of float64 on one thread.
    """
    lists = plan.lists(k)
    if lists is None:
        return scan_work(n, k)
    count = LISTS * math.sqrt(k)
    looked_at, filing = lists.probes * k / count, 2.0 * d * FILINGS * k * count
    return Work(scanned=n * count, listed=n * looked_at, read=n, between=filing, rounds=1)


def far_work(n: int, d: int, k: int, plan: Plan) -> Work:
    """A scan of all k centroids in the sketch of n points, or in all dimensions where there is none."""
    if not sketch.pays(d):
        return full_work(n, d, k, plan) + Work(updated=n)
    return Work(sketched=float(n) * k, read=n * sketch.SIZE / d, updated=n, rounds=2)


def neighbour_work(k: int, d: int) -> float:
    """Operations, in float64, of the candidates of k centroids: their groups, and neighbours in near ones."""
    width = sketch.SIZE if sketch.pays(d) else d
    return 2.0 * width * k * (GROUPING * k / GROUP + LISTING * min(k, NEIGHBOURHOOD))


def _start(n: int, d: int, k: int, plan: Plan) -> Work:
    drawn = candidates_per_step(k)
    if plan.init == "k-means++":  # each step reads all rows for its few candidates
        return Work(scanned=float(n) * k * drawn, read=float(n) * k, updated=float(n) * k, rounds=2 * k)
    if plan.algorithm != "lloyd" and is_small(n, d, k):
        return Work(scanned=float(n) * k * drawn, read=float(n) * k, rounds=k)
    sizes = _batch_sizes(k)
    totals = itertools.accumulate(sizes)
    judges = FEW_JUDGES if plan.intermediate else JUDGES
    pairs = [OVERDRAW * size * min(n, judges * total) for size, total in zip(sizes, totals, strict=True)]
    judged = float(sum(pairs[1:]))  # nobody judges the first
    rounds = Work(rounds=5 * len(sizes))
    sparse = n < SPARSE * k and not plan.intermediate
    if plan.algorithm == "lloyd" or k <= FEW or not sketch.pays(d) or sparse:
        return rounds + Work(scanned=float(n) * k + judged, read=len(sizes) * n, updated=n)
    # the seeds attract points, and most often their means once more
    return rounds + far_work(n, d, k, plan) * (1 if plan.intermediate else 2) + Work(sketched=judged)


def _batch_sizes(k: int) -> list[int]:
    sizes = [min(k, FIRST)]
    while (found := sum(sizes)) < k:
        sizes.append(min(k - found, found))
    return sizes


def prepared_work(n: int) -> Work:
    """What is done with n points once, before the first fit."""
    return Work(updated=PREPARED * n)


def level_work(recipe: Recipe, level: int, n: int, d: int) -> Work:
    """A level of a tree: its fit, its resampling steps, the assignment of its n inputs, and its division."""
    leaves, points = recipe.split_of(level), recipe.points_of(level, n)
    k = min(recipe.n_clusters[level - 1] // leaves, n)
    work = full_work(n, d, k, recipe.plan)
    if recipe.plan.lists(k) is not None:
        work += scan_work(min(n, recall.SAMPLE), k)
    if leaves > 1:
        work += division_work(n, k, leaves, recipe.plan)
    if not points:
        return work + fit_work(n, d, k, recipe.plan)
    taken = min(n, points * k)
    work += fit_work(n, d, k, recipe.intermediate)
    work += _reassignment(n, d, k, recipe.plan) * recipe.resample_steps
    work += fit_work(taken, d, k, recipe.intermediate) * (recipe.resample_steps - 1)
    return work + fit_work(taken, d, k, recipe.plan)


def division_work(n: int, k: int, leaves: int, plan: Plan) -> Work:
    """The division of k coarse clusters of n points into so many leaves each, by Lloyd's algorithm.

    A point looks at the leaves of its own cluster alone: at each of them once while they are drawn, which
    reads all rows in every batch.
    """
    times = min(SPLIT_ITERATIONS, plan.max_iter) if plan.tol > 0 else plan.max_iter
    look = Work(restricted=float(n) * leaves, blocks=k, read=n, rounds=1)
    batch = Work(blocks=k, read=n, updated=n, thinned=k, rounds=3)
    drawn = batch * min(splitting.BATCHES, leaves) + Work(restricted=float(n) * leaves)
    mean = Work(updated=n, rounds=1)
    return drawn + mean + (look + mean) * times + look


def _reassignment(n: int, d: int, k: int, plan: Plan) -> Work:
    """All inputs find their cluster after a resampling step, and its closest points are chosen."""
    chosen = Work(updated=n, rounds=2)
    if plan.algorithm == "lloyd" or k <= FEW or not sketch.pays(d):
        return scan_work(n, k) + chosen
    looks = k / GROUP + LOOKS * CANDIDATES
    found = Work(sketched=n * looks, read=n * sketch.SIZE * LOOKS / d, updated=n, rounds=2)
    return (
        found
        + Work(restricted=float(n) * CANDIDATES, blocks=k / GROUP, between=neighbour_work(k, d))
        + chosen
    )


def tree_work(recipe: Recipe, n: int, d: int) -> list[Work]:
    """The levels of a tree over n points (n, d), from the leaves up."""
    inputs = [n, *recipe.n_clusters]
    levels = range(1, len(recipe.n_clusters) + 1)
    return [level_work(recipe, i, inputs[i - 1], d) + prepared_work(inputs[i - 1]) for i in levels]


def seconds(work: Work, d: int, rates: Rates, crew: Crew) -> float:
    """Time of some work on points of d dimensions, for a crew on the machine of these rates.

    Every shard meets every group, so the cost of a group grows with the shards that share the points.
    """
    share = crew.shards * crew.threads / rates.threads
    points = (
        work.scanned * rates.pair
        + work.sketched * rates.sketch
        + (work.restricted + LISTED * work.listed) * rates.near
        + UPDATES * work.updated * 4 * d / rates.update
    )
    together = crew.uneven * points + work.blocks * crew.shards * rates.block
    choices = work.thinned * THINNING / crew.shards
    return together / share + choices + work.between / rates.double + work.rounds * crew.round


def tree_seconds(recipe: Recipe, n: int, d: int, rates: Rates, crew: Crew) -> list[float]:
    """Time of each level; one worker of the crew takes an upper level alone where it is small."""
    inputs = [n, *recipe.n_clusters]
    alone = Crew(1, crew.threads)  # conducts itself
    return [
        seconds(work, d, rates, crew if level == 0 or inputs[level] > ALONE else alone)
        for level, work in enumerate(tree_work(recipe, n, d))
    ]
