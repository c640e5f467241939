"""Test C's pool is the one described, and its verdicts catch what they should."""

import numpy as np
import pytest

from benchmarks.long_tail import FLAT, FLAT_TOP, HIERARCHICAL, LEAVES, RANDOM, RESAMPLED, judge, points
from curation.balance import kl_to_uniform

RUNS = {
    RANDOM: [1.61, 1.63, 1.62],
    FLAT: [0.40, 0.42, 0.41],
    LEAVES: [0.65, 0.66, 0.67],
    FLAT_TOP: [0.03, 0.032, 0.031],
    HIERARCHICAL: [0.024, 0.025, 0.026],
    RESAMPLED: [0.02, 0.02, 0.03],
}


def test_the_pool_is_a_long_tail_on_the_sphere():
    rows, classes = points(1.0, seed=0)
    assert rows.shape == (30_000, 64)
    assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
    # a random draw of 3,000 has about 149 / 6000 more
    assert kl_to_uniform(np.bincount(classes)) + 149 / 6000 == pytest.approx(1.62, abs=0.02)


def test_good_runs_pass():
    assert all(verdict.holds for verdict in judge(0.6, RUNS))


@pytest.mark.parametrize(
    ("broken", "claim"),
    [
        ({HIERARCHICAL: [0.034, 0.036, 0.037]}, "hierarchical < 3 levels, flat-top"),
        ({FLAT: [0.01, 0.01, 0.01]}, "flat-top < flat"),
        ({RANDOM: [0.1, 0.1, 0.1]}, "< random draw"),
        ({HIERARCHICAL: [0.04, 0.05, 0.06]}, "hierarchical <= 0.038"),
    ],
)
def test_a_broken_promise_is_a_failure(broken, claim):
    failed = [verdict.claim for verdict in judge(0.6, RUNS | broken) if verdict.holds is False]
    assert any(claim in each for each in failed)


def test_a_gap_within_the_noise_is_undecided():
    verdict = judge(0.6, RUNS | {HIERARCHICAL: [0.020, 0.036, 0.035]})[0]
    assert verdict.holds is None
