"""A run directory from somebody else: its files are read as data or refused, and its links lead nowhere."""

import hashlib
import io
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray.data  # noqa: F401 (it registers the type that unpickles)
from ray.data._internal.object_extensions.arrow import ArrowPythonObjectType

from curation.kept import DamagedError, read_array
from pipelines.errors import RunError
from pipelines.fitting import STATE, _kept
from pipelines.manifest import read_begun, read_manifest
from pipelines.scratch import own
from pipelines.store import Store
from tests.pipelines.conftest import blobs, png

POOL = {"source": {"format": "embeddings"}, "cluster": {"n_clusters": [12, 3]}, "sample": {"size": 20}}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return tmp_path_factory.mktemp("finished")


@pytest.fixture
def run(evenset, write_config, finished, tmp_path):
    """A config, and its finished run: made once, then copied."""
    if not (finished / "run").exists():
        np.save(finished / "pool.npy", blobs(200))
        config = write_config(finished / "pool.npy", output=str(finished / "run"), **POOL)
        assert evenset("run", config).code == 0
    shutil.copytree(finished / "run", tmp_path / "run")
    return write_config(finished / "pool.npy", **POOL), tmp_path / "run"


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def one_sentence(outcome, code=1):
    assert outcome.code == code, outcome
    assert "Traceback" not in outcome.text
    assert "should not happen" not in outcome.text
    return outcome.text


def poison(path, canary, *columns):
    """Replace columns of a Parquet file by objects that run when they are looked at."""
    table = pq.read_table(path)
    storage = pa.array([canary.pickle] * table.num_rows, pa.large_binary())
    hostile = pa.ExtensionArray.from_storage(ArrowPythonObjectType(), storage)
    for name in columns or table.column_names:
        table = table.set_column(table.column_names.index(name), name, hostile)
    pq.write_table(table, path)


@pytest.mark.parametrize(
    ("folder", "override"),
    [
        ("embeddings", "cluster.n_clusters=[10,3]"),
        ("tree/level-1/centroids", "sample.size=30"),
        ("tree/level-1/assignments", "sample.size=30"),
        ("curated", "export.formats=[ids]"),
    ],
)
def test_files_of_a_stage_that_hold_pickles(evenset, run, canary, folder, override):
    config, place = run
    for path in (place / folder).glob("*.parquet"):
        poison(path, canary)
    said = one_sentence(evenset("run", config, override))
    assert "pickled_object" in said
    assert folder in said


def test_status_of_a_run_whose_reasons_hold_pickles(evenset, run, canary):
    _, place = run
    (place / "rejected/embed").mkdir(parents=True)
    pq.write_table(
        pa.table({"id": ["a"], "uri": ["a"], "reason": ["x"]}), place / "rejected/embed/part-00000.parquet"
    )
    manifest = json.loads((place / "embeddings/_manifest.json").read_text())
    manifest["counts"]["files"]["rejected/embed"] = [[0, 1]]
    (place / "embeddings/_manifest.json").write_text(json.dumps(manifest))
    assert "rejected by embed: 1" in evenset("status", place).text
    poison(place / "rejected/embed/part-00000.parquet", canary, "reason")
    assert "pickled_object" in one_sentence(evenset("status", place))


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[1]", b"[" * 100_000, b'{"stage": 1}', b'{"config": 1, "inputs": 2}']
)
def test_a_manifest_that_is_none(canary, tmp_path, content):
    store = Store(str(tmp_path / "run"))
    for data in (content, canary.pickle):
        store.write_bytes("tree/_manifest.json", data)
        store.write_bytes("tree/_begun.json", data)
        with pytest.raises(RunError, match=r"_manifest\.json is damaged"):
            read_manifest(store, "tree")
        with pytest.raises(RunError, match=r"_begun\.json is damaged"):
            read_begun(store, "tree")


def test_a_config_of_a_run_that_names_an_object(evenset, run, canary):
    config, place = run
    (place / "config.yaml").write_text(f"modality: !!python/object/apply:os.mkdir [{canary.path}]\n")
    assert "not YAML" in one_sentence(evenset("run", config), code=2)


