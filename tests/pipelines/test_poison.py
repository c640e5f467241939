"""A sample that kills its process every time costs itself, and nothing else: no run, and no neighbours."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
import yaml
from ray import cloudpickle
from ray._private.state import actors

from modalities import registry
from pipelines.attempts import LOADS
from pipelines.isolate import TRIES
from pipelines.manifest import read_manifest
from pipelines.store import Store
from tests.faults import deadly

from .conftest import png, rows_of

cloudpickle.register_pickle_by_value(deadly)

ROOT = Path(__file__).resolve().parents[2]
KILLED = f"It killed the process that encoded it, {TRIES} times."
AT_ITS_PLACE = {"uri": "the two pools are two files"}
UNDECODED = "It killed the process that decoded it, or took longer than"


@pytest.fixture(autouse=True)
def plugins(monkeypatch):
    """The plugins of `tests.faults.deadly`, but as no distribution: the workers of this Ray would lack it."""
    monkeypatch.setitem(registry.ENCODERS, "deadly", "tests.faults.deadly:Deadly")
    monkeypatch.setitem(registry.MODALITIES, "deadlier", "tests.faults.deadly:Deadlier")


@pytest.fixture
def write(tmp_path, write_config):
    """Write a pool of pictures, ``group`` a part, of which some are marked, and a config for it."""

    def write(digits, marked, how, group, name="run", **sections):
        pictures = [picture(payload, i in marked) for i, payload in enumerate(digits)]
        names = [f"digit {i}" for i in range(len(digits))]
        pq.write_table(
            pa.table({"name": names, "image": pictures}), tmp_path / f"{name}.parquet", row_group_size=group
        )
        source = {"format": "parquet", "column": "image", "id_column": "name"}
        encoder = {"model": f"deadly:{how}", "batch_size": 8, "dtype": "float32", "num_gpus": 0}
        sections = {"encoder": encoder, "output": str(tmp_path / name), "sample": {"size": 5}, **sections}
        file = write_config(tmp_path / f"{name}.parquet", name, source=source, **sections)
        return file, Store(str(tmp_path / name))

    return write


def picture(payload, marked):
    from modalities.image import Image

    pixels = Image().decode(payload).copy()
    if marked:
        pixels[0, 0, 0] = deadly.MARK
    return png(pixels[:, :, 0])


def rejects(run):
    return {id: row["reason"] for id, row in rows_of(run, "rejected/embed").items()}


def named(numbers):
    return {f"digit {i}" for i in numbers}


def check(evenset, write, digits, marked, how, group, reason, **sections):
    """All of the pool but what is marked has the embeddings of a pool in which nothing kills."""
    config, run = write(digits, marked, how, group, **sections)
    done = evenset("embed", config)
    assert done.code == 0, done
    assert rejects(run).keys() == named(marked)
    assert all(said.startswith(reason) for said in rejects(run).values()), rejects(run)
    config, calm = write(digits, set(), "never", group, "calm")
    assert evenset("embed", config).code == 0
    rows, expected = rows_of(run, "embeddings"), rows_of(calm, "embeddings")
    assert rows.keys() == expected.keys() - named(marked)
    assert all(rows[id] | AT_ITS_PLACE == expected[id] | AT_ITS_PLACE for id in rows)
    counts = read_manifest(run, "embeddings").counts
    assert counts["samples"] == counts["embedded"] + counts["rejected"] == len(digits)
    assert counts["rejected"] == len(marked)
    assert "restarts" not in read_manifest(calm, "embeddings").counts
    return done, counts, run


@pytest.mark.slow
def test_a_picture_that_kills_its_encoder(evenset, write, digits, tmp_path):
    done, counts, run = check(evenset, write, digits[:48], {21}, "encode", 24, KILLED)
    assert "1 part of the pool killed the process at work 2 times" in done.text
    assert counts["isolated_parts"] == 1
    # two in the stream, then of the batch, its halves, and of the picture alone
    assert counts["restarts"] == 2 + 3 + TRIES
    assert list(rejects(run).values()) == [KILLED]
    status = evenset("status", run.url).text
    assert f"restarts {counts['restarts']}" in status
    assert KILLED in status
    again = evenset("embed", tmp_path / "run.yaml")
    assert "embed: kept" in again.text
    left = {actor["ActorClassName"] for actor in actors(actor_state_name="ALIVE").values()}
    assert not {"_Steps", "_Books"} & left


@pytest.mark.slow
def test_what_was_rejected_for_killing_stays_so_when_the_run_resumes(evenset, write, digits):
    config, run = write(digits[:48], {21}, "encode", 24)
    assert evenset("embed", config).code == 0
    rows, counts = rows_of(run, "embeddings"), read_manifest(run, "embeddings").counts
    run.delete("embeddings/_manifest.json")  # as if the run had been killed
    run.delete("embeddings/part-00001.parquet")
    resumed = evenset("embed", config)
    assert resumed.code == 0, resumed
    assert "resumed" in resumed.text
    assert rows_of(run, "embeddings") == rows
    again = read_manifest(run, "embeddings").counts
    assert again["digest"] == counts["digest"]
    assert "restarts" not in again  # nobody touched the picture again


@pytest.mark.slow
def test_more_deadly_parts_than_allowed_end_the_stage(evenset, write, digits):
    config, run = write(digits[:48], {21}, "encode", 24)
    done = evenset("embed", config, "limits.deadly_parts=0")
    assert done.code == 1, done
    assert "1 part of the pool killed the process at work on them (1 x encode)" in done.text
    assert "limits.deadly_parts=0" in done.text
    assert "encoder.batch_size" in done.text
    assert "Traceback" not in done.text
    assert read_manifest(run, "embeddings") is None


@pytest.mark.cluster
def test_three_pictures_that_kill_their_encoder(evenset, write, digits):
    marked = {13, 14, 250}  # two neighbours in one batch of one part, and the last part's
    _, counts, _ = check(evenset, write, digits, marked, "encode", 100, KILLED)
    assert counts["isolated_parts"] == 2


@pytest.mark.cluster
def test_pictures_that_kill_whoever_prepares_them(evenset, write, digits):
    _, counts, _ = check(evenset, write, digits[:90], {0, 44}, "prepare", 30, UNDECODED)
    assert counts["isolated_parts"] == 2


@pytest.mark.cluster
def test_a_picture_that_hangs_whoever_prepares_it(evenset, write, digits):
    _, counts, run = check(evenset, write, digits[:24], {5}, "hang", 12, UNDECODED, limits={"timeout": 1})
    assert "1 seconds (limits.timeout)" in rejects(run)["digit 5"]
    assert counts["restarts"] > 2


@pytest.mark.cluster
def test_a_picture_that_kills_whoever_cuts_the_batches(evenset, write, digits):
    """The batches of its part are others without it; the log names the samples in them."""
    config, run = write(digits[:48], {21}, "order", 24)
    done = evenset("embed", config)
    assert done.code == 0, done
    assert rejects(run) == {"digit 21": KILLED}
    log = [json.loads(line) for line in run.read_bytes("log.jsonl").decode().splitlines()]
    (ids,) = [entry["ids"] for entry in log if "ids" in entry]
    assert set(ids) == named(range(24)) - named({21})


@pytest.mark.cluster
def test_an_encoder_that_dies_whenever_it_loads(evenset, write, digits):
    config, _ = write(digits[:24], set(), "load", 12)
    done = evenset("embed", config)
    assert done.code == 1, done
    assert f"died {LOADS} times in a row while it loaded its model" in done.text


@pytest.mark.soak
def test_a_picture_that_kills_while_an_encoder_learns_from_the_pool(evenset, write, digits):
    """As if it could not be decoded in the usual way."""
    sections = {"encoder": {"model": "patches", "num_gpus": 0}}
    config, run = write(digits[:90], {31, 32}, "", 30, modality="deadlier", **sections)
    done = evenset("embed", config)
    assert done.code == 0, done
    assert rejects(run).keys() == named({31, 32})
    config, mild = write(digits[:90], set(), "", 30, "mild", **sections)
    table = pq.read_table(yaml.safe_load(config.read_text())["source"]["path"])
    broken = [b"no picture" if i in (31, 32) else image for i, image in enumerate(table["image"].to_pylist())]
    pq.write_table(
        table.set_column(1, "image", pa.array(broken, pa.binary())),
        yaml.safe_load(config.read_text())["source"]["path"],
        row_group_size=30,
    )
    assert evenset("embed", config).code == 0
    rows, expected = rows_of(run, "embeddings"), rows_of(mild, "embeddings")
    assert {id: row["embedding"] for id, row in rows.items()} == {
        id: row["embedding"] for id, row in expected.items()
    }


def command(folder, name, environment, *arguments):
    """A whole run in processes of its own, with the plugins installed; its curated rows and rejects."""
    tree = yaml.safe_load((folder / "run.yaml").read_text()) | {"output": str(folder / name)}
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(tree))
    plain = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    done = subprocess.run(
        [sys.executable, "-m", "pipelines", "run", str(folder / f"{name}.yaml"), *arguments],
        cwd=ROOT,
        env=plain
        | {"PYTHONPATH": f"{ROOT}{os.pathsep}{folder / 'site'}", "OMP_NUM_THREADS": "1"}
        | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return done, Store(str(folder / name))


@pytest.mark.cluster
def test_a_whole_run_over_samples_that_kill_everybody(tmp_path, digits):
    """Readers and encoders die, a reader hangs: the curated rows are those of a pool that is merely bad."""
    pool = tmp_path / "pool"
    pool.mkdir()
    for i in range(1_300):  # two parts
        (pool / f"{i:04d}.png").write_bytes(picture(digits[i % 300], i in (100, 130, 1_200)))
    for name in ("0400 kill.png", "1150 hang.png"):
        (pool / name).write_bytes(digits[7])
    deadly.install(tmp_path / "site")
    tree = {
        "source": {"path": f"deadly://{pool}", "format": "files"},
        "encoder": {"model": "deadly:encode"},
        "cluster": {"n_clusters": [60, 10], "resample": {"steps": 1}},
        "sample": {"size": 300},
        "export": {"formats": ["ids"]},
        "limits": {"timeout": 4},
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(tree))
    done, run = command(tmp_path, "deadly", {})
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    bad = {"0100.png", "0130.png", "1200.png", "0400 kill.png", "1150 hang.png"}
    assert rejects(run).keys() == bad
    assert rejects(run)["0400 kill.png"] == f"It killed the process that read it, {TRIES} times."
    assert rejects(run)["1150 hang.png"].startswith("It could not be read within 4 seconds")
    mild, expected = command(tmp_path, "mild", {deadly.MILD: "1"})
    assert mild.returncode == 0, mild.stdout + mild.stderr
    assert rejects(expected).keys() == bad
    for folder in ("embeddings", "tree/level-1/assignments", "curated"):
        assert rows_of(run, folder) == rows_of(expected, folder), folder
    counts = read_manifest(run, "embeddings").counts
    assert counts["samples"] == counts["embedded"] + len(bad)
    metrics = json.loads(run.read_bytes("metrics.json"))
    assert metrics["stages"][0]["counts"]["restarts"] == counts["restarts"] > 10
    assert f"restarts {counts['restarts']}" in run.read_bytes("report.html").decode()
    again, _ = command(tmp_path, "deadly", {})
    assert "embed: kept" in again.stderr


def test_a_part_of_embeddings_that_kills_whoever_reads_it(ray_cluster, tmp_path):
    """Its rows are named by their numbers, since nobody can read their ids."""
    import modalities
    from modalities.base import Part
    from pipelines import rescue
    from pipelines.lone import Work
    from pipelines.startup import identity

    np.save(tmp_path / "a.npy", np.ones((6, 3), np.float32))
    source = modalities.source("embeddings", str(tmp_path), modality=modalities.modality("image"))
    source.__class__ = type("Killing", (type(source),), {"read_vectors": lambda self, part: os._exit(1)})
    work = Work(source, modalities.modality("image"), None, 1.0, 0.5, None, identity())
    (row,) = rescue.rescue_all(
        [Part(0, source.parts()[0].spec)], rescue.reread, work, Store(str(tmp_path / "run")), False, at_once=1
    )
    assert (row["embedded"], row["rejected"], row["restarts"]) == (0, 6, TRIES)
    rows = rejects(Store(str(tmp_path / "run")))
    assert rows.keys() == {str(i) for i in range(6)}
    assert set(rows.values()) == {rescue.READ_TOGETHER}
    assert ray.is_initialized()
