"""The 2-D experiment's measure has the values that it must have."""

import numpy as np
import pytest

from benchmarks.toy2d import METHODS, kl_to_uniform, measure, points


def test_a_grid_without_edges_is_uniform():
    axis = np.linspace(-6, 6, 61)
    grid = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    assert kl_to_uniform(grid) < 1e-3


def test_one_centre_has_the_entropy_of_its_kernel():
    # ln(area) - (1 + ln(2 pi h^2)), the Gaussian lying well inside
    assert kl_to_uniform(np.zeros((1, 2))) == pytest.approx(
        np.log(36) - 1 - np.log(2 * np.pi * 0.25), abs=1e-4
    )


def test_the_data_are_as_uneven_as_the_paper_says():
    assert len(points(0)) == 9000
    assert kl_to_uniform(points(0)) == pytest.approx(0.942, abs=0.02)


def test_300_uniform_points_are_at_the_floor():
    uniform = [np.random.default_rng(seed).uniform(-3, 3, (300, 2)) for seed in range(10)]
    assert np.mean([kl_to_uniform(each) for each in uniform]) == pytest.approx(0.040, abs=0.007)


def test_clustering_evens_out_and_levels_do_more():
    one, two = (measure(method, seed=0) for method in METHODS[:2])
    assert one == pytest.approx(0.350, abs=0.03)
    assert two == pytest.approx(0.147, abs=0.03)
