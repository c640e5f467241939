"""A tree grown on Ray over points in any order, its comparison, and actors that are killed on the way."""

from functools import partial

import numpy as np
import ray

from curation import balanced_sample
from curation.chance import keys_of
from curation.hierarchy import grow
from curation.inputs import grid_rows
from curation.rows import store_smallest
from curation.shards import RayWorkers
from curation.tree import Leaves, Level, Tree


class Rows:
    """Reads some rows of an array in the object store."""

    def __init__(self, rows, keys, index):
        self.refs, self.index = [rows, keys], index

    def __call__(self):
        rows, keys = ray.get(self.refs)
        return rows[self.index], keys[self.index]


class FiledRows(Rows):
    """Reads the rows, and keeps them in a file."""

    def __init__(self, rows, keys, index, folder):
        super().__init__(rows, keys, index)
        self.folder = folder

    def __call__(self):
        rows, keys = super().__call__()
        read = partial(np.array_split, rows, 5)
        return store_smallest(read, self.folder, rows.shape, 4 * rows.shape[1] * 300), keys


def grow_on_ray(
    points,
    recipe,
    shards,
    *,
    slices=1,
    order=None,
    assigner=None,
    alone=10**6,
    killer=None,
    folder=None,
    checkpoint=None,
    reduce="store",
):
    """A tree as `HierarchicalKMeans` gives it, grown on Ray over points in any order."""
    rows, grid = grid_rows(points, recipe.distance)
    keys = keys_of(str(i) for i in range(len(points)))
    order = np.arange(len(points)) if order is None else order
    shares = np.array_split(order, shards)
    refs = ray.put(rows), ray.put(keys)
    readers = [Rows(*refs, share) for share in shares]
    if folder is not None:
        readers = [FiledRows(*refs, share, folder / str(i)) for i, share in enumerate(shares)]
    workers = RayWorkers(readers, slices, assigner, alone, reduce=reduce)
    if killer is not None:
        workers.monitor = lambda *news: killer(workers, *news)
    told = []

    def keep(leaves):
        saved = workers.points("save", lambda *both: both, leaves.renumbered, *leaves.slices, own=leaves.own)
        told.extend(workers.get(saved))

    try:
        grown = grow(workers, recipe, keep, checkpoint)
        levels = [
            Level(level.sizes, level.parents, grid.decode(np.concatenate(ray.get(level.slices))))
            for level in grown
        ]
    finally:
        workers.close()
    clusters, distances = (np.concatenate(column)[np.argsort(order)] for column in zip(*told, strict=True))
    scaled = grid.decode_squared(distances).astype(np.float32)
    return Tree(levels, (), Leaves(np.arange(len(points)), keys, clusters, scaled))


def assert_equal(tree, twin, size):
    for level, other in zip(tree.levels, twin.levels, strict=True):
        assert np.array_equal(level.sizes, other.sizes)
        assert np.array_equal(level.centroids, other.centroids)
    assert np.array_equal(tree.leaves.clusters, twin.leaves.clusters)
    assert np.array_equal(tree.leaves.distances, twin.leaves.distances)
    assert np.array_equal(balanced_sample(tree, size), balanced_sample(twin, size))


def killing(*moments):
    """Kills actors as a fit goes on: (which actors, phase, how far) each once."""
    left = set(range(len(moments)))

    def killer(workers, phase, done, _):
        for i, (which, when, at) in enumerate(moments):
            if i in left and phase == when and done >= at:
                left.discard(i)
                for actor in which(workers):
                    ray.kill(actor, no_restart=False)

    killer.left = left
    return killer


def in_a_view(killer):
    """The same from the first resampling step of level 1 on."""
    seen = set()

    def watch(workers, phase, *news):
        if "level 1, step 1" in seen:
            killer(workers, phase, *news)
        seen.add(phase)

    return watch
