"""An estimate stands beside the time that it is of, and the verdict follows from both."""

import pytest

from benchmarks import estimate
from benchmarks.estimate import METHOD, measure

MACHINE = {"packages": {"numpy": "2"}, "cpu": "one", "cores": 2, "python": "3.11", "blas": ["numpy: x1"]}


def line(case, seed, estimated, seconds, **more):
    cell = {"case": case, "threads": 1, "seed": seed}
    return {"cell": cell, "found": {"estimated": estimated, "seconds": seconds, **more}, "machine": MACHINE}


@pytest.mark.parametrize("case", ["A/20", f"{METHOD}/20"])
def test_both_are_measured_and_the_parts_sum_up(case, monkeypatch, tmp_path):
    quick = estimate.calibrated
    monkeypatch.setattr(estimate, "calibrated", lambda *asked: quick(*asked, seconds=0.02))
    found = measure(case, 1, 0)
    parts = [v for k, v in found.items() if k not in ("estimated", "seconds", "n_iter")]
    assert found["estimated"] == pytest.approx(sum(parts))
    assert found["seconds"] > 0


def test_the_claim_is_a_factor_of_one_and_a_half_of_medians(capsys):
    good = [line("A", seed, estimated, 10.0, n_iter=7) for seed, estimated in enumerate([14.0, 7.0, 40.0])]
    assert estimate.report(good, True) == 0
    assert "1.40" in capsys.readouterr().out
    for estimated in (6.0, 16.0):
        assert estimate.report([line("A", 0, estimated, 10.0)], True) == 1
    assert estimate.report([line("noise", 0, 1.0, 10.0)], True) == 0
    assert estimate.report([line("A/20", 0, 1.0, 10.0)], False) == 0
