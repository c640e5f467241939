"""The pools that clustering is timed on: three synthetic ones, noise, and features of real data.

A and B are long tails of Gaussian clusters, as embeddings of photographs are; C is a manifold whose
clusters run into one another; noise has no clusters at all, where shortcuts that count on clusters
cost most. All have unit rows. A case is the same on every machine up to the last bits of a float32.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.features import minilm, mobilenet, payloads, read

CACHE = Path(tempfile.gettempdir()) / "evenset-cases"
_ROWS = 20_000  # generated at a time
_SMALL = 20  # how much smaller the pools of a trial run are

Pool = tuple[NDArray[np.float32], NDArray[np.int32]]


@dataclass(frozen=True)
class Case:
    """A pool to cluster.

    Attributes:
        name: Its name in tables.
        kind: How its rows come about, one of `GENERATED` or `REAL`.
        rows: Number of rows, n.
        width: Dimensions, d.
        n_clusters: Clusters to find, k.
        seed: Of what is generated. How tight the few heaviest components of a mixture are is luck, and
            decides the objective: with these seeds other libraries end near .225 on A and .16 on B.
    """

    name: str
    kind: str
    rows: int
    width: int
    n_clusters: int
    seed: int = 0

    def small(self) -> Case:
        """The same at a twentieth of the rows and clusters, for a trial run."""
        rows, clusters = self.rows // _SMALL, max(2, self.n_clusters // _SMALL)
        return replace(self, name=f"{self.name}/{_SMALL}", rows=rows, n_clusters=clusters)

    def load(self, cache: Path = CACHE) -> Pool:
        """Unit rows (n, d) and the component (n,) that each was drawn from (all 0 where there is none)."""
        kept = cache / f"{hashlib.blake2b(self._recipe(), digest_size=12).hexdigest()}.npz"
        if not kept.exists():
            if self.kind in REAL:
                rows, components = REAL[self.kind](self.rows, self.width, cache)
            else:
                rows, components = GENERATED[self.kind](self.rows, self.width, self.seed)
            cache.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=cache, suffix=".part", delete=False) as file:
                np.savez(file, rows=rows, components=components)
            Path(file.name).replace(kept)
        with np.load(kept) as arrays:
            return arrays["rows"], arrays["components"]

    def _recipe(self) -> bytes:
        """What decides the rows, for the name of their file."""
        told = {**asdict(self), "code": Path(__file__).read_text()}
        return json.dumps({key: told[key] for key in ("kind", "rows", "width", "seed", "code")}).encode()


def mixture(n: int, d: int, seed: int) -> Pool:
    """A long tail of Gaussian clusters: 2,000 components of Zipf sizes in 60 topics.

    Every direction has the standard deviation i^-0.4 of a power law. A component's mean is its topic's
    plus a deviation of its own; its points spread over 24 of 192 shared directions, with a little noise
    in all.
    """
    random = np.random.default_rng(seed)
    power = np.arange(1.0, d + 1) ** -0.4
    spectrum = _f32(power / np.sqrt(np.mean(power**2)))
    topics, components, shared, own = 60, 2000, 192, 24

    def gaussian(rows: int) -> NDArray[np.float32]:
        drawn: NDArray[np.float32] = random.standard_normal((rows, d), np.float32) * spectrum
        return drawn

    topic = random.choice(topics, components, p=random.dirichlet(np.full(topics, 0.5)))
    means = gaussian(topics)[topic] + 0.7 * gaussian(components)
    directions = gaussian(shared)
    mine = np.argsort(random.random((components, shared)), axis=1)[:, :own]
    spread = _f32(random.uniform(0.35, 0.85, components))
    component = random.choice(components, n, p=random.permutation(_zipf(components))).astype(np.int32)
    turn = _f32(np.linalg.qr(random.standard_normal((d, d)))[0])  # so that no axis is special

    def draw(drawn: NDArray[np.int32]) -> NDArray[np.float32]:
        loads = np.zeros((len(drawn), shared), np.float32)
        weights = random.standard_normal((len(drawn), own), np.float32) * np.float32(0.9 / own**0.5)
        np.put_along_axis(loads, mine[drawn], weights, axis=1)
        within = loads @ directions + np.float32(0.45) * gaussian(len(drawn))
        rows: NDArray[np.float32] = (means[drawn] + spread[drawn, None] * within) @ turn
        return rows

    return _unit(_in_blocks(draw, component, d)), component


def manifold(n: int, d: int, seed: int) -> Pool:
    """Overlapping clusters on a curved sheet: 2,000 Zipf-sized Gaussians in 40 dimensions, seen bent.

    A random network of one hidden layer (512 rectified units) bends the latent points into d dimensions;
    a quarter of its output's standard deviation is added as noise, and the mean is taken out.
    """
    random = np.random.default_rng(seed)
    components, latent, hidden = 2000, 40, 512
    means = random.standard_normal((components, latent), np.float32)
    spread = _f32(random.uniform(0.4, 1.2, components))
    component = random.choice(components, n, p=_zipf(components)).astype(np.int32)
    first = random.standard_normal((latent, hidden), np.float32) / np.float32(latent**0.5)
    bias = np.float32(0.3) * random.standard_normal(hidden, np.float32)
    second = random.standard_normal((hidden, d), np.float32) / np.float32(hidden**0.5)

    def draw(drawn: NDArray[np.int32]) -> NDArray[np.float32]:
        points = means[drawn] + spread[drawn, None] * random.standard_normal((len(drawn), latent), np.float32)
        bent = np.maximum(points @ first + bias, 0) @ second
        noise = random.standard_normal(bent.shape, np.float32)
        rows: NDArray[np.float32] = bent + np.float32(0.25) * bent.std() * noise
        return rows

    rows = _in_blocks(draw, component, d)
    rows -= rows.mean(axis=0)
    return _unit(rows), component


def noise(n: int, d: int, seed: int) -> Pool:
    """Gaussian noise: every direction is as likely as every other."""
    random = np.random.default_rng(seed)
    return _unit(random.standard_normal((n, d), np.float32)), np.zeros(n, np.int32)


def pictures(n: int, d: int, cache: Path) -> Pool:
    """Evenly chosen pictures of CIFAR-10 as ImageNet's MobileNetV2 sees them, and their classes."""
    return _features("cifar10.parquet", "image", n, d, lambda pictures: mobilenet(cache, pictures))


