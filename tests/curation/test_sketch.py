"""Directions of large variance: orthonormal, near the best there are, the same bits on every machine."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from curation import exact, sketch
from tests.curation.kernels.twins import on_grid


def decaying(n, d, seed=0):
    """Rows whose variance falls off by direction, rotated at random."""
    generator = np.random.default_rng(seed)
    turn = np.linalg.qr(generator.standard_normal((d, d)))[0]
    return on_grid(generator.standard_normal((n, d)) / np.arange(1, d + 1) ** 0.7 @ turn)


@pytest.mark.parametrize(("n", "d", "size"), [(500, 150, 48), (3000, 200, 48), (64, 4096, 48), (900, 20, 7)])
def test_directions_are_orthonormal(n, d, size):
    generator = np.random.default_rng(0)
    rows = decaying(n, d) if d < 1000 else on_grid(generator.standard_normal((n, d)))
    found = sketch.directions(rows, size)
    np.testing.assert_allclose(found.T @ found, np.eye(size), atol=1e-5)
    assert np.array_equal(found, np.rint(found * 2**20) / 2**20)


def test_they_capture_nearly_the_largest_variance():
    rows = decaying(2000, 180).astype(np.float64)
    best = np.linalg.eigvalsh(rows.T @ rows)[-sketch.SIZE :].sum()
    found = ((rows @ sketch.directions(rows.astype(np.float32))) ** 2).sum()
    assert 0.98 * best < found <= best * (1 + 1e-4)


def test_beyond_the_rank_of_the_sample_they_are_orthonormal_or_zero():
    """A sample of rank 3, as that of a pool with three different rows."""
    rows = np.repeat(on_grid(np.random.default_rng(0).standard_normal((3, 160))), 50, axis=0)
    found = sketch.directions(rows)
    products = found.T @ found
    kept = np.diag(products) > 0.5
    assert kept.sum() >= 3
    np.testing.assert_allclose(products[np.ix_(kept, kept)], np.eye(kept.sum()), atol=1e-4)
    assert not products[~kept].any()
    flat = sketch.project(rows, found).astype(np.float64)
    np.testing.assert_allclose((flat**2).sum(1), exact.squared_norms(rows), rtol=1e-4)


@pytest.mark.parametrize("rows", [np.zeros((10, 150), np.float32), np.full((1, 150), 2.0**-24, np.float32)])
def test_rows_of_nothing_much_are_no_trouble(rows):
    found = sketch.directions(rows)
    assert np.isfinite(found).all()
    assert np.isfinite(sketch.project(rows, found)).all()


def test_projections_are_on_the_grid_and_no_longer_than_the_rows():
    rows = decaying(5000, 150)
    along = sketch.directions(rows[:600])
    flat = sketch.project(rows, along)
    assert np.array_equal(flat, exact.Grid(0).encode(rows.astype(np.float64) @ along))
    assert (exact.squared_norms(flat) <= exact.squared_norms(rows) * (1 + 1e-4) + 1e-9).all()
    assert np.array_equal(sketch.project(rows, along, threads=2), flat)


def digest():
    generator = np.random.default_rng(0)  # no matrix product here: its rounding hangs on the machine
    rows = on_grid(generator.standard_normal((1500, 300)) / np.arange(1, 301) ** 0.7)
    along = sketch.directions(rows)
    return hashlib.blake2b(along.tobytes() + sketch.project(rows, along).tobytes()).hexdigest()


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="these are instruction sets of x86-64")
def test_the_same_bits_whatever_computes():
    told = set()
    for kind, threads in (("Nehalem", "1"), ("Haswell", "2")):
        environment = {**os.environ, "OPENBLAS_CORETYPE": kind}
        environment |= {"OPENBLAS_NUM_THREADS": threads, "OMP_NUM_THREADS": threads}
        done = subprocess.run(
            [sys.executable, "-m", "tests.curation.test_sketch"],
            env=environment,
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=True,
        )
        told.add(done.stdout)
    assert len(told) == 1
    assert len(told.pop()) > 100


if __name__ == "__main__":
    print(digest())
