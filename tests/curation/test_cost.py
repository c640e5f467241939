"""What a fit takes by the model: it counts what the engine does, and follows n, d, k and the crew."""

import math
from dataclasses import astuple, replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from curation import cost, recall, shards, splitting
from curation.cost import (
    Crew,
    Rates,
    Work,
    division_work,
    fit_work,
    full_work,
    level_work,
    scan_work,
    seconds,
)
from curation.descent import FEW, Plan
from curation.fit import is_small
from curation.recipe import Recipe

RATES = Rates(
    threads=2,
    gemm=4e11,
    pair=1e-9,
    sketch=3e-10,
    near=1.5e-9,
    block=1e-4,
    update=5e9,
    memory=4e10,
    double=5e10,
)
FAST, LLOYD = Plan(tol=1e-4), Plan(algorithm="lloyd", tol=0, max_iter=50)


def test_a_level_that_one_worker_takes_alone_is_the_engines():
    assert cost.ALONE == shards._ALONE  # a copy: `shards` imports Ray


def test_a_scan_is_2_n_k_d_operations():
    assert scan_work(1000, 50).operations(16) == 2 * 1000 * 50 * 16


def test_lloyd_makes_all_its_scans():
    few, many = (fit_work(10_000, 64, 100, replace(LLOYD, max_iter=t)) for t in (10, 50))
    assert (many + few * -1).operations(64) == pytest.approx(40 * 2 * 10_000 * 100 * 64)


def test_greedy_seeding_reads_all_rows_for_every_seed():
    greedy, batched = (fit_work(10_000, 64, 1000, replace(FAST, init=i)) for i in ("k-means++", "auto"))
    assert (greedy + batched * -1).updated == pytest.approx(10_000 * 999, rel=0.01)


@given(st.integers(1000, 10**7), st.integers(1, 4096), st.integers(2, 100_000))
def test_more_points_or_clusters_are_more_work(n, d, k):
    k = min(k, n)
    assume(not is_small(n, d, k))  # seeds one by one are dearer than a few more in batches
    base = seconds(fit_work(n, d, k, FAST), d, RATES, Crew())
    assert seconds(fit_work(2 * n, d, k, FAST), d, RATES, Crew()) > base
    assert seconds(fit_work(n, d, k + 10_000, FAST), d, RATES, Crew()) > base


def test_candidates_cost_less_than_scans_where_clusters_are_many():
    ratios = []
    for k in (1000, 5000, 20_000):
        fast, full = (fit_work(2_000_000, 384, k, p) for p in (FAST, Plan(algorithm="lloyd", max_iter=13)))
        ratios.append(fast.operations(384) / full.operations(384))
    assert ratios[0] < 0.7
    assert ratios == sorted(ratios, reverse=True)


def test_resampling_adds_its_steps_and_nothing_at_a_level_without():
    none, ten = (Recipe([5000, 1000], resample_steps=steps, resample_points=[0, 3]) for steps in (0, 10))
    assert level_work(ten, 1, 100_000, 64) == level_work(none, 1, 100_000, 64)
    five, ten, fifteen = (
        level_work(replace(ten, resample_steps=steps), 2, 5000, 64).operations(64) for steps in (5, 10, 15)
    )
    assert 0 < ten - five == pytest.approx(fifteen - ten)
    assert level_work(none, 2, 5000, 64).operations(64) < five


def test_hands_divide_pairs_and_not_what_is_done_alone():
    pairs, alone = Work(scanned=1e9), Work(between=1e10)
    assert seconds(pairs, 8, RATES, Crew(2)) == pytest.approx(seconds(pairs, 8, RATES, Crew(1)) / 2)
    assert seconds(pairs, 8, RATES, Crew(1, 2)) == pytest.approx(seconds(pairs, 8, RATES, Crew(2, 1)))
    assert seconds(alone, 8, RATES, Crew(2)) == seconds(alone, 8, RATES, Crew(1))


