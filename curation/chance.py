"""Chance as a hash: every random choice is a function of (seed, purpose, sample id).

No generator state exists anywhere, so a choice does not depend on how the samples are spread over
workers, on their order, or on retries. A *key* is the 128-bit BLAKE2b digest of a sample's id, held
as two big-endian 64-bit words so that comparing words compares digests. A *salt* mixes the seed, the
purpose and the place of the draw (level, step, round). A *draw* U is an odd 53-bit integer, exact in
float64; "take m at random" means "take the m smallest U", a weighted draw of many takes the m
smallest U / w (sequential Poisson sampling, Ohlsson 1998), with ties in the order of the keys.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from enum import IntEnum

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from curation.kernels.threads import allowed, each, in_runs

KEY_BYTES = 16

_MANY = 2**17  # ids from which on a loop of their own hashes them
_SORTED_ALONE = 2**20  # hashes up to which one thread sorts them all

_INCREMENT = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)


class Purpose(IntEnum):
    """What a draw is for; part of its salt, so that two purposes never share their luck."""

    FIRST_SEED = 1
    SEED_CANDIDATES = 2
    RESAMPLE = 3
    REMAINDER = 4
    LEAF_DRAW = 5
    RANDOM_BASELINE = 6
    CENTROID_KEY = 7
    ENCODER_FIT = 8
    SHOWN = 9
    SKETCH = 10
    PIVOT = 11
    SPLIT = 12
    RECALL = 13
    JUDGES = 14
    THIN = 15


def digests(ids: Iterable[str]) -> list[bytes]:
    """The 16-byte BLAKE2b digest of the UTF-8 form of every id."""
    return [hashlib.blake2b(i.encode(), digest_size=KEY_BYTES).digest() for i in ids]


def keys_of(ids: Iterable[str] | pa.Array) -> NDArray[np.uint64]:
    """Keys of ids, shape (n, 2), uint64."""
    if not isinstance(ids, Sequence | pa.Array):
        ids = list(ids)
    if len(ids) < _MANY:
        return keys_from_digests(digests(ids.to_pylist() if isinstance(ids, pa.Array) else ids))
    from curation.kernels import blake2b  # takes seconds to compile: only where that pays

    texts = ids.cast(pa.large_string()) if isinstance(ids, pa.Array) else pa.array(ids, pa.large_string())
    _, offsets, text = texts.buffers()
    ends = np.frombuffer(offsets, np.int64)[texts.offset : texts.offset + len(texts) + 1]
    return blake2b.keys(np.frombuffer(text or b"", np.uint8), ends)


def keys_from_digests(values: Sequence[bytes]) -> NDArray[np.uint64]:
    """Keys from stored digests (n of 16 bytes), shape (n, 2), uint64."""
    return keys_from_buffer(b"".join(values))


def keys_from_buffer(buffer: bytes | memoryview) -> NDArray[np.uint64]:
    """Keys from n digests laid end to end (16 n bytes), shape (n, 2), uint64."""
    return np.frombuffer(buffer, dtype=">u8").astype(np.uint64).reshape(-1, 2)


def centroid_keys(level: int, count: int) -> NDArray[np.uint64]:
    """Keys of the clusters 0..count-1 of a level, whose id is (level, cluster); shape (count, 2)."""
    clusters = np.arange(count, dtype=np.uint64)
    # two words from two salts: were one the hash of the other, `mixed` would cancel them out
    words = [splitmix64(clusters ^ salt(0, Purpose.CENTROID_KEY, level, word)) for word in (0, 1)]
    return np.stack(words, axis=1)


def splitmix64(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The splitmix64 finaliser (Steele, Lea and Flood, OOPSLA 2014), elementwise; a bijection."""
    with np.errstate(over="ignore"):
        x = x + _INCREMENT
        x = (x ^ (x >> np.uint64(30))) * _FIRST
        x = (x ^ (x >> np.uint64(27))) * _SECOND
        mixed: NDArray[np.uint64] = x ^ (x >> np.uint64(31))
    return mixed


def salt(seed: int, purpose: Purpose, *place: int) -> np.uint64:
    """One 64-bit word for a draw: the seed, the purpose, and any place (level, step, round)."""
    word = np.zeros(1, np.uint64)
    for part in (seed, int(purpose), *place):
        word = splitmix64(word ^ np.uint64(part & 0xFFFFFFFFFFFFFFFF))
    return np.uint64(word[0])


