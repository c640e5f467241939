"""Bad requests at the command line: one sentence, the right exit code, and nothing begun."""

import pickle
import subprocess
import sys
import time

import numpy as np
import pytest
import yaml
from ray.exceptions import ActorDiedError, RayTaskError

import pipelines
from pipelines.cli import explain
from pipelines.errors import RequestError, RunError, causes
from pipelines.store import Store

from .conftest import blobs, png, write_vectors


@pytest.fixture
def vectors(tmp_path):
    """A pool of 200 embeddings in a .npy file."""
    file = tmp_path / "pool.npy"
    np.save(file, blobs(200))
    return file


def test_help_is_quick_and_imports_no_engine():
    heavy = ("ray", "torch", "pyarrow", "pydantic")
    code = f"import sys, pipelines.cli; print([m for m in {heavy} if m in sys.modules])"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert printed.stdout.strip() == "[]"


def test_python_m_pipelines_is_evenset():
    shown = subprocess.run([sys.executable, "-m", "pipelines", "--version"], capture_output=True, text=True)
    assert shown.stdout == f"evenset {pipelines.__version__}\n"
    shown = subprocess.run([sys.executable, "-m", "pipelines", "--help"], capture_output=True, text=True)
    for command in ("run", "embed", "cluster", "sample", "export", "report", "config", "status", "demo"):
        assert f"  {command} " in shown.stdout


def test_config_lists_every_key(evenset):
    shown = evenset("config")
    assert shown.code == 0
    assert "cluster.resample.points" in shown.text


def test_unknown_commands_and_options_are_bad_requests(evenset):
    assert evenset("ran").code == 2
    assert evenset("run", "--fast").code == 2
    assert evenset("run").code == 2


def test_a_missing_config(refused, tmp_path):
    assert "none.yaml" in refused("run", tmp_path / "none.yaml")


def test_an_unknown_key_names_the_nearest(refused, write_config, vectors):
    said = refused("run", write_config(vectors, sample={"sise": 10}))
    assert "line" in said
    assert "sample.sise" in said
    assert "sample.size" in said


def test_a_yaml_error_has_its_line(refused, tmp_path):
    file = tmp_path / "job.yaml"
    file.write_text("modality: image\nsource: {path: a\n")
    assert f"{file}, line" in refused("run", file)


def test_debug_shows_where_and_may_stand_anywhere(tmp_path):
    from pipelines.cli import main

    for arguments in (["--debug", "run", "none.yaml"], ["run", "none.yaml", "--debug"]):
        with pytest.raises(RequestError):
            main(arguments)


@pytest.mark.parametrize("format", ["auto", "files", "parquet", "embeddings"])
def test_an_empty_pool(refused, write_config, tmp_path, format):
    (tmp_path / "pool").mkdir()
    said = refused("run", write_config(tmp_path / "pool", source={"format": format}))
    assert str(tmp_path / "pool") in said


def test_a_path_that_is_not_there(refused, write_config, tmp_path):
    assert "nowhere" in refused("run", write_config(tmp_path / "nowhere"))


def test_an_unknown_modality_and_an_unknown_encoder(refused, write_config, tmp_path):
    (tmp_path / "pool").mkdir()
    (tmp_path / "pool" / "a.png").write_bytes(png(np.zeros((8, 8), np.uint8)))
    said = refused("run", write_config(tmp_path / "pool"), "modality=imaeg", "sample.size=1")
    assert "image" in said
    said = refused("run", write_config(tmp_path / "pool"), "encoder.model=pathces", "sample.size=1")
    assert "patches" in said


def test_more_clusters_than_samples(refused, write_config, vectors, tmp_path):
    said = refused("run", write_config(vectors, cluster={"n_clusters": [201, 5]}))
    assert "201" in said
    assert "200" in said
    assert not (tmp_path / "run").exists()


def test_clusters_that_do_not_decrease(refused, write_config, vectors):
    assert "does not decrease" in refused("run", write_config(vectors, cluster={"n_clusters": [5, 50]}))


