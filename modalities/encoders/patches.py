"""An image encoder without download and without labels, learned from the pool itself.

Single-layer features after Coates, Lee and Ng, "An Analysis of Single-Layer Networks in Unsupervised Feature
Learning" (AISTATS 2011): small patches are contrast-normalised and whitened (section 3.1), k-means learns a
dictionary of them (3.2.3), every patch of an image is described by its soft "triangle" activations (3.2.3),
and these are pooled over the cells of a grid (3.3), square-rooted, standardised and reduced by PCA.

The 3x3 grid (the paper has quadrants), the square root and the half-whitened PCA were chosen among some 40
variants on 3,000 CIFAR-10 images, one seed each: about 3 points of nearest-neighbour accuracy for the grid,
and as much for the other two. `benchmarks/encoders.py` measures the result on another choice of images.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from scipy.linalg import eigh

from modalities.base import ModalityError, Rejected
from modalities.encoders.base import FittedEncoder, KMeansFn

WORDS = 256
"""Size of the dictionary."""

PATCHES = 40_000
"""Patches that the dictionary is learned from."""

GRID = 3
"""Cells a side over which activations are pooled."""

FEATURE_IMAGES = 3_000
"""Images that the mean, the scale and the PCA of the features are learned from."""

MAX_SIZE = 32
"""Larger images are shrunk to this many pixels a side: the words describe edges and colours, not detail."""

MAX_BANDS = 16
"""The whitening is of side `patch`^2 x bands; that of 200 bands would take minutes, and gigabytes."""

CONTRAST = 0.003
"""Added to a patch's variance, in images of unit variance: flat patches stay flat (about 10 in 0..255)."""

WHITENING = 0.3
"""Added to the eigenvalues of the normalised patches (section 3.1, note 2)."""

SAME = 1e-3
"""A feature that varies less than this (they are of order 1) varies by rounding: the root amplifies it."""

CHUNK = 8
"""Images whose patches are in memory at once; keeps the work in the processor's cache."""


