"""Whole runs: what is done is kept, what has changed is done again, and a kill costs nothing but time."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import yaml

from pipelines.configfile import load_config
from pipelines.manifest import Basis, Manifest, read_manifest, write_manifest
from pipelines.run import BY_NAME
from pipelines.store import Store

from .conftest import blobs, rows_of, write_vectors

EMBEDDED = {"source": {"format": "embeddings"}}
SMALL = EMBEDDED | {"cluster": {"n_clusters": [20, 5], "resample": {"steps": 2}}, "sample": {"size": 40}}


@pytest.fixture
def pool(tmp_path):
    """24 files of 50 embeddings each, so 24 parts."""
    folder = tmp_path / "pool"
    folder.mkdir()
    vectors = blobs(1200)
    for i in range(24):
        write_vectors(
            folder / f"{i:02d}.parquet", vectors[50 * i : 50 * i + 50], [f"{i}-{j}" for j in range(50)]
        )
    return folder


def stages_in(text):
    """What the command said of each stage: kept, resumed, done again; nothing when it was new."""
    told = {}
    for line in text.splitlines():
        name, _, rest = line.partition(": ")
        if name in BY_NAME:
            for word in ("kept", "resumed", "done again", "begun anew"):
                if rest.startswith(word):
                    told[name] = line
    return told


def results(run):
    """All rows that a run has made."""
    return {folder: rows_of(run, folder) for folder in ("embeddings", "tree/level-1/assignments", "curated")}


def test_what_is_done_is_kept_and_what_changed_is_done_again(evenset, write_config, pool, tmp_path):
    config, run = write_config(pool, **SMALL), Store(str(tmp_path / "run"))
    first = evenset("run", config)
    assert first.code == 0, first
    assert stages_in(first.text) == {}
    assert (tmp_path / "run/report.html").exists()
    assert (tmp_path / "run/metrics.json").exists()
    before = results(run)
    assert len(before["curated"]) == 40

    again = stages_in(evenset("run", config).text)
    assert [line.partition(": ")[2][:4] for line in again.values()] == ["kept"] * 5

    # how it is executed is no part of what it is
    spread = stages_in(evenset("run", config, "cluster.shards=2", "encoder.actors=[1,2]").text)
    assert all(": kept" in line for line in spread.values())

    more = evenset("run", config, "sample.size=60")
    told = stages_in(more.text)
    assert ": kept" in told["embed"]
    assert ": kept" in told["cluster"]
    assert "sample.size 40 -> 60" in told["sample"]
    assert "result of sample changed" in told["export"]
    assert rows_of(run, "curated").keys() > before["curated"].keys()
    assert len((tmp_path / "run/export/ids.txt").read_text().splitlines()) == 60


@pytest.mark.slow
def test_what_was_asked_for_before_comes_back_the_same(evenset, write_config, pool, tmp_path):
    config, run = write_config(pool, **SMALL), Store(str(tmp_path / "run"))
    assert evenset("run", config).code == 0
    before = results(run)
    finer = stages_in(evenset("run", config, "cluster.n_clusters=[30,5]").text)
    assert ": kept" in finer["embed"]
    assert "cluster.n_clusters [20, 5] -> [30, 5]" in finer["cluster"]
    assert len(rows_of(run, "tree/level-1/centroids", "cluster")) == 30

    assert evenset("run", config).code == 0
    assert results(run) == before


def test_a_pool_that_changed_is_embedded_again(evenset, write_config, pool, tmp_path):
    config, run = write_config(pool, **EMBEDDED), Store(str(tmp_path / "run"))
    assert evenset("embed", config).code == 0
    write_vectors(pool / "99.parquet", blobs(10, seed=9), [f"new-{j}" for j in range(10)])
    told = evenset("embed", config).text
    assert "embed: done again, because the pool changed" in told
    assert len(rows_of(run, "embeddings")) == 1210


@pytest.mark.slow
def test_a_stage_alone_wants_current_inputs(evenset, write_config, pool):
    config = write_config(pool, **SMALL)
    assert evenset("embed", config).code == 0
    assert evenset("cluster", config).code == 0
    stale = evenset("sample", config, "cluster.max_iter=3")
    assert stale.code == 2
    assert "cluster, which is out of date (cluster.max_iter 50 -> 3)" in stale.text
    assert evenset("sample", config).code == 0
    assert evenset("export", config).code == 0
    assert evenset("report", config).code == 0


@pytest.mark.slow
def test_the_saved_config_is_the_one_that_ran(evenset, write_config, pool, tmp_path):
    assert evenset("run", write_config(pool, **SMALL), "seed=5").code == 0
    saved = tmp_path / "run/config.yaml"
    assert "# ray " in saved.read_text()
    assert load_config(str(saved)).seed == 5
    told = stages_in(evenset("run", saved).text)
    assert [line.partition(": ")[2][:4] for line in told.values()] == ["kept"] * 5


@pytest.mark.slow
def test_status_tells_what_is_done_and_what_is_out_of_date(evenset, write_config, pool, tmp_path):
    config = write_config(pool, **SMALL)
    assert evenset("run", config).code == 0
    status = evenset("status", tmp_path / "run").text
    assert status.count(" done ") == 5
    assert "embedded 1,200" in status
    assert evenset("embed", config, "cluster.distance=cosine").code == 0
    status = evenset("status", tmp_path / "run").text
    assert "out of date: embed changed" in status
    events = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert {"embed", "cluster", "sample", "export", "report"} == {e["stage"] for e in events if "stage" in e}


@pytest.mark.slow
def test_all_samples_identical(evenset, write_config, tmp_path):
    np.save(tmp_path / "pool.npy", np.ones((60, 4), np.float32))
    done = evenset(
        "run", write_config(tmp_path / "pool.npy", cluster={"n_clusters": [10, 3]}, sample={"size": 6})
    )
    assert done.code == 0, done
    run = Store(str(tmp_path / "run"))
    assert len(rows_of(run, "tree/level-1/centroids", "cluster")) == 1
    assert len(rows_of(run, "curated")) == 6
    assert "distinct" in done.text


def test_fewer_distinct_samples_than_clusters_are_clamped_and_told(evenset, write_config, tmp_path):
    vectors = np.repeat(blobs(7), 10, axis=0)
    np.save(tmp_path / "pool.npy", vectors)
    done = evenset(
        "run", write_config(tmp_path / "pool.npy", cluster={"n_clusters": [30, 3]}, sample={"size": 14})
    )
    assert done.code == 0, done
    assert len(rows_of(Store(str(tmp_path / "run")), "tree/level-1/centroids", "cluster")) == 7
    assert "distinct" in done.text


def test_too_few_samples_are_left_after_the_rejects(evenset, write_config, tmp_path):
    vectors = blobs(60)
    vectors[:25] = np.nan
    np.save(tmp_path / "pool.npy", vectors)
    done = evenset(
        "run", write_config(tmp_path / "pool.npy", cluster={"n_clusters": [50, 3]}, sample={"size": 6})
    )
    assert done.code == 2
    assert "50 clusters" in done.text
    assert "35 samples" in done.text


def files_in(folder):
    """Every file of a folder but the log and the lock, with its content."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name not in (".lock", "log.jsonl"))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_a_request_that_cannot_be_met_costs_nothing_that_is_there(evenset, write_config, tmp_path):
    vectors = blobs(60)
    vectors[:25] = np.nan
    np.save(tmp_path / "pool.npy", vectors)
    config = write_config(tmp_path / "pool.npy", cluster={"n_clusters": [10, 3]}, sample={"size": 6})
    done = evenset("run", config)
    assert done.code == 0, done
    assert "source.format auto is embeddings, as the names of 1 of 1 files (.npy) tell" in done.text
    before = files_in(tmp_path / "run")
    for stage, wish in (
        ("run", "sample.size=36"),
        ("sample", "sample.size=36"),
        ("run", "cluster.n_clusters=[36,3]"),
        ("cluster", "cluster.n_clusters=[36,3]"),
    ):
        refused = evenset(stage, config, wish)
        assert refused.code == 2, refused
        assert "35 samples left" in refused.text
    assert files_in(tmp_path / "run") == before


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "folder"), [("sample", "curated"), ("cluster", "tree/level-1/centroids")])
def test_a_stage_that_cannot_resume_begins_with_empty_folders(evenset, write_config, tmp_path, stage, folder):
    np.save(tmp_path / "pool.npy", blobs(200))
    config = write_config(tmp_path / "pool.npy", cluster={"n_clusters": [10, 3]}, sample={"size": 20})
    for name in ("embed", "cluster", "sample"):
        assert evenset(name, config).code == 0
    run = Store(str(tmp_path / "run"))
    before = rows_of(run, folder, "cluster" if stage == "cluster" else "id")
    # as after a kill before the manifest, of an attempt that wrote more parts than the next one
    run.delete(f"{BY_NAME[stage].folder}/_manifest.json")
    run.write_table(f"{folder}/part-00007.parquet", run.read_table(f"{folder}/part-00000.parquet"))
    again = evenset(stage, config)
    assert again.code == 0, again
    assert "begun anew, because it was stopped" in again.text
    assert run.list(folder) == [f"{folder}/part-00000.parquet"]
    assert rows_of(run, folder, "cluster" if stage == "cluster" else "id") == before


