"""Prints what a fit finds and how this machine computes, as the environment has it: run by test_threads.

    python -m tests.curation.threads POOL.npy LEAVES ROUTE[,ROUTE...] [rough]

A digest of a tree and of what is drawn from it, by the first route; "rough" leaves close calls to float32.
Then the parts that the fit had, the threads, and digests of what is not exact: products by each route, a
compiled loop, and a sort that is not stable.
"""

import hashlib
import sys

import numpy as np

from curation import HierarchicalKMeans, balanced_sample
from curation.assign import Assigner
from curation.kernels import cpu, native
from curation.kernels.threads import allowed
from curation.workers import LocalWorkers


def tree(points, leaves, assigner):
    """With iterations enough for candidates, looks at the sketch, and swaps."""
    fit = HierarchicalKMeans([leaves, leaves // 10], max_iter=12, assigner=assigner).fit(points)
    centroids = [level.centroids for level in fit.tree_.levels]
    return fit.labels_, *centroids, balanced_sample(fit.tree_, len(points) // 10)


def recorded(call, place, names):
    """A method that notes down one of its arguments."""

    def noted(workers, *args, **how):
        names.add(args[place])
        return call(workers, *args, **how)

    return noted


def machine(routes):
    """What depends on the instructions."""
    rows = np.random.default_rng(0).standard_normal((512, 160)).astype(np.float32)
    for route in routes:
        yield route, cpu.ROUTES[route](rows, rows.T, np.empty((512, 512), np.float32))
    distances, every = np.empty(512), np.arange(512)
    native.pair_distances(rows, every, rows[::-1].copy(), every.astype(np.int32), distances)
    yield "loop", distances
    yield "sort", np.argsort(every % 7)


def digest(*arrays):
    """Of their bytes."""
    found = hashlib.blake2b(digest_size=16)
    for array in arrays:
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


if __name__ == "__main__":
    pool, leaves, names, *rough = sys.argv[1:]
    routes = names.split(",")
    parts = set()
    LocalWorkers.points = recorded(LocalWorkers.points, 0, parts)
    LocalWorkers.slice = recorded(LocalWorkers.slice, 1, parts)
    assigner = Assigner(routes[0], recheck=not rough)
    print("tree", digest(*tree(np.load(pool), int(leaves), assigner)))
    print("parts", ",".join(sorted(parts)))
    print("threads", allowed())
    for name, array in machine(routes):
        print(name, digest(array))
