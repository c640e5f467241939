"""Levels that a pool gets by itself, and the sentence that says why."""

import itertools

import pytest

from curation.levels import auto_clusters, auto_reason


@pytest.mark.parametrize("n", [1, 9, 10, 1000, 30_000, 10**6, 743 * 10**6, 10**10])
def test_auto_levels_decrease_and_leave_ten_samples_a_leaf(n):
    levels = auto_clusters(n)
    assert all(low > high >= 1 for low, high in itertools.pairwise(levels))
    assert levels[0] * 10 <= max(n, 10)
    if n == 743 * 10**6:
        assert levels == [10_000_000, 500_000, 50_000, 10_000]


@pytest.mark.parametrize("n", [1, 15, 300, 700, 30_000, 2 * 10**7, 10**10])
def test_the_reason_names_every_level_and_the_samples(n):
    said = auto_reason(n)
    assert " > ".join(f"{level:,}" for level in auto_clusters(n)) in said
    assert f"{n:,} samples" in said


def test_the_reason_says_which_rule_decided():
    assert "too few for two leaves" in auto_reason(19)
    assert "none above of fewer than 10" in auto_reason(300)
    assert "1/5 of the one below" in auto_reason(30_000)
    assert "1/20, then 1/10, then 1/5 of the one below" in auto_reason(10**9)
    assert "no more than 10,000,000 leaves" in auto_reason(10**9)
