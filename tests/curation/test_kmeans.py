"""k-means: its invariants, its edge cases, and that nothing but data, config and seed matters."""

from fractions import Fraction

import numpy as np
import pytest
from sklearn.cluster import KMeans as Sklearn
from sklearn.exceptions import NotFittedError

from curation import CurationError, KMeans, exact
from curation.assign import Assigner
from curation.block import PointBlock
from curation.chance import keys_of
from curation.descent import Plan, View
from curation.fit import fit_centroids
from curation.points import EVERYTHING
from curation.workers import LocalWorkers
from tests.curation.pools import blobs


@pytest.mark.parametrize("algorithm", ["auto", "lloyd"])
def test_labels_and_inertia_are_those_of_the_centroids(algorithm):
    points = blobs(3000, 8, 60)
    fit = KMeans(50, algorithm=algorithm, max_iter=20).fit(points)
    distances = ((points[:, None].astype(np.float64) - fit.cluster_centers_.astype(np.float64)) ** 2).sum(2)
    assert np.array_equal(distances.argmin(1), fit.labels_)
    assert fit.inertia_ == pytest.approx(distances.min(1).sum(), rel=1e-6)
    assert np.array_equal(fit.predict(points), fit.labels_)
    assert len(np.unique(fit.labels_)) == len(fit.cluster_centers_) == 50


@pytest.mark.parametrize("algorithm", ["auto", "lloyd"])
def test_a_converged_fit_is_a_fixed_point(algorithm):
    points = blobs(2000, 4, 10)
    fit = KMeans(10, algorithm=algorithm, max_iter=300, tol=0.0).fit(points)
    assert fit.n_iter_ < 300
    means = np.stack([points[fit.labels_ == i].astype(np.float64).mean(0) for i in range(10)])
    np.testing.assert_allclose(fit.cluster_centers_, means, atol=1e-6)


def test_as_good_as_scikit_learn():
    points = blobs(4000, 16, 100)
    ours = np.mean([KMeans(80, random_state=s).fit(points).inertia_ for s in range(4)])
    theirs = np.mean(
        [Sklearn(80, n_init=1, max_iter=50, random_state=s).fit(points).inertia_ for s in range(4)]
    )
    assert ours <= 1.02 * theirs


def test_seeds_differ_by_random_state_and_repeat_with_it():
    points = blobs(1000, 4, 30)
    first, again, other, default = (
        KMeans(20, max_iter=1, random_state=s).fit(points) for s in (0, 0, 1, None)
    )
    assert np.array_equal(first.cluster_centers_, again.cluster_centers_)
    assert np.array_equal(first.cluster_centers_, default.cluster_centers_)
    assert not np.array_equal(first.cluster_centers_, other.cluster_centers_)


def test_input_is_not_changed():
    points = blobs(500, 4, 10)
    before = points.copy()
    KMeans(5).fit(points)
    assert np.array_equal(points, before)


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
def test_lloyd_does_not_hang_on_row_order_blocks_or_slices(distance):
    points = blobs(3000, 12, 100)
    ids = [str(i) for i in range(len(points))]
    how = {"algorithm": "lloyd", "init": "k-means++", "tol": 0.0, "distance": distance, "max_iter": 10}
    whole = KMeans(150, **how).fit(points, ids=ids)
    order = np.random.default_rng(0).permutation(len(points))
    shuffled = KMeans(150, **how).fit(points[order], ids=[ids[i] for i in order])
    assert np.array_equal(shuffled.cluster_centers_, whole.cluster_centers_)
    assert np.array_equal(shuffled.labels_, whole.labels_[order])
    rows = whole._grid.encode(exact.normalize_rows(points) if distance == "cosine" else points)
    keys = keys_of(ids)
    blocks = [PointBlock(rows[part], keys[part]) for part in np.array_split(order, 7)]
    workers = LocalWorkers(blocks, n_slices=4)
    fit = fit_centroids(View(workers, EVERYTHING, 3000, (0, 1, 0), None), 150, Plan(**how))
    assert np.array_equal(whole._grid.decode(np.concatenate(fit.slices)), whole.cluster_centers_)