def mixed(keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Both words of every key folded into one, shape (n,): what `draws` takes, computed once a block."""
    out = np.empty(len(keys), np.uint64)

    def fill(run: slice) -> None:
        out[run] = splitmix64(keys[run, 0]) ^ keys[run, 1]

    in_runs(len(out), fill)
    return out


def draws(mixed_keys: NDArray[np.uint64], salt_word: np.uint64) -> NDArray[np.float64]:
    """U for every key: an odd 53-bit integer in float64, shape (n,)."""
    out = np.empty(len(mixed_keys))

    def fill(run: slice) -> None:
        h = splitmix64(mixed_keys[run] ^ salt_word)
        out[run] = (h >> np.uint64(12)) * np.uint64(2) + np.uint64(1)

    in_runs(len(out), fill)
    return out


def race(draws: NDArray[np.float64]) -> NDArray[np.float64]:
    """-log2(U / 2^53) of draws U (n,) in steps of 2^-32, in whole numbers: the same on every machine.

    The smallest race(U) / w of some points is a single draw in proportion to their weights w, exactly but for
    the steps (an exponential race), where the smallest U / w favours the heavy ones.
    """
    fraction, power = np.frexp(draws)
    x = (fraction * 2.0**32).astype(np.uint64)  # 1 to 2, in steps of 2^-31
    bits = np.zeros(len(draws), np.uint64)
    for _ in range(32):  # a square doubles the logarithm: its next binary digit comes before the point
        x = (x * x) >> np.uint64(31)
        digit = x >> np.uint64(32)
        x >>= digit
        bits = (bits << np.uint64(1)) | digit
    return (54.0 - power) * 2.0**32 - bits


def order(
    values: NDArray[np.float64], keys: NDArray[np.uint64], groups: NDArray[np.signedinteger] | None = None
) -> NDArray[np.int64]:
    """Indices that sort by (group, value, key): a total order, since keys differ."""
    columns = (keys[:, 1], keys[:, 0], values)
    return np.lexsort(columns if groups is None else (*columns, groups))


def by_word(words: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Indices (n,) that sort hashes (n,), the earlier of equals first.

    Hashes are spread evenly, so those that begin with the same byte are sorted apart: they fit a core's
    cache, and threads share them.
    """
    words = np.ascontiguousarray(words)
    if len(words) <= _SORTED_ALONE:
        return np.argsort(words, kind="stable")
    heads = (words >> np.uint64(56)).astype(np.uint8)
    edges = np.concatenate([[0], np.cumsum(np.bincount(heads, minlength=256))])
    out: NDArray[np.int64] = np.argsort(heads, kind="stable")

    def sort(numbers: Iterator[int]) -> None:
        for head in numbers:
            mine = out[edges[head] : edges[head + 1]]
            mine[:] = mine[np.argsort(words[mine], kind="stable")]

    each(allowed(), sort, range(256))
    return out


def smallest(values: NDArray[np.float64], keys: NDArray[np.uint64], m: int) -> NDArray[np.int64]:
    """Indices of the m smallest values, ascending, ties by key; all of them if there are fewer.

    The partition only finds the m-th smallest *value*, which is the same whatever the algorithm;
    which rows share it is settled by the keys.
    """
    n = len(values)
    if m <= 0 or n == 0:
        return np.empty(0, np.int64)
    if m >= n:
        return order(values, keys)
    limit = np.partition(values, m - 1)[m - 1]
    near = np.flatnonzero(values <= limit)
    return near[order(values[near], keys[near])[:m]]


def least(
    values: NDArray[np.float64],
    keys: NDArray[np.uint64],
    groups: NDArray[np.signedinteger],
    n_groups: int,
) -> NDArray[np.int64]:
    """Index of the smallest finite value of each group that has one, ties by key; in the order of groups.

    One look at each value, where sorting them takes n log n comparisons.
    """
    lowest = np.full(n_groups, np.inf)
    np.minimum.at(lowest, groups, values)
    near = np.flatnonzero((values == lowest[groups]) & np.isfinite(values))
    near = near[order(values[near], keys[near], groups[near])]
    first: NDArray[np.int64] = near[rank_in_group(groups[near]) == 0]
    return first


def rank_in_group(sorted_groups: NDArray[np.signedinteger]) -> NDArray[np.int64]:
    """Position of every entry within its run of equal groups (0, 1, ...), for groups sorted together."""
    n = len(sorted_groups)
    if n == 0:
        return np.empty(0, np.int64)
    starts = np.flatnonzero(np.r_[True, sorted_groups[1:] != sorted_groups[:-1]])
    return np.arange(n) - np.repeat(starts, np.diff(np.r_[starts, n]))
