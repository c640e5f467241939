"""The compiled loops against plain NumPy, bit for bit."""

import numpy as np
import pytest

from curation import exact
from curation.assign import Assigner, Centroids
from curation.kernels import native, settling
from tests.curation.kernels.twins import hard_pool, on_grid, random_candidates, two_nearest


def nearest(rows, centroids, candidates=None, groups=None, **how):
    norms = np.sqrt(exact.squared_norms(rows))
    return Assigner(**how).nearest(
        rows, norms, Centroids(centroids), candidates=candidates, groups=groups, seconds=True
    )


def assert_two_nearest(rows, centroids, candidates=None, groups=None, **how):
    found = nearest(rows, centroids, candidates, groups, **how)
    first, second = two_nearest(rows, centroids, candidates, groups)
    assert np.array_equal(found.labels, first)
    assert np.array_equal(found.seconds, second)


@pytest.mark.parametrize(
    ("n", "k", "d"), [(2000, 400, 64), (300, 2, 5), (50, 1, 3), (1, 7, 1), (400, 90, 700)]
)
@pytest.mark.parametrize("how", [{}, {"tile": 1}, {"tile": 33, "threads": 2}, {"matmul": "torch"}])
def test_both_nearest_are_exact(n, k, d, how):
    assert_two_nearest(*hard_pool(n, k, d), **how)


