"""The slope is found where the density of centroids is known."""

import numpy as np
import pytest
from scipy.stats import norm

from benchmarks.zador1d import points, slope


def quantiles(spread, count):
    """Centroids that have exactly the density of a Gaussian cut to [-3, 3]."""
    low, high = norm.cdf([-3, 3], scale=spread)
    return norm.ppf(low + (high - low) * (np.arange(count) + 0.5) / count, scale=spread)


@pytest.mark.parametrize("power", [1, 1 / 3, 1 / 9])
def test_slope_of_a_power_of_the_density(power):
    # a Gaussian's density to the power a is a Gaussian 1 / sqrt(a) as wide
    edges = np.linspace(-3, 3, 41)
    found = slope(quantiles(1, 200_000), quantiles(power**-0.5, 20_000), 20, edges)
    assert found == pytest.approx(power, abs=0.005)


def test_sparse_bins_are_left_out():
    edges = np.linspace(0, 3, 4)
    data = np.repeat([0.5, 1.5, 2.5], [100, 1000, 10_000])
    centroids = np.repeat([0.5, 1.5, 2.5], [1, 20, 40])
    assert slope(data, centroids, 20, edges) == pytest.approx(np.log10(2))
    assert slope(data, centroids, 1, edges) > 0.7


def test_points_lie_in_the_three_intervals():
    found = points(0)
    inside = [(found >= low) & (found <= high) for low, high in ((-14, -7), (0, 12), (17, 23))]
    assert np.all(np.sum(inside, axis=0) == 1)
    assert 240_000 < len(found) < 250_000
