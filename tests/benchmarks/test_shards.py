"""Verdicts on one shard and two follow from the cells."""

import pytest

from benchmarks import cells, shards

MACHINE = {"packages": {"numpy": "2"}, "cpu": "one", "cores": 2, "python": "3.11", "blas": ["numpy: x1"]}


def line(count, seed, seconds, digest="a"):
    cell = {"rows": 1000, "clusters": 5, "shards": count, "threads": 1, "seed": seed}
    return {"cell": cell, "found": {"seconds": seconds, "n_iter": 7, "digest": digest}, "machine": MACHINE}


@pytest.mark.parametrize(
    ("two", "digest", "failed", "said"),
    [(5.0, "a", 0, "yes, 2.00 times"), (8.0, "a", 1, "NO, 1.25 times"), (5.0, "b", 1, "NO, they differ")],
)
def test_verdicts(capsys, two, digest, failed, said):
    lines = [line(1, seed, 10.0 + 100 * (seed == 2)) for seed in range(3)]
    lines += [line(2, seed, two, digest if seed == 1 else "a") for seed in range(3)]
    assert shards.report(lines, claims=True) == failed
    assert said in capsys.readouterr().out


def test_seeds_are_compared_with_themselves(capsys):
    assert shards.report([line(1, 0, 10.0), line(2, 1, 1.0)], claims=True) == 0
    assert "none of 0 claims failed" in capsys.readouterr().out


@pytest.mark.slow
def test_a_trial_run(tmp_path, capsys):
    results = tmp_path / "shards.jsonl"
    assert shards.main(["--small", "--seeds", "1", "--results", str(results)]) == 0
    one, two = cells.read(results)
    assert one["found"]["digest"] == two["found"]["digest"]
    assert "2 shard(s)" in capsys.readouterr().out
