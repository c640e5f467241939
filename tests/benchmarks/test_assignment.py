"""The bare product is that of the tiles, and the verdict follows from the ratio."""

import numpy as np
import pytest

from benchmarks import assignment
from benchmarks.assignment import bare_product, measure, report
from curation.assign import Assigner

MACHINE = {"packages": {"numpy": "2"}, "cpu": "one", "cores": 2, "python": "3.11", "blas": ["numpy: x1"]}


@pytest.mark.parametrize("threads", [1, 2])
def test_the_bare_product_takes_every_tile_once(threads, monkeypatch):
    rows = np.arange(70, dtype=np.float32)[:, None] * np.ones((1, 3), np.float32)
    values = np.ones((5, 3), np.float32)
    seen = []

    def product(block, transposed, out):
        assert out.shape == (len(block), transposed.shape[1])
        seen.extend(block[:, 0])
        return np.matmul(block, transposed, out=out)

    monkeypatch.setattr(assignment, "route", lambda *_: product)
    bare_product(Assigner(threads=threads, tile=16), rows, values)
    assert sorted(seen) == list(range(70))


def test_measure():
    found = measure(d=8, k=20, threads=1, seed=0, operations=1e5)
    assert found["n"] == 1000
    assert found["product"] > 0
    assert len(found["turns"]) == assignment.TURNS


@pytest.mark.parametrize(("ratio", "code"), [(1.09, 0), (1.12, 1)])
def test_verdict(ratio, code, capsys):
    lines = [
        {
            "cell": {"d": 256, "k": 1000, "threads": 1, "seed": seed},
            "found": {"n": 1000, "product": 1.0, "ours": value, "ratio": value},
            "machine": MACHINE,
        }
        for seed, value in enumerate((0.5, ratio, 3.0))
    ]
    assert report(lines, claims=True) == code
    assert f"{ratio:.3f}x" in capsys.readouterr().out