@pytest.mark.parametrize("n_clusters", [1, 30])
@pytest.mark.parametrize("d", [1, 4096])
def test_extreme_shapes(n_clusters, d):
    points = np.random.default_rng(0).standard_normal((30, d)).astype(np.float32)
    fit = KMeans(n_clusters).fit(points)
    assert len(fit.cluster_centers_) == n_clusters
    assert fit.inertia_ == pytest.approx(
        0 if n_clusters == 30 else ((points - points.mean(0, dtype=np.float64)) ** 2).sum(),
        rel=1e-5,
        abs=1e-9,
    )


def test_cosine_centroids_have_unit_norm():
    fit = KMeans(10, distance="cosine").fit(blobs(500, 6, 20) * 37)
    np.testing.assert_allclose(np.linalg.norm(fit.cluster_centers_, axis=1), 1, atol=1e-6)


def test_half_precision_input():
    points = blobs(500, 6, 20).astype(np.float16)
    assert np.array_equal(KMeans(9).fit(points).labels_, KMeans(9).fit(points.astype(np.float32)).labels_)


def test_tolerance_stops_early():
    points = blobs(3000, 8, 60)
    for algorithm in ("auto", "lloyd"):
        strict, loose = (KMeans(50, algorithm=algorithm, tol=tol).fit(points) for tol in (0.0, 0.05))
        assert loose.n_iter_ < strict.n_iter_


@pytest.mark.parametrize(
    ("points", "n_clusters", "distance", "message"),
    [
        (np.ones((3, 2)), 4, "euclidean", "n_clusters is 4 for 3 points"),
        (np.ones((3, 2)), 0, "euclidean", "n_clusters is 0"),
        (np.array([[1.0], [np.nan]]), 1, "euclidean", "row 1 holds NaN"),
        (np.array([[1.0, 0.0], [0.0, 0.0]]), 1, "cosine", "row 1 is all zero"),
        (np.ones((3, 2)), 1, "manhattan", "no distance 'manhattan'; there are euclidean, cosine"),
    ],
)
def test_unfit_input_is_refused_with_a_sentence(points, n_clusters, distance, message):
    with pytest.raises(CurationError, match=message):
        KMeans(n_clusters, distance=distance).fit(points)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"algorithm": "elkan"}, "no algorithm 'elkan'; there are auto, lloyd"),
        ({"init": "random"}, "no init 'random'; there are auto, k-means[+][+]"),
        ({"max_iter": 0}, "max_iter is 0"),
        ({"max_iter": 2.5}, "max_iter is 2.5"),
        ({"tol": -1e-4}, "tol is -0.0001"),
        ({"tol": np.nan}, "tol is nan"),
        ({"n_clusters": 2.5}, "n_clusters is 2.5"),
        ({"random_state": "luck"}, "random_state is 'luck'"),
        ({"assigner": Assigner("cuda")}, "no matrix product 'cuda'; there are auto, numpy, torch"),
    ],
)
def test_unfit_parameters_are_refused_with_their_choices(options, message):
    with pytest.raises(CurationError, match=message):
        KMeans(**{"n_clusters": 2, **options}).fit(np.eye(3))


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (np.ones(3), "Expected 2D array"),
        (np.ones((0, 3)), r"0 sample\(s\)"),
        (np.eye(3) * 1j, "Complex data"),
    ],
)
def test_what_is_no_table_is_refused_as_scikit_learn_does(points, message):
    with pytest.raises(ValueError, match=message):
        KMeans(1).fit(points)


def test_rows_far_from_the_origin_are_refused_not_garbled():
    points = (100 + 1e-3 * np.random.default_rng(0).standard_normal((500, 64))).astype(np.float32)
    with pytest.raises(CurationError, match="subtract their mean"):
        KMeans(5).fit(points)
    assert len(KMeans(5).fit(points - points.mean(0)).cluster_centers_) == 5


ONE_AMONG_THOUSANDS = np.repeat([[1.0, 1, 1], [1.01, 1, 1]], [19_999, 1], axis=0)
A_STEP_APART = np.repeat([[0.0625, 0.0625], [0.0625 + 2.0**-24, 0.0625]], 5, axis=0)
HALVES = np.repeat([[0.5, 0.5], [0.5 + 2.0**-11, 0.5]], [3, 4000], axis=0).astype(np.float16)


