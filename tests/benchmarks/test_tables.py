"""Verdicts follow from numbers, and a failure is one."""

import math

import numpy as np
import pytest

from benchmarks.tables import at_most, below, conclude, near, paired_gap, table


def test_paired_gap_takes_out_what_runs_share():
    luck = np.random.default_rng(0).normal(0, 100, 10)
    noise = np.random.default_rng(1).normal(0, 0.1, 10)
    gap = paired_gap(luck, luck + 1 + noise)
    assert gap.mean == pytest.approx(1 + noise.mean())
    assert gap.error == pytest.approx(noise.std(ddof=1) / math.sqrt(10))
    assert gap.errors > 10


@pytest.mark.parametrize(
    ("low", "high", "noise", "holds"),
    [
        ([1.0, 2.0, 3.0], [2.0, 3.1, 4.0], 2.0, True),
        ([2.0, 3.1, 4.0], [1.0, 2.0, 3.0], 2.0, False),
        ([1.0, 2.0, 3.0], [1.5, 1.0, 3.6], 2.0, None),
        ([1.0, 2.0, 3.0], [1.5, 1.0, 3.6], 0.0, True),
        ([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], 0.0, False),
    ],
)
def test_below(low, high, noise, holds):
    assert below("a", low, "b", high, noise).holds is holds


def test_limits():
    assert at_most("a", [0.05, 0.06], 0.06, "asked for").holds
    assert not at_most("a", [0.05, 0.08], 0.06, "asked for").holds
    assert near("slope", [0.30, 0.36], 1 / 3, 0.05).holds
    assert not near("slope", [0.40, 0.42], 1 / 3, 0.05).holds


def test_a_failure_is_reported_and_an_undecided_claim_is_none(capsys):
    good = below("a", [1, 2], "b", [2, 3.5])
    open_claim = below("a", [1, 2, 3], "b", [1.5, 1, 3.6], noise=2)
    bad = below("b", [2, 3.5], "a", [1, 2])
    assert conclude([good, open_claim]) == 0
    assert conclude([good, bad]) == 1
    told = capsys.readouterr().out
    assert "a < b: yes, gap +1.2500, 5.0 standard errors" in told
    assert "a < b: undecided" in told
    assert "b < a: NO" in told
    assert "1 of 2 claims failed" in told


def test_table_is_aligned():
    lines = table(["", "KL"], [["random", "1.2"], ["flat k-means", "0.345"]]).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[2].endswith("  1.2")
