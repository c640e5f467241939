"""How much do the encoders see? Leave-one-out accuracy of the nearest neighbour, on real images.

    EVENSET_DATA=... python -m benchmarks.encoders [--images 3000]

On CIFAR-10 and scikit-learn's digits: raw pixels, `patches` (learned from those same images, without labels),
and for CIFAR-10 the ImageNet-trained MobileNetV2 as the mark that pretraining sets. Fails if `patches` is
below 43 % on CIFAR-10 or 98 % on the digits.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

import modalities
from benchmarks.features import MissingDataError, data_folder
from modalities.encoders.base import FittedEncoder
from pipelines.fitting import kmeans

GOALS = {"CIFAR-10": 0.43, "digits": 0.98}

Embedded = tuple[NDArray[np.float32], str]


def accuracy(embeddings: NDArray[np.float32], labels: NDArray[Any]) -> float:
    """Share of rows whose nearest other row, by cosine, has their label."""
    rows = np.ascontiguousarray(embeddings, dtype=np.float32)
    faiss.normalize_L2(rows)
    index = faiss.IndexFlatIP(rows.shape[1])
    index.add(rows)
    near = index.search(rows, 2)[1]
    # Of exact duplicates the other one may come first.
    neighbour = np.where(near[:, 0] == np.arange(len(rows)), near[:, 1], near[:, 0])
    return float((labels[neighbour] == labels).mean())


def raw_pixels(images: list[NDArray[Any]]) -> Embedded:
    """Flattened pixels."""
    return np.stack(images).reshape(len(images), -1).astype(np.float32), ""


def patches(images: list[NDArray[Any]]) -> Embedded:
    """The offline encoder, fitted on 2,000 of the images with this project's k-means, as a run does."""
    encoder = modalities.encoder("patches", modalities.modality("image"))
    assert isinstance(encoder, FittedEncoder)
    began = time.perf_counter()
    encoder.fit(images[:: -(-len(images) // 2000)], kmeans, seed=0)
    fitted = time.perf_counter()
    encoder.load()
    embeddings, reasons = encoder.encode_all([encoder.prepare(image) for image in images])
    assert not any(reasons)
    return embeddings, f"fit {fitted - began:.1f} s, encode {time.perf_counter() - fitted:.1f} s"


def mobilenet(images: list[NDArray[Any]], data: Path) -> Embedded:
    """ImageNet MobileNetV2, images enlarged to 128 pixels."""
    from benchmarks.mobilenet import WEIGHTS, MobileNetV2  # torch takes seconds to import

    return MobileNetV2(data / WEIGHTS).encode([Image.fromarray(image) for image in images]), ""


def cifar10(data: Path, count: int) -> tuple[list[NDArray[Any]], NDArray[Any]]:
    """Every 60,000/count-th image in the order of the file, decoded by the image modality."""
    table = pq.read_table(data / "cifar10.parquet", columns=["image", "label"])
    table = table.take(np.arange(count) * (table.num_rows // count))
    decode = modalities.modality("image").decode
    return [decode(payload) for payload in table["image"].to_pylist()], np.array(table["label"].to_pylist())


def digits() -> tuple[list[NDArray[Any]], NDArray[Any]]:
    """scikit-learn's 1,797 digits, 8x8."""
    from sklearn.datasets import load_digits

    found = load_digits()
    return [np.rint(image * (255 / 16)).astype(np.uint8)[:, :, None] for image in found.images], found.target


def main() -> int:
    """Print the table; return 1 where `patches` misses a goal."""
    parser = argparse.ArgumentParser(description="Nearest-neighbour accuracy of image encoders.")
    parser.add_argument("--images", type=int, default=3000, help="CIFAR-10 images")
    arguments = parser.parse_args()
    encoders: dict[str, Callable[[list[NDArray[Any]]], Embedded]]
    encoders = {"raw pixels": raw_pixels, "patches": patches}
    sets: list[tuple[str, list[NDArray[Any]], NDArray[Any]]] = [("digits", *digits())]
    try:
        data = data_folder()
        sets.insert(0, ("CIFAR-10", *cifar10(data, arguments.images)))
        encoders["MobileNetV2"] = lambda images: mobilenet(images, data)
    except MissingDataError as error:
        print(f"CIFAR-10 and MobileNetV2 are left out: {error}")
    print(f"{'images':>6} {'data':<10} {'encoder':<12} {'dims':>5} {'1-NN':>7} {'seconds':>8}")
    missed = []
    for name, images, labels in sets:
        for encoder, embed in encoders.items():
            if encoder == "MobileNetV2" and images[0].shape[2] != 3:
                continue
            began = time.perf_counter()
            embeddings, note = embed(images)
            seconds = time.perf_counter() - began
            score = accuracy(embeddings, labels)
            print(
                f"{len(images):>6} {name:<10} {encoder:<12} {embeddings.shape[1]:>5} {score:>7.1%}"
                f" {seconds:>8.1f}  {note}",
                flush=True,
            )
            if encoder == "patches" and score < GOALS[name]:
                missed.append(f"{name}: {score:.1%} is below {GOALS[name]:.0%}")
    print("missed: " + "; ".join(missed) if missed else "patches reaches its goals")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