def test_text_that_steers_a_terminal_is_spelt_out(evenset, run):
    _, place = run
    manifest = json.loads((place / "tree/_manifest.json").read_text())
    manifest["counts"]["[/red]\x1b]0;owned\x07"] = 1
    manifest["finished"] = "[bold]\x1b[2J"
    (place / "tree/_manifest.json").write_text(json.dumps(manifest))
    shown = evenset("status", place)
    assert shown.code == 0, shown
    assert "\x1b" not in shown.text
    assert "\\x1b]0;" in shown.text


def objects(canary):
    buffer = io.BytesIO()
    np.save(buffer, np.array([canary.object], dtype=object), allow_pickle=True)
    return buffer.getvalue()


def test_an_array_of_a_checkpoint_that_holds_objects(canary, tmp_path):
    """Its name is the hash of its content, as it should be."""
    store, data = Store(str(tmp_path)), objects(canary)
    for content in (data, canary.pickle):
        name = f"{hashlib.blake2b(content, digest_size=16).hexdigest()}.npy"
        store.write_bytes(f"checkpoint/{name}", content)
        with pytest.raises(DamagedError, match="no array of numbers"):
            read_array(store, "checkpoint", name)
    store.write_bytes("secret.npy", data)
    with pytest.raises(DamagedError, match="damaged"):
        read_array(store, "checkpoint", "../secret.npy")


@pytest.mark.slow
def test_a_checkpoint_that_is_hostile_is_named_and_not_used(evenset, run, canary):
    config, place = run
    folder = place / "unfinished/checkpoint"
    folder.mkdir(parents=True)
    (folder / "header.json").write_bytes(canary.pickle)
    (folder / "x.npy").write_bytes(objects(canary))
    shutil.rmtree(place / "tree")
    outcome = evenset("run", config)
    assert outcome.code == 0, outcome
    assert "the checkpoint is not used" in outcome.text


def test_the_state_of_an_encoder_that_holds_objects(canary, tmp_path):
    store, buffer = Store(str(tmp_path)), io.BytesIO()
    np.savez(buffer, words=np.array([canary.object], dtype=object))
    for content in (buffer.getvalue(), canary.pickle, objects(canary), b"PK\x03\x04", b""):
        store.write_bytes(STATE, content)
        with pytest.raises(RunError, match=r"state\.npz is damaged"):
            _kept(store, STATE)