@pytest.mark.parametrize("output", BY_NAME["embed"].outputs)
def test_a_kill_while_old_results_are_deleted(evenset, write_config, tmp_path, monkeypatch, output):
    vectors = blobs(60)
    vectors[:5] = np.nan
    np.save(tmp_path / "pool.npy", vectors)
    config, run = write_config(tmp_path / "pool.npy"), Store(str(tmp_path / "run"))
    assert evenset("embed", config).code == 0
    before = rows_of(run, "embeddings"), rows_of(run, "rejected/embed")

    class Killed(Exception):
        pass

    def delete(store, rel, whole=Store.delete):
        whole(store, rel)
        if rel == output:
            raise Killed

    with monkeypatch.context() as until:
        until.setattr(Store, "delete", delete)
        assert "Killed" in evenset("embed", config, "cluster.distance=cosine").text
    done = evenset("embed", config)
    assert done.code == 0, done
    assert (rows_of(run, "embeddings"), rows_of(run, "rejected/embed")) == before


def embedding(run):
    return 3 <= len(run.list("embeddings")) < 24


def clustering(run):
    return run.exists("tree/_begun.json") and not run.exists("tree/_manifest.json")


def exporting(run):
    return run.exists("export/_begun.json") and not run.exists("export/_manifest.json")


