"""Prints a digest of a fit with the BLAS that the environment gives: run by test_threads."""

import hashlib
import sys

from curation import HierarchicalKMeans, balanced_sample
from tests.curation.pools import halfway

if __name__ == "__main__":
    n, leaves = int(sys.argv[1]), int(sys.argv[2])
    points = halfway(n, 64, leaves * 6 // 5)
    fit = HierarchicalKMeans([leaves, leaves // 10], max_iter=2).fit(points)
    digest = hashlib.blake2b(fit.labels_.tobytes())
    for level in fit.tree_.levels:
        digest.update(level.centroids.tobytes())
    digest.update(balanced_sample(fit.tree_, n // 10).tobytes())
    print(digest.hexdigest())
