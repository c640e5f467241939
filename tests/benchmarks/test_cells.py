"""Finished cells are kept and not run again; failed ones are; the environment is right for everyone."""

import argparse
import json

import pytest

from benchmarks import cells
from benchmarks.cells import CORETYPE, Cell

MACHINE = {"packages": {"numpy": "2"}, "cpu": "one", "cores": 2, "python": "3.11", "blas": ["numpy: x1"]}
CELLS = [
    Cell({"method": method, "levels": [20, 2], "threads": 1, "seed": seed})
    for seed in (0, 1)
    for method in ("ours", "x")
]


@pytest.fixture
def asked(tmp_path):
    return argparse.Namespace(
        name="trial", results=tmp_path / "new" / "trial.jsonl", again=[], report=False, small=False
    )


@pytest.fixture
def measured(monkeypatch):
    """The cells that were measured; those of a seed in `fails` fail."""
    calls = []
    calls_fail = set()

    def measure(module, cell):
        assert module == "benchmarks.trial"
        calls.append(cell.key)
        if cell.key["seed"] in calls_fail:
            return {"error": "Traceback\nValueError: no"}
        return {"found": {"seconds": float(len(calls))}, "machine": MACHINE}

    monkeypatch.setattr(cells, "_measure", measure)
    return calls, calls_fail


def test_a_rerun_goes_on_where_it_stopped(asked, measured):
    calls, fails = measured
    fails.add(1)
    assert cells.run(asked, CELLS) == 2
    assert calls == [cell.key for cell in CELLS]
    assert [line["cell"]["seed"] for line in cells.read(asked.results)] == [0, 0]
    fails.clear()
    assert cells.run(asked, CELLS) == 0
    assert calls[4:] == [cell.key for cell in CELLS[2:]]
    assert cells.run(asked, CELLS) == 0
    assert len(calls) == 6
    assert len(asked.results.read_text().splitlines()) == 6
    assert all(json.loads(line)["when"].endswith("Z") for line in asked.results.read_text().splitlines())


def test_measured_again_the_last_line_counts(asked, measured):
    cells.run(asked, CELLS)
    asked.again = ["ours"]
    cells.run(asked, iter(CELLS))
    found = {(li["cell"]["method"], li["cell"]["seed"]): li["found"] for li in cells.read(asked.results)}
    assert found == {
        (m, s): {"seconds": v} for m, s, v in (("ours", 0, 5), ("x", 0, 2), ("ours", 1, 6), ("x", 1, 4))
    }


def test_all_may_be_measured_again_but_not_what_there_is_not(asked, measured):
    cells.run(asked, CELLS)
    asked.again = ["all"]
    cells.run(asked, CELLS)
    assert measured[0] == 2 * [cell.key for cell in CELLS]
    asked.again = ["our"]
    with pytest.raises(SystemExit, match="--again our: no such cell; there are all, ours, x"):
        cells.run(asked, CELLS)


def test_a_line_cut_short_is_named_and_left_out(asked, measured, capsys):
    cells.run(asked, CELLS[:1])
    whole = asked.results.read_text()
    asked.results.write_text(whole + whole[:20])
    assert len(cells.read(asked.results)) == 1
    assert "line 2: cut short" in capsys.readouterr().err
    cells.run(asked, CELLS[:2])
    assert len(cells.read(asked.results)) == 2


def test_cells_of_two_kinds_of_machines_do_not_meet(asked, monkeypatch):
    asked.results, places = None, set()
    for cpu in ("Intel(R) Xeon(R) Processor", "AMD EPYC"):
        for flags in ({"avx2"}, {"avx2", "avx512f"}, set()):
            monkeypatch.setattr(cells, "_cpu", lambda cpu=cpu: cpu)
            monkeypatch.setattr(cells, "flags", lambda flags=flags: frozenset(flags))
            monkeypatch.setattr(cells.os, "cpu_count", lambda: 2)
            places.add(str(cells.results_file(asked).relative_to(cells.RESULTS)))
    assert len(places) == 6
    assert {"intel-xeon-processor-avx-512-2-cores/trial.jsonl", "amd-epyc-2-cores/trial.jsonl"} < places


def test_a_report_runs_nothing(asked, measured):
    asked.report = True
    assert cells.run(asked, CELLS) == 0
    assert not measured[0]
    assert not asked.results.exists()


def test_threads_and_kernel_are_set_before_anything_is_imported(monkeypatch):
    monkeypatch.setenv(CORETYPE, "Prescott")
    monkeypatch.setattr(cells, "coretype", lambda package: {"old": "Haswell"}.get(package, ""))
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
        assert cells.environment(3, "new")[name] == "3"
    assert cells.environment(1, "old")[CORETYPE] == "Haswell"
    assert CORETYPE not in cells.environment(1, "new")


def test_a_cell_runs_in_its_own_process(tmp_path, monkeypatch):
    monkeypatch.setattr(cells, "coretype", lambda _: "")
    results = tmp_path / "a.jsonl"
    asked = argparse.Namespace(name="assignment", results=results, again=[], report=False, small=True)
    key = {"d": 8, "k": 30, "threads": 1, "seed": 0, "operations": 1e5}
    assert cells.run(asked, [Cell(key), Cell(key | {"d": 0})]) == 1
    (line,) = cells.read(results)
    assert line["cell"] == key
    assert line["found"]["ratio"] > 0
    assert any("numpy" in kernel and "x1" in kernel for kernel in line["machine"]["blas"])
    assert "numpy" in cells.described([line])
    failed = json.loads(results.read_text().splitlines()[1])
    assert "Error" in failed["error"]
