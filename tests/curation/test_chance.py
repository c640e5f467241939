"""Draws are functions of the ids alone."""

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation import chance
from curation.chance import Purpose


def test_keys_are_the_digests_words():
    (key,) = chance.keys_of(["a/b.png"])
    digest = hashlib.blake2b(b"a/b.png", digest_size=16).digest()
    assert b"".join(int(word).to_bytes(8, "big") for word in key) == digest
    assert np.array_equal(chance.keys_from_digests([digest]), [key])


@pytest.mark.parametrize(
    "keys", [chance.keys_of(str(i) for i in range(20_000)), chance.centroid_keys(2, 20_000)]
)
def test_draws_are_odd_53_bit_integers_and_look_uniform(keys):
    mixed = chance.mixed(keys)
    assert len(np.unique(mixed)) == 20_000
    u = chance.draws(mixed, chance.salt(0, Purpose.RESAMPLE, 1))
    assert (u % 2 == 1).all()
    assert u.min() > 0
    assert u.max() < 2.0**53
    counts, _ = np.histogram(u, bins=20, range=(0, 2.0**53))
    # chi-square with 19 degrees of freedom: 99.99 % quantile is 50
    assert ((counts - 1000) ** 2 / 1000).sum() < 50


def test_salts_differ_by_every_part():
    salts = {
        int(chance.salt(seed, purpose, *place))
        for seed in (0, 1)
        for purpose in (Purpose.RESAMPLE, Purpose.LEAF_DRAW)
        for place in ((), (0,), (1,), (1, 0), (0, 1))
    }
    assert len(salts) == 20


@given(st.lists(st.integers(0, 5), min_size=1, max_size=60), st.integers(0, 70))
def test_smallest_is_the_head_of_the_full_order(values, m):
    values = np.array(values, np.float64)
    keys = chance.keys_of(str(i) for i in range(len(values)))
    assert np.array_equal(chance.smallest(values, keys, m), chance.order(values, keys)[:m])


def test_a_draw_does_not_depend_on_where_the_others_are():
    ids = [str(i) for i in range(1000)]
    salt = chance.salt(5, Purpose.LEAF_DRAW)
    whole = chance.draws(chance.mixed(chance.keys_of(ids)), salt)
    part = chance.draws(chance.mixed(chance.keys_of(ids[300:400])), salt)
    assert np.array_equal(whole[300:400], part)


@given(st.lists(st.integers(0, 4), max_size=30).map(sorted))
def test_rank_in_group_counts_from_zero(groups):
    ranks = chance.rank_in_group(np.array(groups, np.int64))
    assert list(ranks) == [groups[:i].count(g) for i, g in enumerate(groups)]


def test_centroid_keys_differ_by_level_and_cluster_and_do_not_hang_on_the_count():
    keys = np.concatenate([chance.centroid_keys(level, 1000) for level in (1, 2, 3)])
    assert len(np.unique(keys[:, 0])) == len(np.unique(keys[:, 1])) == 3000
    assert np.array_equal(chance.centroid_keys(1, 10), keys[:10])


@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from([0.5, 1.0, 2.0, np.inf])), max_size=60))
def test_the_least_of_a_group_is_the_head_of_its_order(pairs):
    groups = np.array([group for group, _ in pairs], np.int64)
    values = np.array([value for _, value in pairs])
    keys = chance.keys_of(map(str, range(len(pairs))))
    order = chance.order(values, keys, groups)
    head = order[chance.rank_in_group(groups[order]) == 0]
    assert np.array_equal(chance.least(values, keys, groups, 6), head[np.isfinite(values[head])])


def test_a_race_is_the_logarithm_of_the_draws_in_whole_steps():
    draws = np.concatenate([chance.draws(chance.mixed(chance.centroid_keys(1, 50_000)), np.uint64(7)), EDGES])
    found = chance.race(draws)
    assert np.array_equal(found, np.rint(found))
    assert found.min() > 0
    np.testing.assert_allclose(found / 2.0**32, 53 - np.log2(draws), atol=2.0**-26)
    descending = np.sort(draws)[::-1]
    assert (np.diff(chance.race(descending)) >= 0).all()


EDGES = np.array([1.0, 3.0, 2.0**52 - 1, 2.0**52 + 1, 2.0**53 - 1])


@pytest.mark.parametrize("weights", [[1, 3], [5, 1, 1, 3], [1, 1000]])
def test_the_winner_of_a_race_is_a_draw_in_proportion_to_the_weights(weights):
    """Of two of weights 1 and 3 the smallest U / w would take the light one in a sixth of all draws."""
    mixed = chance.mixed(chance.keys_of(map(str, range(len(weights)))))
    count = 20_000
    draws = [chance.draws(mixed, chance.salt(seed, Purpose.FIRST_SEED)) for seed in range(count)]
    won = np.bincount(np.argmin(chance.race(np.concatenate(draws)).reshape(count, -1) / weights, axis=1))
    share = np.array(weights) / sum(weights)
    assert (np.abs(won / count - share) < 4 * np.sqrt(share * (1 - share) / count)).all()


def test_hashes_are_sorted_the_same_by_many(monkeypatch):
    words = np.random.default_rng(0).integers(0, 2**64, 5000, np.uint64)
    words[::7] = words[0]
    words[::5] >>= np.uint64(40)  # most of them in one share
    expected = np.argsort(words, kind="stable")
    monkeypatch.setattr(chance, "_SORTED_ALONE", 10)
    assert np.array_equal(chance.by_word(words), expected)
    assert chance.by_word(words[:0]).shape == (0,)
