"""BLAKE2b digests of many short texts at once, compiled by numba; the same as `hashlib.blake2b`.

Written from RFC 7693. hashlib takes a call from Python for every text, which for millions of ids costs more
than the hash does, and holds the interpreter's lock.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numba import njit
from numpy.typing import NDArray

from curation.kernels.native import STRICT
from curation.kernels.threads import allowed, each

_BLOCK = 128  # bytes that are compressed at once
_SHARE = 1 << 14  # texts that a thread takes at a time
_PARAMETERS = np.uint64(0x01010010)  # 16 bytes of digest, no key, fanout and depth 1

# the fractional parts of the square roots of the first eight primes
_START = np.array(
    [
        *(0x6A09E667F3BCC908, 0xBB67AE8584CAA73B, 0x3C6EF372FE94F82B, 0xA54FF53A5F1D36F1),
        *(0x510E527FADE682D1, 0x9B05688C2B3E6C1F, 0x1F83D9ABFB41BD6B, 0x5BE0CD19137E2179),
    ],
    np.uint64,
)
_ROUNDS = np.array(
    [
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
        [14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3],
        [11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4],
        [7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8],
        [9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13],
        [2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9],
        [12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11],
        [13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10],
        [6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5],
        [10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0],
    ],
    np.int64,
)


def keys(text: NDArray[np.uint8], offsets: NDArray[np.int64]) -> NDArray[np.uint64]:
    """The 16-byte digests (n, 2) of n texts, each as two big-endian words.

    Args:
        text: All texts, one after another.
        offsets: Where each starts, and the last ends (n + 1,).
    """
    out = np.empty((len(offsets) - 1, 2), np.uint64)

    def fill(starts: Iterator[int]) -> None:
        for start in starts:
            _digest(text, offsets[start : start + _SHARE + 1], out[start : start + _SHARE])

    each(allowed(), fill, range(0, len(out), _SHARE))
    return out


@njit(**STRICT)
def _digest(text: NDArray[np.uint8], offsets: NDArray[np.int64], out: NDArray[np.uint64]) -> None:
    words, v, h = np.empty(16, np.uint64), np.empty(16, np.uint64), np.empty(8, np.uint64)
    for i in range(len(out)):
        first, last = offsets[i], offsets[i + 1]
        h[:] = _START
        h[0] ^= _PARAMETERS
        for start in range(first, max(last, first + 1), _BLOCK):
            end = min(start + _BLOCK, last)
            words[:] = 0
            for place in range(start, end):
                at = place - start
                words[at >> 3] |= np.uint64(text[place]) << np.uint64(8 * (at & 7))
            _compress(h, v, words, np.uint64(end - first), end == last)
        for word in range(2):
            out[i, word] = _swapped(h[word])


@njit(**STRICT)
def _compress(
    h: NDArray[np.uint64], v: NDArray[np.uint64], words: NDArray[np.uint64], count: np.uint64, last: bool
) -> None:
    v[:8] = h
    v[8:] = _START
    v[12] ^= count
    if last:
        v[14] = ~v[14]
    for turn in range(12):
        m = _ROUNDS[turn % 10]
        for i in range(4):  # columns
            _mix(v, i, 4 + i, 8 + i, 12 + i, words[m[2 * i]], words[m[2 * i + 1]])
        for i in range(4):  # diagonals
            b, c, d = 4 + (i + 1) % 4, 8 + (i + 2) % 4, 12 + (i + 3) % 4
            _mix(v, i, b, c, d, words[m[8 + 2 * i]], words[m[9 + 2 * i]])
    for i in range(8):
        h[i] ^= v[i] ^ v[i + 8]


@njit(inline="always", **STRICT)
def _mix(v: NDArray[np.uint64], a: int, b: int, c: int, d: int, x: np.uint64, y: np.uint64) -> None:
    v[a] += v[b] + x
    v[d] = _turned(v[d] ^ v[a], 32)
    v[c] += v[d]
    v[b] = _turned(v[b] ^ v[c], 24)
    v[a] += v[b] + y
    v[d] = _turned(v[d] ^ v[a], 16)
    v[c] += v[d]
    v[b] = _turned(v[b] ^ v[c], 63)


@njit(inline="always", **STRICT)
def _turned(word: np.uint64, bits: int) -> np.uint64:
    return (word >> np.uint64(bits)) | (word << np.uint64(64 - bits))


@njit(inline="always", **STRICT)
def _swapped(word: np.uint64) -> np.uint64:
    """The word with its bytes the other way round."""
    out = np.uint64(0)
    for _ in range(8):
        out = (out << np.uint64(8)) | (word & np.uint64(255))
        word >>= np.uint64(8)
    return out
