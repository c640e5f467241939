"""Sums and distances on the grid have no rounding, in any order."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from curation import exact
from curation.errors import CurationError

rows_strategy = npst.arrays(
    np.float32,
    st.tuples(st.integers(1, 12), st.integers(1, 5)),
    elements=st.floats(-1000, 1000, width=32).filter(lambda x: x == 0 or abs(x) > 1e-9),
)


@given(rows_strategy)
def test_grid_bounds_every_row_and_is_the_smallest(rows):
    e = exact.grid_exponent(rows)
    norms = np.sqrt((rows.astype(np.longdouble) ** 2).sum(1))
    assert norms.max() <= 2.0**e * 65 / 64
    if not rows.any():
        return
    tight = norms.max() > 2.0 ** (e - 1) * 65 / 64 * (1 - 1e-4)
    assert tight or np.abs(rows).max() > 2.0 ** (e - 1)


@given(rows_strategy, st.randoms(use_true_random=False))
def test_grid_does_not_depend_on_how_rows_are_spread(rows, random):
    order = list(range(len(rows)))
    random.shuffle(order)
    cut = random.randint(0, len(rows))
    parts = [rows[order[:cut]], rows[order[cut:]]]
    whole = exact.grid_exponent(rows)
    assert whole == max(exact.grid_exponent(part) for part in parts)


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_embeddings_whose_distances_leave_float32_are_refused(scale):
    with pytest.raises(CurationError, match="multiply the embeddings"):
        exact.Grid(exact.pool_exponent([exact.grid_exponent(np.full((3, 4), scale))]))


def test_a_pool_of_zeros_has_a_grid():
    zeros = exact.grid_exponent(np.zeros((3, 4)))
    assert exact.pool_exponent([zeros, zeros]) == 0
    assert exact.pool_exponent([zeros, exact.grid_exponent(np.full((2, 4), 2.0**-20))]) == -19


@given(rows_strategy)
def test_encoded_rows_are_multiples_within_half_a_step(rows):
    grid = exact.Grid(exact.pool_exponent([exact.grid_exponent(rows)]))
    encoded = grid.encode(rows)
    steps = encoded.astype(np.float64) * exact.UNIT
    assert np.array_equal(steps, np.rint(steps))
    assert np.abs(grid.decode(encoded) - rows).max() <= 2.0 ** (grid.exponent - 25)


@pytest.mark.parametrize("dtype", ["<i8", "<i4", "<u2", ">f8", ">f4", "<f2", "?"])
def test_rows_of_every_dtype_are_taken_at_their_value(dtype):
    whole = np.random.default_rng(0).integers(0, 1 if dtype == "?" else 50_000, (40, 3))
    whole[0] = 1
    if dtype in ("<i8", ">f8"):
        whole = whole * 3_000_017  # beyond float32
    rows = whole.astype(dtype)
    exponent = exact.grid_exponent(rows)
    assert exponent == exact.grid_exponent(rows.astype("<f8"))
    assert np.array_equal(exact.Grid(exponent).encode(rows), exact.Grid(exponent).encode(rows.astype("<f8")))
    steps = np.rint(np.ldexp(rows.astype("<f8"), 24 - exponent))
    assert np.array_equal(exact.Grid(exponent).encode(rows), (steps / 2**24).astype(np.float32))


def test_unit_rows_in_half_precision_are_on_the_grid_as_they_are():
    rows = exact.normalize_rows(np.random.default_rng(0).standard_normal((500, 384))).astype(np.float16)
    assert exact.grid_exponent(rows) == 0
    assert np.array_equal(exact.Grid(0).encode(rows), rows.astype(np.float32))


@given(rows_strategy)
def test_distances_are_those_of_rational_arithmetic(rows):
    encoded = exact.Grid(exact.pool_exponent([exact.grid_exponent(rows)])).encode(rows)
    other = np.zeros(len(rows), np.int64)
    found = exact.squared_distances(encoded, encoded, None, other)
    for row, value in zip(encoded, found, strict=True):
        true = sum(
            (Fraction(float(a)) - Fraction(float(b))) ** 2 for a, b in zip(row, encoded[0], strict=True)
        )
        assert Fraction(float(value)) == true


def test_sums_and_inertia_agree_with_the_distances_they_stand_for():
    generator = np.random.default_rng(1)
    rows = exact.Grid(3).encode(generator.standard_normal((3000, 7)))
    labels = generator.integers(0, 40, 3000)
    sums, counts = exact.cluster_sums(rows, labels, 41)
    assert counts[40] == 0
    assert not sums[40].any()
    centroids = exact.mean_on_grid(sums, counts, unit_norm=False)
    distances = exact.squared_distances(rows, centroids, None, labels)
    squares = exact.total(exact.square_units(exact.squared_norms(rows)))
    inertia = squares + exact.inertia_terms(centroids, sums, counts)
    assert inertia == exact.total(exact.square_units(distances))


def test_sums_do_not_depend_on_order():
    generator = np.random.default_rng(2)
    rows = exact.normalize_rows(generator.standard_normal((20_000, 16)))
    rows = exact.Grid(0).encode(rows)
    labels = generator.integers(0, 3, 20_000)
    order = generator.permutation(20_000)
    for left, right in zip(
        exact.cluster_sums(rows, labels, 3), exact.cluster_sums(rows[order], labels[order], 3), strict=True
    ):
        assert np.array_equal(left, right)


@given(st.lists(st.integers(0, 2**62), min_size=1, max_size=50))
def test_total_never_overflows(values):
    assert exact.total(np.array(values, np.int64)) == sum(values)


def test_normalized_rows_have_unit_norm_and_zero_rows_stay():
    rows = np.random.default_rng(3).standard_normal((100, 33)).astype(np.float32) * 1e20
    rows[5] = 0
    far = np.ldexp(rows.astype(np.float64), 900)
    assert np.array_equal(exact.normalize_rows(far), exact.normalize_rows(rows))
    norms = np.linalg.norm(exact.normalize_rows(rows).astype(np.float64), axis=1)
    assert norms[5] == 0
    np.testing.assert_allclose(np.delete(norms, 5), 1, atol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_rows_are_named(bad):
    rows = np.ones((10, 3), np.float32)
    rows[7, 1] = bad
    with pytest.raises(CurationError, match="row 7 "):
        exact.grid_exponent(rows)
