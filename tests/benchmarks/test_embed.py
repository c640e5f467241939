"""The benchmark of the embed stage: what its rates are made of, and a small run of it."""

import os

import pytest

from benchmarks import embed


def test_the_rate_leaves_the_start_out():
    assert embed.steady([100.0, 102.0, 104.0, 106.0], 64) == 32.0


def line(run, model="minilm"):
    found = {"bare": 100.0, "run": run, "samples": 10, "device": "1 core, float32"}
    machine = {"packages": {}, "cpu": "one", "cores": 2, "python": "3.11", "blas": []}
    return {"cell": {"model": model}, "found": found, "machine": machine}


def test_a_slow_pipeline_fails_the_claim(capsys):
    assert embed.report([line(94.0), line(96.0), line(97.0)], claims=True) == 0
    assert embed.report([line(94.0), line(94.9), line(97.0)], claims=True) == 1
    assert "NO, 94.9%, median of 3" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.skipif("EVENSET_DATA" not in os.environ, reason="EVENSET_DATA is not set")
@pytest.mark.parametrize("model", embed.MODELS)
def test_a_small_run(model):
    found = embed.measure(model, 1, 0, small=True)
    assert found["samples"] == 192
    assert found["run"] > 0
    assert found["bare"] > 0
