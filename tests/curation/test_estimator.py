"""Both estimators are scikit-learn's: its checks, its verbs, weights, and arrays of every kind."""

import warnings

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from curation import CurationError, HierarchicalKMeans, KMeans
from curation.inputs import point_weights
from tests.curation.pools import blobs

UNEQUAL = "a point of weight 2 is one point to the hashed draws of the seeds, a repeated one is two"
ESTIMATORS = [
    KMeans(3),
    KMeans(3, algorithm="lloyd", init="k-means++"),
    KMeans(3, distance="cosine"),
    HierarchicalKMeans([4, 2], resample_steps=1),
]


def expected_to_fail(estimator):
    names = ["dense", "sparse"]  # as for scikit-learn's own KMeans
    reasons = {f"check_sample_weight_equivalence_on_{name}_data": UNEQUAL for name in names}
    if estimator.distance == "cosine":
        reasons["check_estimators_dtypes"] = "its points hold a row of zeros, which has no direction"
    return reasons


@parametrize_with_checks(ESTIMATORS, expected_failed_checks=expected_to_fail)
def test_scikit_learn_checks(estimator, check):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check(estimator)


def test_every_verb_says_the_same():
    points = blobs(400, 5, 20)
    fit = KMeans(12).fit(points)
    assert np.array_equal(KMeans(12).fit_predict(points), fit.labels_)
    distances = np.linalg.norm(points[:, None].astype(np.float64) - fit.cluster_centers_, axis=2)
    np.testing.assert_allclose(fit.transform(points), distances, rtol=1e-5, atol=1e-6)
    assert np.array_equal(KMeans(12).fit_transform(points), fit.transform(points))
    assert np.array_equal(fit.transform(points).argmin(1), fit.predict(points))
    assert -fit.score(points) == pytest.approx(fit.inertia_, rel=1e-12)
    weights = np.arange(400.0)
    np.testing.assert_allclose(-fit.score(points, sample_weight=weights), weights @ distances.min(1) ** 2)
    assert list(fit.get_feature_names_out()) == [f"kmeans{i}" for i in range(12)]
    assert clone(fit).get_params() == fit.get_params()


def test_a_hierarchy_is_asked_about_its_leaves():
    points = blobs(400, 5, 20)
    fit = HierarchicalKMeans([12, 3], resample_steps=2).fit(points)
    assert np.array_equal(fit.cluster_centers_, fit.tree_.levels[0].centroids)
    assert np.array_equal(fit.predict(points), fit.labels_)
    assert np.array_equal(fit.transform(points).argmin(1), fit.labels_)
    assert -fit.score(points) == pytest.approx(fit.inertia_, rel=1e-12)
    assert fit.n_iter_ == KMeans(12).fit(points).n_iter_
    again = clone(fit).set_params(random_state=None)
    assert np.array_equal(again.fit_predict(points), fit.labels_)
    assert np.array_equal(HierarchicalKMeans(12).fit(points).labels_, KMeans(12).fit(points).labels_)


def test_set_output_and_pipelines():
    pytest.importorskip("pandas")
    points = blobs(200, 3, 9)
    frame = KMeans(4).set_output(transform="pandas").fit_transform(points)
    assert list(frame.columns) == ["kmeans0", "kmeans1", "kmeans2", "kmeans3"]
    assert make_pipeline(StandardScaler(), KMeans(4)).fit(points).predict(points).shape == (200,)


@pytest.mark.parametrize("algorithm", ["auto", "lloyd"])
def test_every_layout_gives_the_same(algorithm):
    points = blobs(600, 6, 30)
    twin = KMeans(25, algorithm=algorithm).fit(points)
    frozen = points.copy()
    frozen.setflags(write=False)  # as Ray hands arrays out
    wide = np.zeros((1200, 9), np.float32)
    wide[::2, 1:7] = points
    swapped = points.astype(">f4")
    for same in (
        points.astype(np.float64),
        np.asfortranarray(points),
        frozen,
        wide[::2, 1:7],
        swapped,
        points.tolist(),
    ):
        fit = KMeans(25, algorithm=algorithm).fit(same)
        assert np.array_equal(fit.cluster_centers_, twin.cluster_centers_)
        assert np.array_equal(fit.labels_, twin.labels_)
        assert np.array_equal(fit.predict(same), twin.labels_)


# --- weights ------------------------------------------------------------------------------------


def test_whole_numbered_weights_are_repeated_points():
    """From the same centroids: one Lloyd iteration with weights, and one over the points repeated."""
    generator = np.random.default_rng(0)
    points = np.unique(blobs(500, 4, 20), axis=0)
    weights = generator.integers(1, 5, len(points))
    fit = KMeans(15, algorithm="lloyd", tol=0.0, max_iter=100).fit(points, sample_weight=weights)
    repeated = np.repeat(points, weights, axis=0)
    labels = fit.predict(repeated)
    assert np.array_equal(labels, np.repeat(fit.labels_, weights))
    means = np.stack([repeated[labels == i].astype(np.float64).mean(0) for i in range(15)])
    np.testing.assert_allclose(fit.cluster_centers_, means, atol=1e-6)
    assert fit.inertia_ == pytest.approx(-fit.score(repeated), rel=1e-9)