def test_a_group_costs_every_shard_anew():
    groups = Work(blocks=1000)
    assert seconds(groups, 8, RATES, Crew(2)) == pytest.approx(seconds(groups, 8, RATES, Crew(1)))


def test_bytes_are_those_of_all_rows_that_are_read():
    assert Work(read=100, updated=20, scanned=1e9).row_bytes(64) == 120 * 64 * 4
    assert scan_work(1000, 50).row_bytes(16, 2) == 1000 * 16 * 2


def test_a_level_that_is_split_is_a_coarse_fit_and_its_division():
    n, d = 2_000_000, 256
    whole, split = Recipe([100_000, 1000]), Recipe([100_000, 1000], split=[100, 1])
    coarse = level_work(Recipe([1000]), 1, n, d)
    divided = level_work(split, 1, n, d)
    assert astuple(divided) == pytest.approx(astuple(coarse + division_work(n, 1000, 100, split.plan)))
    # each point looks at the 100 leaves of its own cluster: while they are drawn, in every iteration, at last
    looks = (divided + coarse * -1).operations(d) / (2 * n * d * 100)
    assert looks == pytest.approx(1 + cost.SPLIT_ITERATIONS + 1)
    assert divided.operations(d) < level_work(whole, 1, n, d).operations(d) / 3
    assert level_work(split, 2, 100_000, d) == level_work(whole, 2, 100_000, d)


def test_approximate_scans_look_at_a_few_lists():
    pytest.importorskip("faiss")
    ivf = Plan(algorithm="ivf")
    n, d, k = 1_000_000, 64, 100_000
    assert full_work(n, d, FEW, ivf) == full_work(n, d, FEW, Plan()) == scan_work(n, FEW)
    assert full_work(n, d, k, Plan(algorithm="lloyd")) == scan_work(n, k)
    lists = 4 * math.sqrt(k)
    looks = n * (lists + 8 * k / lists) + 6 * k * lists
    assert full_work(n, d, k, ivf).operations(d) == pytest.approx(2 * d * looks)
    # the last scan, and those of a fit whose points have no sketch
    exact, near = (level_work(Recipe([k], algorithm=a), 1, n, d).operations(d) for a in ("auto", "ivf"))
    scans = 1 + cost.FAR_SCANS
    assert exact - near == pytest.approx(2 * d * (scans * (n * k - looks) - recall.SAMPLE * k))


def test_the_lists_that_are_counted_are_those_that_are_made():
    faiss = pytest.importorskip("curation.kernels.faiss")
    k = 2500
    index = faiss._filed(np.random.default_rng(0).random((k, 4), np.float32))
    assert index.nlist == cost.LISTS * math.sqrt(k)
    assert index.cp.niter == cost.FILINGS - 1


def test_lloyd_scans_all_centroids_between_resampling_steps_as_well():
    recipe = Recipe([5000], resample_steps=3, resample_points=[4], algorithm="lloyd")
    assert level_work(recipe, 1, 100_000, 256).sketched == 0


def test_all_wait_for_the_largest_share():
    pairs, groups = Work(scanned=1e9, updated=1e6), Work(blocks=1000)
    even, uneven = Crew(2), Crew(2, uneven=1.6)
    assert seconds(pairs, 8, RATES, uneven) == pytest.approx(1.6 * seconds(pairs, 8, RATES, even))
    assert seconds(groups, 8, RATES, uneven) == seconds(groups, 8, RATES, even)


def test_seeds_of_a_division_are_chosen_by_the_centroid_workers_at_a_time():
    choices = Work(thinned=1000)
    assert seconds(choices, 8, RATES, Crew(4, uneven=2.0)) == 1000 * cost.THINNING / 4
    few, many = (division_work(10_000, 50, leaves, FAST).thinned for leaves in (4, 40))
    assert (few, many) == (50 * 4, 50 * splitting.BATCHES)