@pytest.mark.parametrize(("n", "k", "d"), [(300, 600, 8), (300, 1024, 32), (300, 1300, 32)])
@pytest.mark.parametrize("how", [{}, {"tile": 33, "threads": 2}])
def test_both_nearest_are_exact_where_they_are_looked_for_in_several_runs(n, k, d, how):
    """The best may lie in one run of centroids and the second in another, or both in one."""
    rows, centroids = hard_pool(n, k, d)
    runs = [nearest // settling._RUN for nearest in two_nearest(rows, centroids)]
    apart = runs[0] != runs[1]
    assert apart.any()
    assert not apart.all()
    assert_two_nearest(rows, centroids, **how)


@pytest.mark.parametrize("how", [{}, {"tile": 1}, {"tile": 33, "threads": 2}, {"matmul": "torch"}])
def test_both_nearest_of_the_candidates_are_exact(how):
    rows, centroids = hard_pool(2000, 120, 48)
    candidates = random_candidates(120, 9)
    groups = np.random.default_rng(0).integers(-1, 9, 2000).astype(np.int32)
    assert (groups == 0).any()  # the group of a single candidate, whose rows have no second
    assert_two_nearest(rows, centroids, candidates, groups, **how)


def test_a_third_within_the_margin_of_the_second_is_looked_at():
    """Rows beside one centroid; of three others equally far away but for a grid step, all orders occur."""
    generator = np.random.default_rng(0)
    rows = on_grid(exact.normalize_rows(generator.standard_normal((300, 96))))
    for _ in range(20):
        far = generator.permutation(3)[:, None] * np.float32(2.0**-24) * (np.arange(96) == 5)
        shift = generator.standard_normal(96)
        others = exact.Grid(0).encode(exact.normalize_rows(shift[None])) + far.astype(np.float32)
        assert_two_nearest(rows, np.concatenate([rows[:1], others]))


def test_equal_centroids_go_by_index():
    rows = on_grid(np.random.default_rng(0).standard_normal((50, 8)))
    centroids = np.repeat(rows[:4], 3, axis=0)
    found = nearest(rows, centroids)
    assert (found.labels % 3 == 0).all()
    assert np.array_equal(found.seconds, found.labels + 1)


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("count", [1, 3, 500])
def test_a_counting_sort_is_a_stable_sort(count, frozen):
    labels = np.random.default_rng(count).integers(0, count, 300).astype(np.int32)
    labels.setflags(write=not frozen)
    index, edges = native.sort_by_label(labels, count)
    assert np.array_equal(index, np.argsort(labels, kind="stable"))
    assert np.array_equal(edges, np.searchsorted(np.sort(labels), np.arange(count + 1)))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("weighted", [False, True])
def test_sums_are_those_of_python_integers(weighted, threads):
    generator = np.random.default_rng(0)
    rows = on_grid(generator.standard_normal((700, 5)))
    labels = generator.choice([0, 1, 3, 6], 700).astype(np.int32)  # clusters 2, 4, 5 and 7 are empty
    weights = generator.integers(0, 2**26, 700) if weighted else None
    sums, counts = exact.cluster_sums(rows, labels, 8, weights, threads)
    steps = (rows.astype(np.float64) * 2**24).astype(np.int64).astype(object)
    plain = np.ones(700, object) if weights is None else weights.astype(object)
    for cluster in range(8):
        mine = labels == cluster
        assert counts[cluster] == plain[mine].sum()
        assert np.array_equal(sums[cluster], (steps[mine] * plain[mine, None]).sum(0) + np.zeros(5, object))


def test_sums_do_not_hang_on_threads_or_runs(monkeypatch):
    generator = np.random.default_rng(1)
    rows = on_grid(generator.standard_normal((3000, 4)))
    labels = generator.integers(0, 40, 3000).astype(np.int32)
    whole = exact.cluster_sums(rows, labels, 40)
    for run, threads in ((1, 1), (7, 2), (999, 3)):
        monkeypatch.setattr(exact, "_RUN", run)
        again = exact.cluster_sums(rows, labels, 40, None, threads)
        assert all(np.array_equal(left, right) for left, right in zip(whole, again, strict=True))


def test_distances_of_pairs():
    generator = np.random.default_rng(2)
    rows, others = on_grid(generator.standard_normal((60, 17))), on_grid(generator.standard_normal((9, 17)))
    index = generator.integers(0, 60, 200)
    other = generator.integers(-1, 9, 200).astype(np.int32)
    out = np.empty(200)
    native.pair_distances(rows, index, others, other, out)
    twin = ((rows[index].astype(np.float64) - others[other]) ** 2).sum(1)
    assert np.array_equal(out, np.where(other < 0, np.inf, twin))


def test_sides_send_ties_to_the_first():
    generator = np.random.default_rng(3)
    rows = on_grid(generator.integers(-2, 3, (300, 2)).astype(np.float64))  # of few values: many ties
    first, second = rows[:6], rows[6:12]
    index, pair = generator.permutation(300)[:250], generator.integers(0, 6, 250).astype(np.int32)
    out = np.empty(250, np.int32)
    native.sides(rows, index, pair, first, second, out)
    near, far = (((rows[index] - side[pair]).astype(np.float64) ** 2).sum(1) for side in (first, second))
    assert (near == far).any()
    assert np.array_equal(out, 2 * pair + (near > far))


@pytest.mark.parametrize("m", [1, 3, 20])
def test_the_smallest_are_found_and_the_first_of_equals(m):
    scores = np.random.default_rng(m).integers(0, 9, (12, 20)).astype(np.float64)
    twin = np.argsort(scores, axis=1, kind="stable")[:, :m]
    where = np.empty(m, np.int64)
    for row, expected in zip(scores, twin, strict=True):
        native.smallest(row, where)
        assert np.array_equal(where, expected)
    out = np.empty((12, m), np.int64)
    native.smallest_columns(scores, out)
    assert np.array_equal(out, np.sort(twin, axis=1))


def test_of_too_few_the_rest_is_nothing():
    where = np.empty(4, np.int64)
    native.smallest(np.array([2.0, 1.0]), where)
    assert list(where) == [1, 0, -1, -1]


def test_gather_copies_rows():
    rows = np.random.default_rng(4).standard_normal((20, 3)).astype(np.float32)
    index = np.array([5, 5, 19, 0])
    out = np.zeros((6, 3), np.float32)
    native.gather(rows, index, out)
    assert np.array_equal(out[:4], rows[index])
    assert not out[4:].any()