def test_a_target_that_the_pool_cannot_fill(refused, write_config, vectors, tmp_path):
    said = refused("run", write_config(vectors, sample={"size": 601, "max_repeats": 3}))
    assert "601" in said
    assert "600" in said
    assert "max_repeats to 4" in said
    assert not (tmp_path / "run").exists()


def test_a_run_directory_that_is_something_else(refused, write_config, vectors, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("precious")
    assert "is no run directory" in refused("run", write_config(vectors))
    assert (tmp_path / "run" / "thesis.txt").read_text() == "precious"


def test_an_output_inside_the_pool(refused, write_config, tmp_path):
    (tmp_path / "run").mkdir()
    write_vectors(tmp_path / "pool.parquet", blobs(20))
    assert "lies inside the pool" in refused("run", write_config(tmp_path))


@pytest.mark.parametrize(
    ("path", "output"),
    [
        ("pool/*.npy", "pool"),
        ("pool/**", "pool/run"),
        ("pool/**/*.npy", "pool/deep/run"),
        ("pool/*/x.npy", "pool/run"),
        ("link", "pool/run"),
        ("pool", "link/run"),
        ("link/*/*.npy", "pool/run"),
    ],
)
def test_an_output_inside_the_pool_by_a_link_or_a_glob(refused, write_config, tmp_path, path, output):
    (tmp_path / "pool").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "pool")
    said = refused("run", write_config(tmp_path / path), f"output={tmp_path / output}")
    assert "lies inside the pool" in said or "not empty" in said


@pytest.mark.parametrize("path", ["pool/*.npy", "pool/a*/*.npy", "pool/[r]un.npy"])
def test_an_output_beside_what_a_glob_finds(refused, write_config, tmp_path, path):
    (tmp_path / "pool").mkdir()
    assert "matches no file" in refused("run", write_config(tmp_path / path), f"output={tmp_path}/pool/run")


def test_an_output_that_is_no_place_for_results(refused, write_config, vectors, tmp_path):
    config = write_config(vectors)
    assert "is a file" in refused("run", config, f"output={vectors}")
    assert "below a file" in refused("run", config, f"output={vectors}/run")
    assert "output / is no run directory" in refused("run", config, "output=/")
    assert "cannot be written to" in refused("run", config, "output=/proc/evenset")


@pytest.mark.parametrize("content", ["- 1\n", "a: [\n", "a: b\n", "source: x\nmodality: image\n", "", "\x00"])
def test_a_foreign_config_in_the_output(refused, write_config, vectors, tmp_path, content):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.yaml").write_text(content)
    assert "is no run directory" in refused("run", write_config(vectors))
    assert (tmp_path / "run/config.yaml").read_text() == content


def test_embeddings_have_no_files(refused, write_config, vectors):
    assert "no files" in refused("run", write_config(vectors), "export.formats=[files]")


def test_one_stage_needs_those_before_it(refused, write_config, vectors):
    config = write_config(vectors)
    for stage in ("cluster", "sample", "export", "report"):
        said = refused(stage, config)
        assert "embed" in said
        assert "is not finished" in said


def test_a_run_directory_that_belongs_to_another_pool(evenset, refused, write_config, vectors, tmp_path):
    config = write_config(vectors)
    assert evenset("embed", config).code == 0
    before = sorted((tmp_path / "run").rglob("*"))
    np.save(tmp_path / "other.npy", blobs(200, seed=1))
    said = refused("run", config, f"source.path={tmp_path / 'other.npy'}")
    assert "belongs to another pool" in said
    assert "source.path" in said
    assert "modality" in refused("run", config, "modality=text")
    assert sorted((tmp_path / "run").rglob("*")) == before


