"""Both grow what they are asked for, and verdicts follow from the cells."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import cells, hierarchical
from benchmarks.cases import mixture
from benchmarks.hierarchical import METHODS, OURS, THEIRS, Work, covered, judge

RUN = {"cpu_seconds": 1.0}


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=60))
def test_covered(pairs):
    leaves, components = np.array(pairs).T
    held = {leaf: Counter(sorted(components[leaves == leaf].tolist())) for leaf in set(leaves.tolist())}
    assert covered(leaves, components.astype(np.int32)) == len(
        {c.most_common(1)[0][0] for c in held.values()}
    )


@pytest.mark.parametrize("method", METHODS)
def test_both_grow_what_is_asked(method):
    pytest.importorskip(hierarchical.PACKAGES[method])
    rows, _ = mixture(600, 16, 0)
    grown = METHODS[method](rows, Work([30, 8], [10, 3]), 1)
    assert grown.leaves.shape == (600,)
    assert 25 <= len(np.unique(grown.leaves)) <= 30
    assert grown.top.shape == (8, 16)


def runs(seconds, measure, values):
    return {seed: {"seconds": seconds, measure: value, **RUN} for seed, value in enumerate(values)}


def test_verdicts():
    groups = {
        ("mixture", 20_000, 2, OURS): runs(2.0, "covered", [500, 510]),
        ("mixture", 20_000, 2, THEIRS): runs(60.0, "covered", [480, 491]),
        ("mixture", 50_000, 2, OURS): runs(5.0, "covered", [700, 730]),
        ("mixture", 50_000, 2, THEIRS): runs(300.0, "covered", [760, 789]),
        ("mixture", 100_000, 2, OURS): runs(41.0, "covered", [900, 910]),
        ("toy", 9000, 2, OURS): runs(4.0, "kl", [0.045, 0.051]),
        ("toy", 9000, 2, THEIRS): runs(30.0, "kl", [0.046, 0.047]),
    }
    told = {str(verdict).partition(",  ")[0]: verdict.holds for verdict in judge(groups)}
    expected = [
        ("mixture, n = 20000, 2 thread(s): covered equal to that of pt-kmeans or better, within 1%", True),
        ("mixture, n = 50000, 2 thread(s): at least 50x faster than pt-kmeans", True),
        ("mixture, n = 50000, 2 thread(s): covered equal to that of pt-kmeans or better, within 1%", False),
        ("mixture, n = 100000, 2 thread(s): at most 40 s", False),
        ("toy, n = 9000, 2 thread(s): at most 10 s", True),
        ("toy, n = 9000, 2 thread(s): KL <= 0.050 (asked for)", True),
        ("toy, n = 9000, 2 thread(s): kl equal to that of pt-kmeans or better, within 1%", False),
    ]
    assert len(told) == len(expected)
    for claim, holds in expected:
        (found,) = (value for name, value in told.items() if name.startswith(claim))
        assert found is holds, claim


def test_what_is_planned():
    parser = cells.parser("hierarchical", "", threads="2")
    hierarchical.add_arguments(parser)
    keys = [cell.key for cell in hierarchical.plan(parser.parse_args([]))]
    count = Counter((key["pool"], key["n"], key["method"]) for key in keys)
    assert count["toy", 9000, OURS] == count["toy", 9000, THEIRS] == 20
    assert count["mixture", 50_000, THEIRS] == 3
    assert count["mixture", 100_000, OURS] == 3
    assert count["mixture", 100_000, THEIRS] == 0
