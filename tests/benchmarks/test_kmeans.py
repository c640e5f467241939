"""Who trains does as told, and verdicts on races follow from the cells."""

import time

import numpy as np
import pytest

from benchmarks import cells, kmeans
from benchmarks.cases import CASES, mixture
from benchmarks.objective import mean_squared_distance
from benchmarks.rivals import GREEDY, METHODS, OURS, STRETCH, Stopwatch
from curation.fit import is_small

MACHINE = {"packages": {"numpy": "2"}, "cpu": "one", "cores": 2, "python": "3.11", "blas": ["numpy: x1"]}


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_methods_find_centroids(method):
    pytest.importorskip(method.package)
    rows, _ = mixture(1500, 64, 0)
    watch = Stopwatch()
    trained = method.train(rows, 15, 3, 1, watch)
    assert trained.centroids.shape == (15, 64)
    random = np.random.default_rng(0).choice(rows, (20, 15), replace=True)
    found = mean_squared_distance(rows, trained.centroids)
    assert found < min(mean_squared_distance(rows, start) for start in random)
    assert trained.n_iter > 0
    if method.name == OURS:
        assert len(trained.curve) == trained.n_iter
        times = [0.0, *(seconds for seconds, _ in trained.curve), watch.seconds]
        assert times == sorted(times)
        last = mean_squared_distance(rows, trained.curve[-1][1])
        assert last == pytest.approx(found, rel=0.01)


def test_pauses_do_not_count():
    watch = Stopwatch()
    before = watch.seconds
    with watch.paused():
        time.sleep(0.2)
        inside = watch.seconds
    assert before <= inside <= watch.seconds < 0.2


def line(case, threads, method, seed, seconds, objective, curve=()):
    found = {"seconds": seconds, "objective": objective, "n_iter": 7, "curve": list(curve)}
    cell = {"case": case, "threads": threads, "method": method, "seed": seed}
    return {"cell": cell, "found": found, "machine": MACHINE}


def test_the_first_iteration_that_comes_there_counts():
    run = {"seconds": 9.0, "objective": 1.0, "curve": [[1.0, 3.0], [2.0, 1.5], [3.0, 1.6], [4.0, 1.2]]}
    assert kmeans.reached(run, 3.0) == 1
    assert kmeans.reached(run, 1.55) == 2
    assert kmeans.reached(run, 1.1) == 9
    assert kmeans.reached(run, 0.9) == float("inf")


def test_verdicts_on_races(capsys):
    curve = [(1.0, 0.30), (2.0, 0.22), (3.0, 0.20)]
    lines = [line("A", 1, OURS, seed, 4.0, 0.20, curve) for seed in range(3)]
    lines += [line("A", 1, "faiss", seed, 9.0, 0.22) for seed in range(3)]  # 4.5 times sooner: not 5
    lines += [line("A", 1, "fastkmeans", seed, 2.1, 0.22) for seed in range(3)]
    lines += [line("A", 1, "minibatch", seed, 100.0, 0.19) for seed in range(3)]  # never reached
    lines += [line("A", 1, STRETCH, seed, 0.1, 0.25) for seed in range(3)]  # shown only
    lines += [line("A", 1, GREEDY, seed, 50.0, 0.2001) for seed in range(2)]
    lines += [line("B", 2, "faiss", 0, 50.0, 0.2)]  # nothing of ours to compare
    assert kmeans.report(lines, claims=True) == 1
    told = capsys.readouterr().out
    assert "at least 5x sooner than faiss: NO, 4.5x" in told
    assert "sooner than fastkmeans: yes, 1.1x, median of 3" in told
    assert "sooner than minibatch: NO, 0x" in told
    assert "never" in told
    assert STRETCH in told
    assert f"sooner than {STRETCH}" not in told
    assert "A: final objective at most 1.001x that of greedy k-means++ and 50 iterations: yes, 0.9995" in told
    assert "2 of 4 claims failed" in told


def test_noise_has_a_limit_of_its_own(capsys):
    for case, code in (("A", 1), ("noise", 0)):
        lines = [line(case, 2, OURS, 0, 1.0, 0.20036), line(case, 2, GREEDY, 0, 9.0, 0.2)]
        assert kmeans.report(lines, claims=True) == code


def test_a_trial_run_claims_nothing(capsys):
    lines = [line("A/20", 1, OURS, 0, 4.0, 0.2), line("A/20", 1, "faiss", 0, 1.0, 0.1)]
    assert kmeans.report(lines, claims=False) == 0
    assert "claims" not in capsys.readouterr().out


def planned(*arguments):
    parser = cells.parser("kmeans", "")
    kmeans.add_arguments(parser)
    return [cell.key for cell in kmeans.plan(parser.parse_args(arguments))]


def test_seeds_come_in_turn_and_cheap_cases_first():
    keys = planned()
    assert [key["seed"] for key in keys] == sorted(key["seed"] for key in keys)
    first = [key["case"] for key in keys if key["seed"] == 0]
    assert list(dict.fromkeys(first)) == list(CASES)
    assert len({str(key) for key in keys}) == len(keys)


def test_what_is_planned():
    keys = planned("--seeds", "1")
    of = {(key["case"], key["method"], key["threads"]) for key in keys}
    assert {("A", method, threads) for method in set(METHODS) - {GREEDY} for threads in (1, 2)} < of
    assert ("B", "sklearn", 1) not in of
    assert ("B", "sklearn", 1) in {(k["case"], k["method"], k["threads"]) for k in planned("--slow")}
    assert {(m, t) for case, m, t in of if case == "noise"} == {(OURS, 2), (GREEDY, 2)}
    chosen = planned("--small", "--cases", "C", "--methods", "ours,faiss", "--threads", "1", "--seeds", "2")
    assert [(k["case"], k["method"], k["seed"]) for k in chosen] == [
        ("C/20", method, seed) for seed in (0, 1) for method in ("ours", "faiss")
    ]


@pytest.mark.parametrize("case", kmeans.RACES)
def test_the_fit_that_warms_up_takes_the_path_of_the_race(case):
    rows, clusters = kmeans.WARM_UP
    chosen = CASES[case]
    few = min(clusters, chosen.n_clusters)
    assert not is_small(rows, chosen.width, few)
    assert not is_small(chosen.rows, chosen.width, chosen.n_clusters)


@pytest.mark.parametrize("wrong", [["--cases", "D"], ["--methods", "magic"]])
def test_a_wrong_name_is_told(wrong, capsys):
    with pytest.raises(SystemExit):
        kmeans.main(wrong)
    assert f"there is no {wrong[1]}; there are" in capsys.readouterr().err
