"""Prints a digest of a fit with the BLAS threads that the environment gives: run by test_threads."""

import hashlib

from curation import HierarchicalKMeans, balanced_sample
from tests.curation.pools import blobs

if __name__ == "__main__":
    fit = HierarchicalKMeans([800, 100], max_iter=5).fit(blobs(30_000, 64, 900, spread=0.8))
    digest = hashlib.blake2b(fit.labels_.tobytes())
    for level in fit.tree_.levels:
        digest.update(level.centroids.tobytes())
    digest.update(balanced_sample(fit.tree_, 3000).tobytes())
    print(digest.hexdigest())
