"""The picture is drawn, and the same numbers draw the same one."""

import pytest

from benchmarks import cells, scaling

MACHINE = {"packages": {"numpy": "2"}, "cpu": "one", "cores": 2, "python": "3.11", "blas": ["numpy: x1"]}


def test_the_picture(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    lines = [
        {
            "cell": {"n": n, "k": k, "threads": 2, "seed": seed},
            "found": {
                "seconds": n * k * (1 + seed) * 1e-8,
                "peak": 3e8 + 9 * n,
                "peak_before": 3e8,
                "pool": 256 * n,
                "n_iter": 9,
            },
            "machine": MACHINE,
        }
        for n in (10_000, 100_000)
        for k in (100, 1000)
        for seed in range(3)
    ]
    pictures = [tmp_path / name for name in ("a.svg", "b.svg")]
    for picture in pictures:
        assert scaling.report(lines, picture) == 0
    assert pictures[0].read_bytes() == pictures[1].read_bytes()
    assert b"k = 1,000" in pictures[0].read_bytes() or pictures[0].stat().st_size > 10_000
    assert "n = 100,000, k = 1,000, 2 thread(s)           9     2.00" in capsys.readouterr().out


def test_no_cluster_of_few_points_is_planned():
    parser = cells.parser("scaling", "", threads="2")
    scaling.add_arguments(parser)
    keys = [cell.key for cell in scaling.plan(parser.parse_args(["--seeds", "1", "--largest", "1000000"]))]
    assert max(key["n"] for key in keys) == 1_000_000
    assert {key["k"] for key in keys if key["n"] == 10_000} == {100, 1000}
    assert {key["k"] for key in keys if key["n"] == 1_000_000} == {100, 1000, 10_000}


def test_measure():
    found = scaling.measure(n=2500, k=20, threads=1, seed=0)
    assert found["peak"] >= found["peak_before"] > found["pool"] == 2500 * 64 * 4
    assert found["seconds"] > 0
