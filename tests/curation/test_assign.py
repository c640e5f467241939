"""Labels are those of exact arithmetic, ties to the lower index, whatever computes the products."""

from functools import cache

import numpy as np
import pytest

from curation import exact
from curation.assign import Assigner, Centroids
from curation.errors import CurationError
from curation.kernels import cpu


def close_calls(n=4000, d=64, k=600):
    """Rows that lie almost midway between pairs of centroids, and some exact ties."""
    generator = np.random.default_rng(0)
    centroids = exact.Grid(0).encode(exact.normalize_rows(generator.standard_normal((k, d))))
    centroids[k // 2 :] = centroids[: k // 2] + 2.0**-22 * generator.integers(-2, 3, (k // 2, d))
    centroids[3] = centroids[400]  # equal centroids: the lower index wins
    centroids = exact.Grid(0).encode(centroids)
    rows = centroids[generator.integers(0, k, n)] + 2.0**-20 * generator.integers(-9, 9, (n, d))
    return exact.Grid(0).encode(rows), centroids


def slow_twin(rows, centroids):
    products = rows.astype(np.float64) @ centroids.T.astype(np.float64)
    return ((centroids.astype(np.float64) ** 2).sum(1) / 2 - products).argmin(1)


def nearest(rows, centroids, **how):
    norms = np.sqrt(exact.squared_norms(rows))
    return Assigner(**how).nearest(rows, norms, Centroids(centroids)).labels


@pytest.mark.parametrize("matmul", sorted(cpu.ROUTES))
@pytest.mark.parametrize("tile", [0, 1, 7, 1024])
def test_labels_are_exact(matmul, tile):
    rows, centroids = close_calls()
    assert np.array_equal(nearest(rows, centroids, matmul=matmul, tile=tile), slow_twin(rows, centroids))


def test_without_the_recheck_they_are_not():
    rows, centroids = close_calls()
    assert not np.array_equal(nearest(rows, centroids, recheck=False), slow_twin(rows, centroids))


def test_rows_far_from_the_origin_keep_exact_labels():
    generator = np.random.default_rng(1)
    rows = 0.9 / np.sqrt(8) + 1e-5 * generator.standard_normal((2000, 8))
    rows = exact.Grid(0).encode(rows)
    centroids = rows[:100]
    assert np.array_equal(nearest(rows, centroids), slow_twin(rows, centroids))


def test_every_route_keeps_its_bound():
    for name in cpu.ROUTES:
        assert cpu.probe(cpu.ROUTES[name], 384) < 0.5


def rounded(bits):
    """A float32 product of values that are first rounded to so many bits after the leading one."""

    def low(values):
        mantissa, exponents = np.frexp(values)
        return np.ldexp(np.rint(np.ldexp(mantissa, bits + 1)), exponents - bits - 1)

    return lambda rows, transposed, out: np.matmul(low(rows), low(transposed), out=out)


LOW = {"bfloat16": rounded(7), "tf32": rounded(10), "two bfloat16": rounded(15)}


@pytest.mark.parametrize("dimensions", [1, 64, 1024, 4096])
@pytest.mark.parametrize("name", LOW)
def test_a_route_of_low_precision_is_refused_in_any_number_of_dimensions(monkeypatch, name, dimensions):
    """Errors of random products cancel: in thousands of dimensions they stay below float32's bound."""
    monkeypatch.setitem(cpu.ROUTES, name, LOW[name])
    with pytest.raises(CurationError, match="times its bound"):
        cpu.route(name, dimensions)


def test_a_route_without_an_error_is_refused(monkeypatch):
    monkeypatch.setitem(cpu.ROUTES, "lost", lambda rows, transposed, out: out * np.nan)
    with pytest.raises(CurationError, match="times its bound"):
        cpu.route("lost", 8)


@pytest.fixture
def precision():
    """Sets PyTorch's precision of float32 products, for the time of a test."""
    import torch

    yield torch.set_float32_matmul_precision
    torch.set_float32_matmul_precision("highest")


def test_a_route_is_probed_again_where_torch_is_told_of_another_precision(monkeypatch, precision):
    import torch

    clock = [0.0]

    def slow(rows, transposed, out):
        clock[0] += 2
        return np.matmul(rows, transposed, out=out)

    def moody(rows, transposed, out):
        clock[0] += 1
        low = torch.backends.mkldnn.matmul.fp32_precision == "bf16"
        return (LOW["bfloat16"] if low else np.matmul)(rows, transposed, out=out)

    monkeypatch.setattr(cpu, "ROUTES", {"slow": slow, "moody": moody})
    monkeypatch.setattr(cpu.time, "perf_counter", lambda: clock[0])
    for cached in (cpu._fastest, cpu._probed):
        monkeypatch.setattr(cpu, cached.__name__, cache(cached.__wrapped__))
    for _ in range(2):
        assert cpu.route("moody", 96) is cpu.route("auto", 96) is moody
        precision("medium")
        with pytest.raises(CurationError, match="times its bound"):
            cpu.route("moody", 96)
        assert cpu.route("auto", 96) is slow
        precision("highest")


@pytest.mark.parametrize("matmul", ["auto", *cpu.ROUTES])
def test_labels_are_exact_or_refused_whatever_torch_is_told(precision, matmul):
    rows, centroids = close_calls(d=256)
    twin = slow_twin(rows, centroids)
    for name in ("highest", "medium", "high"):
        precision(name)
        try:
            labels = nearest(rows, centroids, matmul=matmul)
        except CurationError:
            assert matmul in ("torch", "onednn")
        else:
            assert np.array_equal(labels, twin)


def test_auto_takes_the_fastest_route_that_keeps_its_bound(monkeypatch):
    import torch  # noqa: F401  routes of libraries that are not loaded are not tried

    clock = [0.0]

    def product(seconds, factor=1.0):
        def matmul(rows, transposed, out):
            clock[0] += seconds
            return np.multiply(rows @ transposed, factor, dtype=np.float32)

        return matmul

    def missing(rows, transposed, out):
        raise AttributeError("not in this build")

    routes = {"slow": product(3), "good": product(2), "wrong": product(1, 1.01), "missing": missing}
    monkeypatch.setattr(cpu, "ROUTES", routes)
    monkeypatch.setattr(cpu.time, "perf_counter", lambda: clock[0])
    for cached in (cpu._fastest, cpu._probed):
        monkeypatch.setattr(cpu, cached.__name__, cached.__wrapped__)
    assert cpu.route("auto", 64) is routes["good"]


def test_an_unknown_route_is_named():
    with pytest.raises(CurationError, match="'cuda'.*numpy"):
        cpu.route("cuda", 8)
