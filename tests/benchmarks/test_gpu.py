"""The benchmark of the GPU runs in small on a CPU, and says no where it cannot say anything."""

import numpy as np
import pytest
import torch

from benchmarks import gpu
from benchmarks.gpu import lloyd, main, measure, report
from benchmarks.gpu_rivals import made, plain
from curation import exact

MACHINE = {"packages": {"numpy": "2"}, "cpu": "one", "cores": 2, "python": "3.11", "blas": ["numpy: x1"]}


@pytest.mark.parametrize("method", ["ours", "torch", "faiss"])
def test_labels_of_an_assignment_are_checked(method):
    found = measure("assign", method=method, n=700, k=40, d=20, seed=0, threads=1)
    assert found["seconds"] > 0
    assert found["wrong"] == 0 or method != "ours"
    assert found.get("cpu_differs", 0) == 0
    assert found["version"]


@pytest.mark.parametrize("method", ["lloyd", "torch"])
def test_a_fit_is_judged(method):
    found = measure("fit", method=method, n=900, k=30, d=20, iterations=3, seed=0, threads=1)
    assert found["iterations"] == 3
    assert 0 < found["objective"] < 1


def test_lloyd_lowers_the_objective_and_ends_at_means():
    rows = made(500, 6, 4, seed=1)
    start = rows[:8].float()
    assert gpu.objective(rows, lloyd(rows, start, plain(rows), 5, "torch")) < gpu.objective(rows, start)
    labels = plain(rows)(rows, start).numpy()
    sums, counts = exact.cluster_sums(rows.float().numpy(), labels, 8)
    means = exact.mean_on_grid(sums, counts, unit_norm=False)
    assert np.array_equal(lloyd(rows, start, plain(rows), 1, "torch").numpy(), means)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(capsys):
    assert main([]) == 1
    assert "needs a CUDA GPU" in capsys.readouterr().err


def line(kind, method, **found):
    cell = {"kind": kind, "method": method, "n": 10, "k": 10_000, "d": 768, "seed": 0, "threads": 1}
    return {"cell": cell, "found": {"device": "H200", "version": "1", **found}, "machine": MACHINE}


@pytest.mark.parametrize(
    ("rate", "wrong", "code"), [(500.0, 0, 0), (500.0, 1, 1), (400.0, 0, 1), (290.0, 0, 1)]
)
def test_verdicts(rate, wrong, code, capsys):
    ours = {"seconds": 1.0, "tflops": rate, "share": rate / 700, "wrong": 0, "cpu_differs": wrong}
    theirs = {"seconds": 1.0, "tflops": 300.0, "share": 0.4, "wrong": 2}
    fits = {"iterations": 3, "tflops": 1.0, "objective": 0.1}
    lines = [
        line("assign", "ours", **ours),
        line("assign", "flash-kmeans", **theirs),
        line("fit", "ours", seconds=9.0, an_iteration=3.0, **fits),
        line("fit", "lloyd", seconds=3.0, an_iteration=1.0, **fits),
        line("fit", "flash-kmeans", seconds=3.3, an_iteration=1.1, **fits),
    ]
    assert report(lines, claims=True) == code
    assert "not measured: faiss, torch" in capsys.readouterr().out