def posts(n: int, d: int, cache: Path) -> Pool:
    """Evenly chosen posts of 20 Newsgroups, without headers, as all-MiniLM-L6-v2 sees them; their topics."""
    return _features("newsgroups20.parquet", "text", n, d, lambda posts: minilm(cache, posts))


GENERATED: dict[str, Callable[[int, int, int], Pool]] = {
    "mixture": mixture,
    "manifold": manifold,
    "noise": noise,
}
REAL: dict[str, Callable[[int, int, Path], Pool]] = {"pictures": pictures, "posts": posts}

CASES = {
    case.name: case
    for case in (  # the cheap ones first
        Case("posts", "posts", 10_000, 384, 500),
        Case("pictures", "pictures", 10_000, 1280, 500),
        Case("noise", "noise", 100_000, 128, 1000),
        Case("A", "mixture", 100_000, 256, 1000, seed=1),
        Case("B", "mixture", 200_000, 384, 5000, seed=1),
        Case("C", "manifold", 200_000, 384, 5000),
    )
}


def named(name: str) -> Case:
    """The case of a name, "A" as it is and "A/20" small."""
    base, _, small = name.partition("/")
    return CASES[base].small() if small else CASES[base]


def _f32(values: NDArray[Any]) -> NDArray[np.float32]:
    return values.astype(np.float32)


def _zipf(count: int) -> NDArray[np.float64]:
    """Shares (count,) proportional to 1 / rank."""
    weights: NDArray[np.float64] = 1 / np.arange(1.0, count + 1)
    weights /= weights.sum()
    return weights


def _in_blocks(
    draw: Callable[[NDArray[np.int32]], NDArray[np.float32]], component: NDArray[np.int32], d: int
) -> NDArray[np.float32]:
    """Rows (n, d) of all points, drawn a block at a time, so that little more than they is ever held."""
    rows = np.empty((len(component), d), np.float32)
    for start in range(0, len(component), _ROWS):
        rows[start : start + _ROWS] = draw(component[start : start + _ROWS])
    return rows


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """The rows, normalised in place."""
    for start in range(0, len(rows), _ROWS):
        block = rows[start : start + _ROWS]
        block /= np.linalg.norm(block, axis=1, keepdims=True)
    return rows


def _features(
    file: str, column: str, n: int, d: int, embed: Callable[[list[bytes]], NDArray[np.float16]]
) -> Pool:
    """Features (n, d) of evenly chosen rows of a Parquet file with the columns id, label and `column`."""
    table, classes, _ = read(file, column)
    chosen = np.arange(n) * len(table) // n
    rows = embed(payloads(table[column].take(chosen))).astype(np.float32)
    if rows.shape != (n, d):
        raise ValueError(f"{file}: features of shape {rows.shape}, not {(n, d)}")
    return rows, classes[chosen].astype(np.int32)