@pytest.mark.parametrize("algorithm", ["auto", "lloyd"])
@pytest.mark.parametrize("init", ["auto", "k-means++"])
@pytest.mark.parametrize("n_clusters", [12, 250])
def test_points_of_no_weight_neither_attract_nor_count(algorithm, init, n_clusters):
    points = blobs(600, 4, 30)
    points[300:] += 5  # where nothing else is
    points[-1] = points[0]
    weights = np.where(np.arange(600) < 300, np.random.default_rng(0).integers(1, 4, 600), 0)
    ids = [str(i) for i in range(600)]
    model = KMeans(n_clusters, algorithm=algorithm, init=init)
    twin = clone(model).fit(points[:300], sample_weight=weights[:300], ids=ids[:300])
    fit = model.fit(points, sample_weight=weights, ids=ids)
    # the grid may be another, for it holds the points of no weight as well
    np.testing.assert_allclose(fit.cluster_centers_, twin.cluster_centers_, atol=1e-5)
    assert np.array_equal(fit.labels_[:300], twin.labels_)
    assert np.array_equal(fit.predict(points), fit.labels_)
    assert fit.inertia_ == pytest.approx(twin.inertia_, rel=1e-4)


def test_more_clusters_than_points_of_weight():
    points = blobs(50, 3, 9)
    weights = np.arange(50) < 4
    fit = KMeans(10).fit(points, sample_weight=weights)
    np.testing.assert_allclose(np.sort(fit.cluster_centers_, 0), np.sort(points[:4], 0), atol=2.0**-22)
    assert fit.inertia_ == pytest.approx(0, abs=1e-9)
    assert len(np.unique(fit.labels_[:4])) == 4


@pytest.mark.parametrize("scale", [2.0, 0.25, 1e-200, 1e200])
def test_a_common_factor_of_weights_only_scales_the_inertia(scale):
    points = blobs(300, 3, 9)
    weights = np.random.default_rng(1).integers(0, 9, 300).astype(np.float64)
    one = KMeans(7).fit(points, sample_weight=weights)
    other = KMeans(7).fit(points, sample_weight=weights * scale)
    np.testing.assert_allclose(other.cluster_centers_, one.cluster_centers_, atol=1e-5)
    assert other.inertia_ == pytest.approx(one.inertia_ * scale, rel=1e-6)
    equal = KMeans(7).fit(points, sample_weight=np.full(300, scale))
    assert equal.inertia_ == pytest.approx(KMeans(7).fit(points).inertia_ * scale, rel=1e-12)


def test_swaps_go_by_weights_that_are_no_whole_numbers():
    """These are scaled to a sum of 2^35: the loss of a whole blob far from the others has many bits.

    The seeds find the blobs. Where a blob seems cheap to dissolve, swaps break them up for many iterations.
    """
    generator = np.random.default_rng(0)
    points = np.repeat(0.95 * np.eye(4), 1000, axis=0)
    points += 0.005 * generator.standard_normal(points.shape)
    weights = generator.random(len(points))
    fit = KMeans(4).fit(points, sample_weight=weights)
    assert fit.n_iter_ <= 3
    assert sorted(np.bincount(fit.labels_)) == [1000] * 4
    plain = KMeans(4, algorithm="lloyd", init="k-means++").fit(points, sample_weight=weights)
    assert fit.inertia_ == pytest.approx(plain.inertia_)


def test_weights_become_whole_numbers_in_proportion():
    generator = np.random.default_rng(2)
    for weights in (generator.random(100), 10.0 ** generator.uniform(-3, 300, 100), np.r_[1e308, 1e308, 1]):
        whole = point_weights(weights, len(weights))
        assert 2**30 < whole.sum() <= 2**36
        np.testing.assert_allclose(whole / whole.sum(), weights / 4 / (weights / 4).sum(), atol=2.0**-33)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1, 2], r"shape \(2,\) for 3 points"),
        ([1, -1, 1], r"sample_weight\[1\] is -1"),
        ([1, 1, np.nan], r"sample_weight\[2\] is nan"),
        ([0, 0, 0], "every sample_weight is zero"),
    ],
)
def test_unfit_weights_are_refused(weights, message):
    with pytest.raises(CurationError, match=message):
        KMeans(1).fit(np.eye(3), sample_weight=weights)
    if any(weights):  # of a score weights may all be zero
        with pytest.raises(CurationError, match=message):
            KMeans(1).fit(np.eye(3)).score(np.eye(3), sample_weight=weights)