class Patches(FittedEncoder):
    """Dictionary of whitened patches; rasters of 1 to 16 bands, 128 dimensions.

    The working size is the median side of the pool's images, at most `MAX_SIZE`; patches have 6 pixels a
    side, 4 in images under 24 pixels. A pool's number of bands is its most frequent one, and grey images are
    taken into a pool of colour images.

    Args:
        argument: nothing may follow the name.
        kind: ``raster``.
        batch_size: images of a batch.
        dtype: only float32.
        device: only the CPU.

    Raises:
        ModalityError: something else was asked for.
    """

    accepts: ClassVar[tuple[str, ...]] = ("raster",)

    def __init__(
        self,
        argument: str = "",
        *,
        kind: str = "raster",
        batch_size: int | None = None,
        dtype: str | None = None,
        device: str | None = None,
    ) -> None:
        if argument:
            raise ModalityError(f"encoder.model 'patches' takes no argument, but got {argument!r}.")
        if dtype not in (None, "auto", "float32"):
            raise ModalityError(f"encoder.dtype {dtype!r}: the encoder 'patches' computes in float32.")
        self.spec = "patches"
        self.dim = 128
        self.batch_size = batch_size or 64
        self.input_dtype = np.dtype(np.float32)
        self._state: dict[str, NDArray[Any]] = {}

    def fit(self, samples: Sequence[Any], kmeans: KMeansFn, seed: int) -> dict[str, NDArray[Any]]:
        """Learn scale, whitening, dictionary and projection from decoded rasters (H, W, bands).

        Args:
            samples: uint8 or float arrays; a few thousand are plenty.
            kmeans: learns the dictionary.
            seed: of the choice of patches.

        Raises:
            ModalityError: there is no sample, or most have more than 16 bands.
        """
        if not len(samples):
            raise ModalityError("The encoder 'patches' has no sample to learn from: every one was rejected.")
        bands = _usual_bands(samples)
        side = int(np.median([min(sample.shape[:2]) for sample in samples]))
        size = min(max(side, 4), MAX_SIZE)
        patch = 6 if size >= 24 else 4 if size >= 8 else 2
        self._state = {"size": np.array(size), "patch": np.array(patch), "bands": np.array(bands)}
        self.input_shape = (size, size, bands)
        images = []
        for sample in samples:
            try:
                images.append(self.prepare(sample))
            except Rejected:
                continue  # the pool has other bands as well; the embed stage names those samples
        pool = np.stack(images)
        self._state["offset"] = pool.mean(axis=(0, 1, 2), dtype=np.float64).astype(np.float32)
        # One scale for all bands would let the widest one drown the others.
        spread = pool.std(axis=(0, 1, 2), dtype=np.float64)
        self._state["scale"] = np.where(spread > 0, spread, 1).astype(np.float32)

        rng = np.random.Generator(np.random.PCG64(seed))
        patches = self._draw_patches(pool, rng)
        self._state |= _whitening(patches)
        white = (patches - self._state["patch_mean"]) @ self._state["whitening"]
        self._state["words"] = kmeans(white, min(WORDS, len(np.unique(white, axis=0))), seed)
        chosen = np.sort(rng.permutation(len(pool))[:FEATURE_IMAGES])
        self._state |= _projection(self._features(pool[chosen]), self.dim)
        return dict(self._state)

    def set_state(self, state: dict[str, NDArray[Any]]) -> None:
        """Take what `fit` returned."""
        wanted = {
            "size", "patch", "bands", "offset", "scale", "patch_mean", "whitening", "words",
            "feature_mean", "projection", "bias",
        }  # fmt: skip
        if set(state) != wanted:
            raise ModalityError(
                f"The state of the encoder 'patches' has the arrays {sorted(state)}, not {sorted(wanted)}."
            )
        self._state = dict(state)
        size = int(state["size"])
        self.input_shape = (size, size, int(state["bands"]))

    def load(self) -> None:
        """Check that the encoder was fitted; there are no weights to fetch."""
        if "projection" not in self._state:
            raise ModalityError("The encoder 'patches' was not fitted: fit it, or set its state.")

    def prepare(self, sample: Any) -> NDArray[np.float32]:
        """Bring a raster to the working size and the pool's bands; aspect ratios are not kept.

        Returns:
            (size, size, bands), float32.
        """
        if self.input_shape is None:
            raise ModalityError("The encoder 'patches' was not fitted: fit it, or set its state.")
        size, _, bands = self.input_shape
        if sample.shape[2] == 1 and bands == 3:
            sample = np.repeat(sample, 3, axis=2)
        elif sample.shape[2] == 3 and bands == 1:
            sample = sample.mean(axis=2, keepdims=True, dtype=np.float32)
        if sample.shape[2] != bands:
            raise Rejected(f"The image has {sample.shape[2]} bands, where most of the pool has {bands}.")
        if not np.isfinite(sample).all():
            raise Rejected("The image holds NaN or infinite pixels.")
        if sample.shape[:2] == (size, size):
            return np.ascontiguousarray(sample, dtype=np.float32)
        planes = [
            Pillow.fromarray(np.ascontiguousarray(sample[:, :, band], dtype=np.float32)).resize(
                (size, size), Pillow.Resampling.BILINEAR
            )
            for band in range(bands)
        ]
        return np.stack([np.asarray(plane) for plane in planes], axis=2)

    def encode(
        self, batch: Sequence[NDArray[Any] | str], like: Sequence[NDArray[Any] | str] | None = None
    ) -> NDArray[np.float32]:
        """Encode up to `batch_size` prepared images; missing rows are filled with zeros.

        Products are made an image at a time: in one of several, what a row comes to hangs on its place (in
        OpenBLAS' kernel for Haswell on the place modulo 12), and so on how the pool is cut into parts.
        """
        images = np.zeros((self.batch_size, *(self.input_shape or ())), dtype=np.float32)
        images[: len(batch)] = np.stack([np.asarray(row) for row in batch])
        features = self._features(images) - self._state["feature_mean"]
        projected = (features[:, None] @ self._state["projection"])[:, 0]
        embeddings: NDArray[np.float32] = projected + self._state["bias"]
        return embeddings[: len(batch)]

    def _windows(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return all patches of standardised images: (n, rows, columns, patch^2 bands)."""
        patch = int(self._state["patch"])
        scaled = (images - self._state["offset"]) / self._state["scale"]
        windows = np.lib.stride_tricks.sliding_window_view(scaled, (patch, patch), axis=(1, 2))
        n, rows, columns = windows.shape[:3]
        return np.ascontiguousarray(windows).reshape(n, rows, columns, -1)

    def _draw_patches(self, pool: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
        """Return about `PATCHES` contrast-normalised patches (m, patch^2 bands), as many from each image."""
        side = pool.shape[1] - int(self._state["patch"]) + 1
        each = min(side * side, max(1, -(-PATCHES // len(pool))))
        images = np.sort(rng.permutation(len(pool))[: PATCHES // each])
        drawn = []
        for image in images:
            windows = self._windows(pool[image : image + 1]).reshape(side * side, -1)
            drawn.append(windows[rng.permutation(side * side)[:each]])
        return _normalised(np.concatenate(drawn))

    def _features(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the roots of mean activations in the cells of the grid: (n, GRID^2 words)."""
        state = self._state
        words = state["words"]
        # |Wx - c|^2 = |Wx|^2 - 2 x.Wc + |c|^2: the whitened patch itself is needed for its norm alone.
        both = np.concatenate([state["whitening"], state["whitening"] @ words.T * -2], axis=1)
        shift = state["patch_mean"] @ both
        shift[-len(words) :] -= (words**2).sum(axis=1)
        side = images.shape[1] - int(state["patch"]) + 1
        # An image of 4 pixels has no more than 3 patches a side, so no cell is empty.
        edges = np.arange(GRID) * side // GRID
        share = np.outer(cells := np.diff(edges, append=side), cells).astype(np.float32)[None, :, :, None]
        features = np.empty((len(images), GRID * GRID * len(words)), dtype=np.float32)
        for start in range(0, len(images), CHUNK):
            windows = self._windows(images[start : start + CHUNK])
            n, rows, columns, depth = windows.shape
            patches = _normalised(windows.reshape(-1, depth)).reshape(n, -1, depth)
            product = (patches @ both).reshape(-1, both.shape[1])
            product -= shift
            distance = product[:, -len(words) :]
            white = product[:, :depth]
            distance += np.einsum("ij,ij->i", white, white)[:, None]
            np.maximum(distance, 0, out=distance)
            np.sqrt(distance, out=distance)
            activation = np.maximum(distance.mean(axis=1, keepdims=True) - distance, 0)
            activation = activation.reshape(n, rows, columns, len(words))
            # Sums over cells by two reductions, one an axis.
            pooled = np.add.reduceat(np.add.reduceat(activation, edges, axis=1), edges, axis=2)
            pooled /= share
            features[start : start + n] = np.sqrt(pooled).reshape(n, -1)
        return features


def _usual_bands(samples: Sequence[Any]) -> int:
    counts = np.bincount([sample.shape[2] for sample in samples])
    usual = int(counts.argmax())
    if usual > MAX_BANDS:
        raise ModalityError(
            f"The images have {usual} bands, but the encoder 'patches' takes 1 to {MAX_BANDS}: choose some"
            " (satellite.bands), or take another encoder."
        )
    # A few colour images among grey ones: grey can become RGB without loss, not the other way round.
    return 3 if usual == 1 and len(counts) > 3 and counts[3] else usual


def _normalised(patches: NDArray[np.float32]) -> NDArray[np.float32]:
    """Give each patch zero mean and unit contrast; (m, d)."""
    centred = patches - patches.mean(axis=1, keepdims=True)
    variance = np.einsum("ij,ij->i", centred, centred) / np.float32(patches.shape[1])
    normalised: NDArray[np.float32] = centred / np.sqrt(variance + np.float32(CONTRAST))[:, None]
    return normalised


def _whitening(patches: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    """Return the mean of patches (m, d) and their ZCA matrix (d, d)."""
    mean = patches.mean(axis=0, dtype=np.float64)
    centred = patches.astype(np.float64) - mean
    values, vectors = np.linalg.eigh(centred.T @ centred / len(patches))
    matrix = (vectors / np.sqrt(np.maximum(values, 0) + WHITENING)) @ vectors.T
    return {"patch_mean": mean.astype(np.float32), "whitening": matrix.astype(np.float32)}


def _projection(features: NDArray[np.float32], dim: int) -> dict[str, NDArray[np.float32]]:
    """Return the mean of features (n, f) and the matrix (f, dim) that standardises and projects them.

    A coordinate is divided by the fourth root of its variance, half-way between PCA and whitened PCA.

    Directions that the sample does not have are columns of zeros, so `dim` never depends on the pool. Where
    all samples look alike there are none at all, and a bias keeps the embeddings from being zero.
    """
    mean = features.mean(axis=0, dtype=np.float64)
    spread = features.std(axis=0, dtype=np.float64)
    scale = np.divide(1, spread, out=np.zeros_like(spread), where=spread > SAME)
    standard = ((features - mean) * scale).astype(np.float32)
    covariance = (standard.T @ standard).astype(np.float64) / len(features)
    largest = [max(0, len(covariance) - dim), len(covariance) - 1]
    values, vectors = eigh(covariance, subset_by_index=largest)
    there = values > max(1e-5 * values[-1], 1e-12)
    matrix = np.zeros((features.shape[1], dim))
    matrix[:, : there.sum()] = (vectors[:, there] * values[there] ** -0.25)[:, ::-1] * scale[:, None]
    bias = np.zeros(dim, dtype=np.float32)
    bias[0] = not there.any()
    return {
        "feature_mean": mean.astype(np.float32),
        "projection": matrix.astype(np.float32),
        "bias": bias,
    }