def test_a_relative_path_belongs_to_the_folder_it_was_named_in(
    evenset, refused, write_config, vectors, tmp_path, monkeypatch
):
    (tmp_path / "elsewhere").mkdir()
    np.save(tmp_path / "elsewhere/pool.npy", blobs(200, seed=1))
    config = write_config("pool.npy")
    monkeypatch.chdir(tmp_path)
    assert evenset("embed", config).code == 0
    assert "embed: kept" in evenset("embed", config, f"source.path={vectors}").text
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert "belongs to another pool" in refused("embed", config)
    assert "embed: kept" in evenset("embed", config, "source.path=../pool.npy").text


def test_a_job_ships_its_pool_to_another_folder_each_time(evenset, write_config, tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    config = write_config("pool.npy")
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        np.save(tmp_path / folder / "pool.npy", blobs(200))
        monkeypatch.chdir(tmp_path / folder)
        done = evenset("embed", config)
        assert done.code == 0, done
    assert "embed: kept" in done.text
    assert yaml.safe_load((tmp_path / "run/config.yaml").read_text())["source"]["path"] == "pool.npy"


def test_status_of_no_run(refused, tmp_path):
    assert "no run directory" in refused("status", tmp_path)


def test_no_cluster_at_the_address(write_config, vectors):
    command = [sys.executable, "-m", "pipelines", "embed", write_config(vectors), "ray.address=127.0.0.1:1"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 2
    assert "127.0.0.1:1" in ended.stderr
    assert "ray start --head" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_two_commands_on_one_run_directory(refused, write_config, vectors, tmp_path):
    holder = (
        "import sys, time; from pipelines.owner import alone; from pipelines.store import Store\n"
        "with alone(Store(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", holder, tmp_path / "run"], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == b"held\n"
        assert "another evenset" in refused("run", write_config(vectors))
        process.kill()
        process.wait()


def test_the_innermost_cause_is_what_is_told():
    inner = OSError("inner")
    outer = RunError("outer")
    outer.__cause__ = inner
    assert causes(outer) == [outer, inner]


def test_what_a_worker_raised_is_told_without_the_traceback_of_ray():
    raised = ValueError("boom\nand more")
    wrapped = RayTaskError("step", "Traceback ...\n  File x\nValueError: boom", raised).as_instanceof_cause()
    sentence, code = explain(wrapped)
    assert sentence.startswith("ValueError: boom and more (this should not happen")
    assert code == 1


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("pipelines.errors.RunError", 1),
        ("pipelines.errors.RequestError", 2),
        ("curation.errors.CurationError", 2),
    ],
)
def test_why_an_actor_could_not_begin_is_told(kind, expected):
    cause = RayTaskError("__init__", f"Traceback ...\n  File x\n{kind}: just this", ValueError("just this"))
    assert explain(ActorDiedError(cause)) == ("just this", expected)


def test_a_sentence_survives_what_ray_adds_and_the_way_to_the_driver():
    error = RequestError("just this")
    error.args = ("just this\nand that",)
    assert str(pickle.loads(pickle.dumps(error))) == "just this"


@pytest.mark.slow
def test_a_full_disk_is_named_and_a_rerun_goes_on(evenset, write_config, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", disk], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small disk is not allowed here")
    try:
        (tmp_path / "pool").mkdir()
        for i in range(6):
            write_vectors(
                tmp_path / "pool" / f"{i}.parquet", blobs(500, d=64, seed=i), [f"{i}-{j}" for j in range(500)]
            )
        config = write_config(tmp_path / "pool", output=str(disk / "run"), source={"format": "embeddings"})
        failed = evenset("embed", config)
        assert failed.code == 1
        assert "disk is full" in failed.text
        assert str(disk) in failed.text
        assert "Traceback" not in failed.text
        parts = Store(str(disk / "run")).list("embeddings")
        assert all(Store(str(disk / "run")).rows(part) == 500 for part in parts)
        subprocess.run(["mount", "-o", "remount,size=20m", disk], check=True)
        assert evenset("embed", config).code == 0
        assert len(Store(str(disk / "run")).list("embeddings")) == 6
    finally:
        time.sleep(0.5)
        subprocess.run(["umount", "-l", disk], check=True)
