"""Sizes at the edges, points without differences, and what is refused; for both algorithms."""

import itertools
import pickle

import numpy as np
import pandas as pd
import pytest

from curation import CurationError, HierarchicalKMeans, KMeans, balanced_sample
from tests.curation.fits import fitted
from tests.curation.kernels.twins import on_grid
from tests.curation.pools import blobs

ALGORITHMS = [("auto", "auto"), ("auto", "k-means++"), ("lloyd", "auto"), ("lloyd", "k-means++")]


@pytest.fixture(params=ALGORITHMS, ids="-".join)
def how(request):
    algorithm, init = request.param
    return {"algorithm": algorithm, "init": init}


def assert_sound(fit, points, n_clusters):
    """Every cluster has points, each of which is nearest to its own centroid, the first of equals."""
    assert len(fit.cluster_centers_) == n_clusters
    assert np.bincount(fit.labels_, minlength=n_clusters).min() > 0
    for i in range(0, len(points), 500):
        rows = fit._grid.encode(points[i : i + 500]).astype(np.float64)
        wide = fit._centroids.astype(np.float64)
        scores = (wide**2).sum(1) - 2 * rows @ wide.T
        assert np.array_equal(scores.argmin(1), fit.labels_[i : i + 500])


@pytest.mark.parametrize("d", [1, 2, 160, 4096])
def test_one_cluster_is_the_mean(d, how):
    points = np.random.default_rng(0).standard_normal((40, d)).astype(np.float32)
    fit = KMeans(1, **how).fit(points)
    assert_sound(fit, points, 1)
    np.testing.assert_allclose(fit.cluster_centers_[0], points.mean(0, dtype=np.float64), atol=1e-4)
    assert fit.inertia_ == pytest.approx(((points - points.mean(0, dtype=np.float64)) ** 2).sum(), rel=1e-4)


@pytest.mark.parametrize(("n", "d"), [(30, 1), (30, 3), (30, 4096), (700, 2), (700, 160)])
def test_as_many_clusters_as_points(n, d, how):
    points = np.random.default_rng(1).standard_normal((n, d)).astype(np.float32)
    fit = KMeans(n, **how).fit(points)
    assert_sound(fit, points, n)
    assert fit.inertia_ == 0


@pytest.mark.parametrize("point", [np.zeros((1, 1)), np.ones((1, 3)), np.full((1, 200), -7.5)])
def test_a_single_point(point, how):
    fit = KMeans(1, **how).fit(point)
    assert np.array_equal(fit.cluster_centers_, point)
    assert list(fit.labels_) == [0]
    assert fit.inertia_ == 0


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
def test_a_tree_of_a_single_point(distance, how):
    tree = HierarchicalKMeans([1], distance=distance, **how).fit([[0.0, -1.0, 0.0]]).tree_
    assert [(len(level), list(level.sizes)) for level in tree.levels] == [(1, [1])]
    assert np.array_equal(tree.levels[0].centroids, [[0, -1, 0]])
    assert list(tree.leaves.clusters) == list(tree.leaves.distances) == [0]
    assert list(balanced_sample(tree, 1)) == [0]


@pytest.mark.parametrize("d", [1, 3000])
def test_more_points_than_clusters_in_one_dimension_and_in_thousands(d, how):
    points = np.random.default_rng(2).standard_normal((300, d)).astype(np.float32)
    assert_sound(KMeans(20, **how).fit(points), points, 20)


@pytest.mark.parametrize(("n_clusters", "d"), [(5, 3), (600, 3), (600, 160)])
@pytest.mark.parametrize("value", [0.0, 1.0, -0.3])
def test_equal_points_are_one_cluster(n_clusters, d, value, how):
    points = np.full((900, d), value, np.float32)
    fit = KMeans(n_clusters, **how).fit(points)
    assert_sound(fit, points, 1)
    assert fit.inertia_ == 0


@pytest.mark.parametrize(("n_clusters", "d"), [(3, 2), (40, 2), (600, 160)])
def test_a_grid_step_apart_is_apart(n_clusters, d, how):
    points = np.full((900, d), 0.05, np.float32)
    points[300:, 0] += 2.0**-24
    points[600:] = -0.05
    points[600:, 1] = 0.5  # the longest, so that a step of the grid is 2^-24
    fit = KMeans(n_clusters, **how).fit(points)
    assert_sound(fit, points, 3)
    assert list(np.bincount(fit.labels_)) == [300] * 3
    assert fit.inertia_ == 0


@pytest.mark.parametrize("d", [3, 160])
def test_duplicates_by_the_thousand(d, how):
    """More clusters than distinct points: one each; a duplicate goes where its twins go."""
    distinct = blobs(20, d, 20)
    points = np.repeat(distinct, [3000, *[50] * 19], axis=0)
    fit = KMeans(600, **how).fit(points)
    assert_sound(fit, points, 20)
    assert fit.inertia_ == 0
    fewer = KMeans(7, **how).fit(points)
    assert_sound(fewer, points, 7)
    edges = np.cumsum([0, 3000, *[50] * 19])
    assert all(len(np.unique(fewer.labels_[a:b])) == 1 for a, b in itertools.pairwise(edges))


def test_points_that_the_sketch_does_not_tell_apart_are_told_apart():
    generator = np.random.default_rng(3)
    rows = on_grid(generator.standard_normal((700, 160)))
    rows[1::2] = rows[::2]
    rows[1::2, 0] += np.float32(2.0**-24)  # which no direction of the sketch sees
    asked = {}
    fit = fitted(np.repeat(rows, 3, axis=0), 700, asked=asked)
    assert asked["directions"] == 1
    assert len(fit.centroids) == len(np.unique(rows, axis=0)) == 700
    assert fit.inertia == 0


