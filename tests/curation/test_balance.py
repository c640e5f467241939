"""Properties of the measures of balance: bounds, invariances, and known values."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from curation.balance import Balance, balance, kl_to_uniform
from curation.errors import CurationError

counts_of_some = st.lists(st.integers(0, 10**6), min_size=1, max_size=60).filter(any)


@given(counts_of_some)
def test_bounds(counts):
    b, m = balance(counts), len(counts)
    assert b.groups == m
    assert b.total == sum(counts)
    assert 0 <= b.kl_to_uniform <= np.log(m) + 1e-12
    assert 0 <= b.normalized_entropy <= 1
    assert 0 <= b.gini <= (m - 1) / m + 1e-12
    assert 1 - 1e-12 <= b.effective_number <= m * (1 + 1e-12)
    assert 1 / m <= b.coverage <= 1
    assert b.effective_number <= b.coverage * m * (1 + 1e-12)
    assert 0 < b.head_share <= 1


@given(counts_of_some, st.randoms(use_true_random=False))
def test_order_of_the_counts_does_not_matter_to_the_last_bit(counts, random):
    shuffled = counts.copy()
    random.shuffle(shuffled)
    assert balance(shuffled) == balance(counts)


@given(counts_of_some, st.floats(1e-6, 1e6))
def test_scale_does_not_matter(counts, factor):
    a, b = balance(counts), balance(np.array(counts) * factor)
    for name in ("kl_to_uniform", "normalized_entropy", "gini", "effective_number", "coverage", "head_share"):
        assert getattr(a, name) == pytest.approx(getattr(b, name), rel=1e-9, abs=1e-9), name


@given(st.integers(1, 500), st.integers(1, 10**9))
def test_uniform_counts_are_perfectly_even(m, count):
    b = balance(np.full(m, count))
    assert b.kl_to_uniform == pytest.approx(0, abs=1e-12)
    assert b.normalized_entropy == pytest.approx(1)
    assert b.gini == pytest.approx(0, abs=1e-12)
    assert b.effective_number == pytest.approx(m)
    assert b.coverage == 1
    assert b.head_share == pytest.approx(np.ceil(m / 10) / m)


@given(st.integers(2, 500), st.data())
def test_all_in_one_group_is_the_worst_case(m, data):
    counts = np.zeros(m)
    counts[data.draw(st.integers(0, m - 1))] = 7
    assert balance(counts) == Balance(
        groups=m,
        total=7,
        kl_to_uniform=pytest.approx(np.log(m)),
        normalized_entropy=0,
        gini=pytest.approx((m - 1) / m),
        effective_number=1,
        coverage=1 / m,
        head_share=1,
    )


@given(counts_of_some)
def test_kl_and_entropy_add_up_to_the_log_of_the_groups(counts):
    b = balance(counts)
    assert b.kl_to_uniform == kl_to_uniform(counts)
    assert b.kl_to_uniform + np.log(b.effective_number) == pytest.approx(np.log(len(counts)), abs=1e-9)


@given(counts_of_some, st.integers(2, 5))
def test_replicating_the_groups_keeps_what_is_relative_and_multiplies_the_effective_number(counts, times):
    once, copies = balance(counts), balance(counts * times)
    assert copies.kl_to_uniform == pytest.approx(once.kl_to_uniform, abs=1e-9)
    assert copies.gini == pytest.approx(once.gini, abs=1e-9)
    assert copies.coverage == pytest.approx(once.coverage)
    assert copies.effective_number == pytest.approx(times * once.effective_number)


@given(counts_of_some, st.data())
def test_moving_a_sample_from_a_fuller_to_an_emptier_group_improves_the_balance(counts, data):
    high = data.draw(st.integers(0, len(counts) - 1))
    low = data.draw(st.integers(0, len(counts) - 1))
    assume(counts[high] >= counts[low] + 2)
    moved = counts.copy()
    moved[high] -= 1
    moved[low] += 1
    before, after = balance(counts), balance(moved)
    assert after.kl_to_uniform <= before.kl_to_uniform + 1e-12
    assert after.gini <= before.gini + 1e-12
    assert after.normalized_entropy >= before.normalized_entropy - 1e-12


@given(counts_of_some)
def test_gini_is_the_mean_difference_of_all_pairs(counts):
    x = np.array(counts, dtype=float)
    pairs = np.abs(x[:, None] - x[None, :]).mean() / (2 * x.mean())
    assert balance(counts).gini == pytest.approx(pairs, abs=1e-9)


@given(counts_of_some)
def test_the_head_is_the_fullest_tenth_of_the_groups(counts):
    head = sorted(counts)[-int(np.ceil(len(counts) / 10)) :]
    assert balance(counts).head_share == pytest.approx(sum(head) / sum(counts))


def test_known_values():
    b = balance([6, 3, 1, 0])
    p = np.array([0.6, 0.3, 0.1])
    assert b.kl_to_uniform == pytest.approx((p * np.log(4 * p)).sum())
    assert b.gini == pytest.approx((-0.1 + 0.3 + 3 * 0.6) / 4)
    assert b.coverage == 0.75
    assert b.head_share == pytest.approx(0.6)
    assert balance(range(1, 31)).head_share == pytest.approx((28 + 29 + 30) / 465)


def test_one_group_alone_is_even():
    assert balance([5]) == Balance(1, 5, 0, 1, 0, 1, 1, 1)


@pytest.mark.parametrize("counts", [[1e308, 1e308], [5e-324, 5e-324]])
def test_extreme_counts_neither_overflow_nor_vanish(counts):
    with np.errstate(over="ignore"):
        assert kl_to_uniform(counts) == 0


def test_input_is_left_as_it_was():
    counts = np.array([3, 1, 2])
    balance(counts)
    assert counts.tolist() == [3, 1, 2]


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ([], "at least one group"),
        ([0, 0, 0], "all 3 counts are zero"),
        ([1, -2], "-2"),
        ([1, float("nan")], "nan"),
        ([1, float("inf")], "inf"),
    ],
)
def test_what_has_no_balance_is_refused(counts, message):
    for measure in (balance, kl_to_uniform):
        with pytest.raises(CurationError, match=message):
            measure(counts)