@pytest.mark.parametrize(
    ("points", "distance"),
    [
        (ONE_AMONG_THOUSANDS, "euclidean"),
        (ONE_AMONG_THOUSANDS, "cosine"),
        (A_STEP_APART, "euclidean"),
        (HALVES, "euclidean"),
        (HALVES, "cosine"),
    ],
)
def test_points_that_the_grid_holds_are_not_refused_for_lying_close_together(points, distance):
    fit = KMeans(2, distance=distance).fit(points)
    assert sorted(np.bincount(fit.labels_)) == sorted(np.unique(points, axis=0, return_counts=True)[1])


def test_what_is_refused_is_told_what_helps():
    close = 1 + 1e-6 * np.random.default_rng(0).standard_normal((100, 8))
    for distance, instead in (("euclidean", True), ("cosine", False)):
        with pytest.raises(CurationError, match="subtract their mean first") as error:
            KMeans(3, distance=distance).fit(close)
        assert ("cluster with distance='cosine'" in str(error.value)) == instead


def test_outliers_that_hide_the_others_are_refused():
    points = blobs(500, 16, 20)
    points[0] *= 1e7
    with pytest.raises(CurationError, match="remove the outliers"):
        KMeans(20).fit(points)
    assert len(KMeans(20).fit(points[1:]).cluster_centers_) == 20


def test_predict_refuses_what_it_cannot_place():
    fit = KMeans(3).fit(blobs(50, 4, 5))
    with pytest.raises(ValueError, match="X has 5 features, but KMeans is expecting 4"):
        fit.predict(np.zeros((2, 5)))
    with pytest.raises(CurationError, match="too far to place"):
        fit.predict(np.full((1, 4), 1e30))
    with pytest.raises(CurationError, match="row 1 holds NaN"):
        fit.predict(np.array([[0.0] * 4, [np.nan] * 4]))


@pytest.mark.parametrize("scale", [3.0, 5.0, 1e3, 1e9, 1e17])
def test_rows_far_beyond_the_fitted_ones_go_where_they_lie(scale):
    """To the centroid of the largest x.c - |c|^2 / 2, in fractions; a tie to the lower number."""
    fit = KMeans(20).fit(blobs(200, 3, 20))
    exactly = np.vectorize(lambda value: Fraction(float(value)), otypes=[object])
    centroids = exactly(fit.cluster_centers_)
    rows = np.float32(scale) * np.random.default_rng(0).standard_normal((40, 3)).astype(np.float32)
    for row, label in zip(rows, fit.predict(rows), strict=True):
        assert label == np.argmin(((centroids - 2 * exactly(row)) * centroids).sum(axis=1))
    two = KMeans(2).fit([[1.0, 0], [-1.0, 0]])
    right = int(two.cluster_centers_[1, 0] > 0)
    assert list(two.predict([[scale, 0], [-scale, 0], [0, scale]])) == [right, 1 - right, 0]


def test_cosine_places_no_row_without_a_direction():
    fit = KMeans(2, distance="cosine").fit(np.eye(3))
    for ask in (fit.predict, fit.transform, fit.score):
        with pytest.raises(CurationError, match="row 1 is all zero and has no direction"):
            ask(np.array([[0, 1, 0], [0, 0, 0]]))


@pytest.mark.parametrize(
    ("options", "how"),
    [({"n_clusters": 10**6}, CurationError), ({"callback": sorted}, TypeError)],
)
def test_a_fit_that_fails_leaves_the_last_one_as_it_was(options, how):
    points = blobs(300, 4, 5)
    fit = KMeans(5).fit(points)
    labels, distances = fit.predict(points), fit.transform(points)
    with pytest.raises(how):
        fit.set_params(**options).fit(1000 * points)
    assert np.array_equal(fit.predict(points), labels)
    assert np.array_equal(fit.transform(points), distances)


def test_a_first_fit_that_fails_is_no_fit():
    model = KMeans(9)
    with pytest.raises(CurationError):
        model.fit(np.eye(3))
    with pytest.raises(NotFittedError):
        model.predict(np.eye(3))


def test_equal_ids_are_refused():
    with pytest.raises(CurationError, match="'a' names two"):
        KMeans(1).fit(np.eye(3), ids=["a", "b", "a"])
    with pytest.raises(CurationError, match="2 ids for 3"):
        KMeans(1).fit(np.eye(3), ids=["a", "b"])