def test_names_in_a_run_lead_nowhere_else(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("mine")
    store = Store(str(tmp_path / "run"))
    store.write_bytes("a", b"")
    (tmp_path / "run/link").symlink_to(outside)
    (tmp_path / "run/file").symlink_to(outside / "kept")
    for rel in ("../outside/x", "link/x", "link/deep/x", str(outside / "x")):
        for change in (
            lambda rel=rel: store.write_bytes(rel, b"x"),
            lambda rel=rel: store.append_line(rel, "x"),
            lambda rel=rel: store.delete(f"{rel}/../kept"),
            lambda rel=rel: store.write_table(rel, pa.table({"a": [1]})),
        ):
            with pytest.raises(RunError, match="outside the run directory"):
                change()
    with pytest.raises(RunError, match="is a link"):
        store.append_line("file", "x")
    store.write_bytes("file", b"own")  # in the link's place
    store.delete("link")
    assert names(tmp_path / "run") == ["a", "file"]
    assert names(outside) == ["kept"]
    assert (outside / "kept").read_text() == "mine"


@pytest.mark.parametrize("name", [".lock", "log.jsonl"])
def test_a_link_that_a_run_would_write_through(evenset, run, tmp_path, name):
    config, place = run
    (tmp_path / "mine").write_text("mine")
    (place / name).unlink()
    (place / name).symlink_to(tmp_path / "mine")
    assert "is a link" in one_sentence(evenset("run", config, "sample.size=30"))
    assert (tmp_path / "mine").read_text() == "mine"


@pytest.mark.slow
def test_what_a_killed_run_left_is_deleted_only_in_the_run(evenset, run, tmp_path):
    config, place = run
    home = tmp_path / "home"
    (home / "photos").mkdir(parents=True)
    (place / "unfinished").mkdir()
    (place / "unfinished/scratch").symlink_to(home)
    assert "outside the run directory" in one_sentence(evenset("run", config, "cluster.n_clusters=[10,3]"))
    (place / "unfinished/scratch").unlink()
    (place / "unfinished/scratch").mkdir()
    (place / "unfinished/scratch/0123").symlink_to(home)
    assert evenset("run", config, "cluster.n_clusters=[10,3]").code == 0
    assert (home / "photos").is_dir()


def test_a_folder_for_temporary_files_that_is_somebody_elses(tmp_path):
    own(tmp_path / "mine")
    own(tmp_path / "mine")
    assert (tmp_path / "mine").stat().st_mode & 0o777 == 0o700
    (tmp_path / "link").symlink_to(tmp_path / "mine")
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    for name in ("link", "open"):
        with pytest.raises(RunError, match="not this user's own"):
            own(tmp_path / name)
    if os.getuid() == 0:
        (tmp_path / "theirs").mkdir()
        os.chown(tmp_path / "theirs", 65534, 65534)
        with pytest.raises(RunError, match="not this user's own"):
            own(tmp_path / "theirs")


EVIL = [
    "../../x.png",
    "/etc/x.png",
    "a/../../x.png",
    "..",
    ".ssh/x.png",
    "~/x.png",
    "sub/x.png",
    "C:\\x.png",
    "x\x00.png",
]


@pytest.mark.slow
def test_what_begins_like_a_formula_is_in_no_file_that_a_spreadsheet_opens(evenset, write_config, tmp_path):
    formulas = [f"{sign}cmd|' /C calc'!A{i}" for i in range(5) for sign in "=+-@\t"]
    vectors = np.random.default_rng(0).normal(size=(len(formulas), 8)).astype(np.float32)
    pq.write_table(pa.table({"embedding": list(vectors), "name": formulas}), tmp_path / "pool.parquet")
    config = write_config(
        tmp_path / "pool.parquet",
        source={"format": "embeddings", "id_column": "name"},
        cluster={"n_clusters": [4]},
        sample={"size": len(formulas)},
    )
    assert evenset("run", config).code == 0
    written = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert {path.suffix for path in written}.isdisjoint({".csv", ".tsv", ".tab", ".xls", ".xlsx", ".ods"})
    [ids] = [path for path in written if path.name == "ids.txt"]
    assert sorted(ids.read_text().splitlines()) == sorted(formulas)  # as they are, to be found again


@pytest.mark.slow
def test_files_are_exported_into_their_folder_and_nowhere_else(evenset, write_config, tmp_path):
    random = np.random.default_rng(0)
    pictures = [png(random.integers(0, 255, (9, 9, 3), dtype=np.uint8)) for _ in range(30)]
    ids = [*EVIL, *(f"{i}.png" for i in range(30 - len(EVIL)))]
    pool = tmp_path / "deep/pool.parquet"
    pool.parent.mkdir()
    pq.write_table(pa.table({"image": pictures, "name": ids}), pool)
    config = write_config(
        pool,
        output=str(tmp_path / "deep/run"),
        source={"id_column": "name"},
        cluster={"n_clusters": [4]},
        sample={"size": 30},
        export={"formats": ["files"]},
    )
    assert evenset("run", config).code == 0
    folder = tmp_path / "deep/run/export/files"
    written = [Path(root, name) for root, _, names in os.walk(folder) for name in names]
    assert len(written) == 30
    assert names(tmp_path) == ["deep", "job.yaml"]
    assert names(tmp_path / "deep") == ["pool.parquet", "run"]

    # the run comes back from somebody else with a link where a folder of the export was
    outside = tmp_path / "outside"
    outside.mkdir()
    shutil.rmtree(folder / "sub")
    (folder / "sub").symlink_to(outside)
    for part in (tmp_path / "deep/run/export/index").iterdir():
        part.unlink()
    (tmp_path / "deep/run/export/_manifest.json").unlink()
    outcome = evenset("run", config)
    assert names(outside) == []
    assert outcome.code == 0 or "outside the run directory" in one_sentence(outcome)