def test_ties_go_to_the_cluster_of_the_lower_number(how):
    points = np.array([[-1.0], [1.0]] * 50 + [[0.0]])
    fit = KMeans(2, max_iter=1, **how).fit(points[:100])
    assert sorted(fit.cluster_centers_[:, 0]) == [-1, 1]
    assert list(fit.predict([[0.0]])) == [0]


def test_what_is_half_precision_without_end_is_refused(how):
    points = np.ones((10, 3))
    points[4, 1] = 70_000  # beyond float16
    with np.errstate(over="ignore"):
        rows = points.astype(np.float16)
    with pytest.raises(CurationError, match="row 4 holds NaN or an infinity"):
        KMeans(2, **how).fit(rows)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_what_is_not_finite_is_refused(bad, dtype, how):
    points = np.ones((9, 3), dtype)
    points[7, 2] = bad
    with pytest.raises(CurationError, match="row 7 holds NaN or an infinity"):
        KMeans(2, **how).fit(points)
    with pytest.raises(CurationError, match="row 7 holds NaN or an infinity"):
        HierarchicalKMeans([3, 2], **how).fit(points)


def test_a_row_that_is_refused_is_named_by_its_id(how):
    points, ids = np.ones((10, 3)), [f"{i}.png" for i in range(10)]
    points[7, 2] = np.nan
    for fit in (KMeans(2, **how), HierarchicalKMeans([3, 2], **how)):
        with pytest.raises(CurationError, match=r"row 7, '7\.png', holds NaN or an infinity; drop it"):
            fit.fit(points, ids=ids)
    with pytest.raises(CurationError, match=r"row 7, '7\.png', is all zero"):
        KMeans(2, distance="cosine").fit(np.arange(10)[:, None] != [[7]], ids=ids)
    shuffled = pd.Series(ids, index=range(10, 0, -1))  # of which shuffled[7] is another's
    with pytest.raises(CurationError, match=r"row 7, '7\.png', holds"):
        KMeans(2, **how).fit(points, ids=shuffled)
    with pytest.raises(CurationError, match=r"^row 7 holds") as refusal:
        KMeans(2, **how).fit(points)
    assert str(pickle.loads(pickle.dumps(refusal.value))) == str(refusal.value)


def test_clusters_of_equal_size_and_distance(how):
    points = np.repeat(np.eye(12, dtype=np.float32), 10, axis=0)
    fit = KMeans(12, **how).fit(points)
    assert_sound(fit, points, 12)
    assert list(np.bincount(fit.labels_)) == [10] * 12
    tree = (
        HierarchicalKMeans([12, 6, 3], resample_steps=2, resample_points=[3, 2, 2], **how).fit(points).tree_
    )
    assert list(tree.levels[0].sizes) == [10] * 12
    assert [len(level) for level in tree.levels] == [12, 6, 3]


def test_no_empty_cluster_reaches_the_next_level(how):
    points = np.repeat(blobs(40, 3, 40), [1000, *[3] * 39], axis=0)
    tree = (
        HierarchicalKMeans([60, 30, 10], resample_steps=2, resample_points=[4, 2, 2], **how).fit(points).tree_
    )
    assert all(level.sizes.min() > 0 for level in tree.levels)
    assert [level.sizes.sum() for level in tree.levels] == [len(points)] * 3
    assert len(tree.levels[0]) <= 40
    assert any("level 1: 60 clusters were asked for" in note for note in tree.notes)


def test_fewer_resampled_points_than_clusters(how):
    """Each cluster's points are all equal or one: the few that stand for them are fewer than clusters."""
    points = np.repeat(blobs(25, 2, 25), 40, axis=0)
    tree = HierarchicalKMeans([40], resample_steps=1, resample_points=[3], **how).fit(points).tree_
    assert list(tree.levels[0].sizes) == [40] * 25
    assert any("40 clusters were asked for but there are only 25 distinct" in note for note in tree.notes)
    assert any("resampled points at step 1" in note for note in tree.notes)


@pytest.mark.parametrize("algorithm", ["auto", "lloyd"])
def test_a_fit_repeats_itself(algorithm):
    """No state of chance anywhere: not in NumPy's generator, not in the estimator."""
    points = blobs(500, 6, 40)
    model = KMeans(30, algorithm=algorithm)
    first = model.fit(points).labels_
    np.random.default_rng().random()
    assert np.array_equal(model.fit(points).labels_, first)


@pytest.mark.parametrize("max_iter", [1, 2, 3, 4, 5, 7])
@pytest.mark.parametrize("n_clusters", [40, 600])
def test_few_iterations_are_a_fit_as_well(max_iter, n_clusters):
    points = blobs(1500, 160 if n_clusters > 512 else 5, 300)
    seen = []
    fit = KMeans(n_clusters, max_iter=max_iter, callback=lambda n, c: seen.append((n, c))).fit(points)
    assert [n for n, _ in seen] == list(range(1, fit.n_iter_ + 1))
    assert fit.n_iter_ <= max_iter
    last = seen[-1][1]
    assert np.array_equal(last[np.isin(last, fit.cluster_centers_).all(1)], fit.cluster_centers_)
    assert_sound(fit, points, len(fit.cluster_centers_))
