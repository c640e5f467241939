"""Real pools with hidden labels: thinned to a long tail, embedded once, and kept in a cache."""

from __future__ import annotations

import hashlib
import io
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import ArrayLike, NDArray
from PIL import Image

import modalities
from curation.exact import normalize_rows

VARIABLE = "EVENSET_DATA"
MINILM = "sentence-transformers:all-MiniLM-L6-v2"


class MissingDataError(Exception):
    """The folder of real data is not there; the message says what to set."""


@dataclass(frozen=True)
class LabelledPool:
    """A pool and what it should be balanced over.

    Attributes:
        ids: Names of the samples (n,).
        classes: Class of each sample (n,), 0..n_classes-1.
        n_classes: Number of classes.
        embeddings: Unit rows (n, d), float16 as the embed stage stores them.
    """

    ids: list[str]
    classes: NDArray[np.int64]
    n_classes: int
    embeddings: NDArray[np.float16]


def data_folder() -> Path:
    """The folder of real data that `EVENSET_DATA` names.

    Raises:
        MissingDataError: The variable is unset, or names no folder.
    """
    named = os.environ.get(VARIABLE, "")
    if not Path(named).is_dir() or not named:
        raise MissingDataError(
            f"{VARIABLE} is {named!r}, which is no folder; set it to the folder that holds cifar10.parquet"
        )
    return Path(named)


def zipf_counts(total: int, groups: int, exponent: float) -> NDArray[np.int64]:
    """Sizes (groups,) proportional to rank^-exponent that add up to `total`, largest first."""
    weights = np.arange(1, groups + 1) ** -exponent
    exact = total * weights / weights.sum()
    counts: NDArray[np.int64] = np.floor(exact).astype(np.int64)
    counts[np.argsort(counts - exact, kind="stable")[: total - counts.sum()]] += 1
    return counts


def zipf_thinned(classes: ArrayLike, exponent: float, seed: int, most: int) -> NDArray[np.int64]:
    """Rows, ascending, of a pool thinned to class sizes rank^-exponent.

    Args:
        classes: Class of each row (n,), 0..m-1; which class has which rank is drawn, and so are the rows.
        exponent: Zipf's exponent.
        seed: Seed of the draws.
        most: Most rows; fewer where the classes are too small for that many.
    """
    random = np.random.default_rng(seed)
    of_row = np.asarray(classes)
    held = np.bincount(of_row)
    ranked = random.permutation(len(held))
    total = most
    while (short := zipf_counts(total, len(held), exponent) > held[ranked]).any():
        worst = np.flatnonzero(short)[0]
        # the largest total with which this class suffices is near; a step of one row always ends
        share = zipf_counts(total, len(held), exponent)[worst] / total
        total = min(total - 1, int(held[ranked[worst]] / share) + 1)
    counts = zipf_counts(total, len(held), exponent)
    taken = [
        random.permutation(np.flatnonzero(of_row == group))[:count]
        for group, count in zip(ranked, counts, strict=True)
    ]
    return np.sort(np.concatenate(taken))


def cifar10(cache: Path, seed: int, most: int = 5000) -> LabelledPool:
    """CIFAR-10 thinned to a long tail, with features of ImageNet's MobileNetV2 at 128 pixels."""
    return _pool("cifar10.parquet", "image", seed, most, lambda pictures: mobilenet(cache, pictures))


def newsgroups(cache: Path, seed: int, most: int = 5000) -> LabelledPool:
    """20 Newsgroups thinned to a long tail, headers stripped, with features of all-MiniLM-L6-v2.

    Its largest class holds 999 posts, which limits the pool to about 2,800.
    """
    return _pool("newsgroups20.parquet", "text", seed, most, lambda posts: minilm(cache, posts))


def mobilenet(cache: Path, pictures: Sequence[bytes]) -> NDArray[np.float16]:
    """Unit rows (n, 1280) of encoded pictures, as ImageNet's MobileNetV2 sees them at 128 pixels."""
    from benchmarks.mobilenet import SIDE, WEIGHTS, MobileNetV2  # torch takes seconds to import

    weights = data_folder() / WEIGHTS
    digest = hashlib.blake2b(weights.read_bytes(), digest_size=16).hexdigest()

    def encode(payloads: Sequence[bytes]) -> NDArray[np.float32]:
        return MobileNetV2(weights).encode([Image.open(io.BytesIO(payload)) for payload in payloads])

    return cached(cache, f"mobilenet-v2 {SIDE}px {digest}", pictures, encode)


def minilm(cache: Path, posts: Sequence[bytes]) -> NDArray[np.float16]:
    """Unit rows (n, 384) of posts without their headers, as all-MiniLM-L6-v2 sees them."""

    def encode(payloads: Sequence[bytes]) -> NDArray[np.float32]:
        encoder = modalities.encoder(MINILM, modalities.modality("text"))
        encoder.load()
        texts = [without_headers(payload) or "." for payload in payloads]
        embeddings, reasons = encoder.encode_all([encoder.prepare(text) for text in texts])
        if any(reasons):
            raise ValueError(f"{MINILM} refused a post: {next(filter(None, reasons))}")
        return np.asarray(embeddings, np.float32)

    return cached(cache, f"{MINILM} no-headers", posts, encode)


def without_headers(post: bytes) -> str:
    """A post without its headers: what follows the first empty line."""
    return post.decode("utf-8", errors="replace").partition("\n\n")[2].strip()


def read(file: str, column: str) -> tuple[pa.Table, NDArray[np.int64], int]:
    """A Parquet file with the columns id, label and `column`, the classes (n,) of its rows, and how many."""
    table = pq.read_table(data_folder() / file, columns=["id", "label", column])
    names, classes = np.unique(np.asarray(table["label"].to_pylist()), return_inverse=True)
    return table, classes, len(names)


def payloads(column: pa.ChunkedArray) -> list[bytes]:
    """Bytes or texts as bytes."""
    return [p.encode() if isinstance(p, str) else p for p in column.to_pylist()]


def _pool(
    file: str,
    column: str,
    seed: int,
    most: int,
    embed: Callable[[list[bytes]], NDArray[np.float16]],
) -> LabelledPool:
    """A thinned pool of a Parquet file."""
    table, classes, count = read(file, column)
    rows = zipf_thinned(classes, 1.2, seed, most)
    thinned = table.take(rows)
    return LabelledPool(thinned["id"].to_pylist(), classes[rows], count, embed(payloads(thinned[column])))


def cached(
    cache: Path,
    encoder: str,
    payloads: Sequence[bytes],
    encode: Callable[[Sequence[bytes]], NDArray[np.float32]],
) -> NDArray[np.float16]:
    """Unit rows (n, d) of payloads, from the cache where the same bytes met the same encoder before."""
    digest = hashlib.blake2b(encoder.encode(), digest_size=16)
    for payload in payloads:
        digest.update(hashlib.blake2b(payload, digest_size=16).digest())
    path = cache / f"{digest.hexdigest()}.npy"
    if not path.exists():
        rows = normalize_rows(encode(payloads)).astype(np.float16)
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=cache, suffix=".part", delete=False) as file:
            np.save(file, rows)
        Path(file.name).replace(path)
    kept: NDArray[np.float16] = np.load(path)
    return kept