@pytest.mark.cluster
@pytest.mark.timeout(900)
def test_a_kill_at_any_moment_changes_no_row(evenset, write_config, pool, tmp_path, ray_cluster):
    reference = write_config(pool, "reference", **{**SMALL, "output": str(tmp_path / "reference")})
    assert evenset("run", reference).code == 0
    config, run = write_config(pool, **SMALL), Store(str(tmp_path / "run"))
    command = [sys.executable, "-m", "pipelines", "run", str(config)]
    environment = os.environ | {"RAY_ADDRESS": ray_cluster}
    killed = 0
    for moment in (embedding, clustering, exporting):
        with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE) as process:
            while process.poll() is None and not moment(run):
                time.sleep(0.01)
            killed += process.poll() is None
            process.send_signal(signal.SIGKILL)
    assert killed >= 2, "the run was over before it could be killed: make it longer"
    done = evenset("run", config)
    assert done.code == 0, done
    assert results(run) == results(Store(str(tmp_path / "reference")))
    lists = [(tmp_path / name / "export/ids.txt").read_text() for name in ("run", "reference")]
    assert lists[0] == lists[1]
    left = [path.name for path in (tmp_path / "run").rglob("*.tmp")]
    assert all(name.startswith(".") for name in left)


def test_an_interrupt_says_how_to_go_on(write_config, pool, tmp_path, ray_cluster):
    command = [sys.executable, "-m", "pipelines", "run", str(write_config(pool, **SMALL))]
    environment = os.environ | {"RAY_ADDRESS": ray_cluster}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None and not (tmp_path / "run/embeddings/_begun.json").exists():
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "run the same command again" in said
    assert "Traceback" not in said


def test_changes_are_named_with_old_and_new():
    old = Basis({"a": 1, "b": [1, 2], "gone": "x"}, {"pool": "p"})
    new = Basis({"a": 2, "b": (1, 2), "new": None}, {"pool": "q"})
    assert new.changes(old) == [
        "a 1 -> 2",
        "gone x -> (nothing)",
        "new (nothing) -> null",
        "the pool changed",
    ]
    assert new.changes(new) == []


def test_a_fingerprint_is_of_results_and_not_of_circumstances(tmp_path):
    basis = Basis({"a": 1}, {"pool": "p"})
    one = Manifest("embed", basis, {"digest": "d", "embedded": 1}, 1.0, "now", {"ray": "1"})
    two = Manifest("embed", basis, {"digest": "d", "embedded": 1}, 9.0, "later", {"ray": "2"})
    other = Manifest("embed", basis, {"digest": "e", "embedded": 1}, 1.0, "now", {"ray": "1"})
    assert one.fingerprint == two.fingerprint != other.fingerprint
    store = Store(str(tmp_path))
    write_manifest(store, "embeddings", one)
    assert read_manifest(store, "embeddings") == one
    assert yaml.safe_load((tmp_path / "embeddings/_manifest.json").read_text())["stage"] == "embed"
