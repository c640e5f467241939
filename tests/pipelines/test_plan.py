"""`evenset plan`: counted, estimated and warned of before anything starts, and compared in the report."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curation.cost import Work, scan_work, tree_work
from curation.recipe import Recipe
from pipelines import calibration, plan
from pipelines.calibration import machine, measure
from pipelines.cli import main
from pipelines.gpus import GPUS, gpu_seconds, streams
from pipelines.manifest import read_manifest
from pipelines.quantities import scaled
from pipelines.store import Store

from .conftest import blobs, png, write_vectors


@pytest.fixture(autouse=True)
def brief(monkeypatch):
    """Rates are measured in a moment: what they are is not what is tested."""
    monkeypatch.setattr(plan, "measure", lambda *asked: measure(*asked, seconds=0.02))


@pytest.fixture
def vectors(tmp_path):
    file = tmp_path / "pool.npy"
    np.save(file, blobs(3000))
    return file


@pytest.fixture
def told(capfd, monkeypatch):
    """Run ``evenset plan`` without any Ray; the text, or the JSON."""

    def never(*_, **__):
        raise AssertionError("a plan started Ray")

    monkeypatch.setattr("ray.init", never)

    def run(*arguments):
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            main(["plan", *map(str, arguments)])
        printed = capfd.readouterr()
        assert not end.value.code, printed
        return json.loads(printed.out) if "--json" in arguments else printed.out

    return run


def test_a_pool_of_embeddings_is_counted_and_nothing_is_written(told, write_config, vectors, tmp_path):
    found = told(write_config(vectors, cluster={"n_clusters": [300, 30]}), "--json")
    assert (found["samples"], found["dimensions"]) == (3000, 8)
    assert [(lv["inputs"], lv["clusters"], lv["fits"]) for lv in found["levels"]] == [
        (3000, 300, 1),
        (300, 30, 2),
    ]
    assert all(level["seconds"] > 0 and level["operations"] > 0 for level in found["levels"])
    assert found["cluster_seconds"] == pytest.approx(sum(level["seconds"] for level in found["levels"]))
    assert found["memory"] >= found["shards"] * found["actor_memory"] > 0
    assert found["disk"]["embeddings"] > 3000 * 8 * 4
    assert set(found["gpu_seconds"]) >= {"H200", "T4"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["job.yaml", "pool.npy"]


def test_a_person_reads_the_same(told, write_config, vectors):
    text = told(write_config(vectors))
    assert "3,000 embeddings of 8 dimensions" in text
    assert "300 > 60 > 12" in text
    assert "a leaf for every 10 samples" in text
    assert "clustering" in text
    assert "embedding is not estimated" not in text
    assert machine().cpu in text


def test_the_encoder_says_how_long_an_embedding_is(told, write_config, tmp_path):
    (tmp_path / "pool").mkdir()
    for i in range(40):
        (tmp_path / "pool" / f"{i}.png").write_bytes(png(np.full((8, 8), i, np.uint8)))
    found = told(write_config(tmp_path / "pool"), "encoder.model=patches", "--json")
    assert (found["samples"], found["dimensions"]) == (40, 128)
    assert found["disk"]["export"] > 0
    assert any("embedding is not estimated" in note for note in found["notes"])


TEXT_POOLS = {
    "documents.parquet": ("parquet", {"text": ["one", "two"], "author": ["x", "y"]}),
    "documents.jsonl": ("jsonl", '{"text": "one"}\n{"text": "two"}\n'),
    "lines.txt": ("txt", "one\ntwo\n"),
    "folder/a.txt": ("files", "one"),
}


@pytest.mark.parametrize("file", TEXT_POOLS)
def test_the_example_for_texts_takes_what_it_says_and_the_format_is_told(told, tmp_path, file):
    fmt, content = TEXT_POOLS[file]
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    if fmt == "parquet":
        pq.write_table(pa.table(content), path)
    else:
        path.write_text(content)
    pool = path.parent if fmt == "files" else path
    asked = ("examples/text.yaml", f"source.path={pool}", f"output={tmp_path / 'run'}", "--dimensions", 8)
    assert f"source.format auto is {fmt}, as the names of 1 of 1 files ({path.suffix}) tell" in (
        " ".join(told(*asked).split())
    )


def test_unknown_dimensions_are_asked_for(told, write_config, tmp_path):
    (tmp_path / "pool").mkdir()
    (tmp_path / "pool" / "a.txt").write_text("one\ntwo\nthree\n")
    folder = tmp_path / "pool" / "a.txt"
    asked = (write_config(folder, modality="text"), "encoder.model=sentence-transformers:/nowhere/at/all")
    found = told(*asked, "--json")
    assert found["cluster_seconds"] is None
    assert found["levels"][0]["clusters"] == 1
    assert any("--dimensions" in note for note in found["notes"])
    assert "?" in told(*asked)
    assert told(*asked, "--dimensions", 24, "--json")["dimensions"] == 24


def test_it_warns_of_numbers_that_cannot_work(told, write_config, vectors):
    found = told(write_config(vectors, cluster={"n_clusters": [4000, 5]}, sample={"size": 9000}), "--json")
    assert "4,000 clusters" in found["warnings"][0]
    found = told(write_config(vectors, sample={"size": 9000}), "--json")
    assert "sample.size 9,000" in found["warnings"][0]


def test_it_warns_where_memory_or_disk_are_too_small(told, write_config, vectors, monkeypatch):
    small = replace(machine(), memory=100_000_000)
    monkeypatch.setattr(plan, "machine", lambda: small)
    monkeypatch.setattr(plan.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9, 9, 1000))
    warnings = told(write_config(vectors), "--json")["warnings"]
    assert any("of memory" in warning and "100 MB" in warning for warning in warnings)
    assert any("on the disk" in warning and "1 kB" in warning for warning in warnings)


def test_a_budget_below_the_points_streams_them_and_one_below_a_block_is_warned_of(
    told, write_config, tmp_path
):
    file = tmp_path / "pool.npy"
    np.save(file, np.tile(blobs(1000), (200, 8)).astype(np.float16))
    config = write_config(file, cluster={"n_clusters": [50]})
    whole, streamed, small = (
        told(config, f"cluster.memory={m}", "--json") for m in ("1GiB", "20MiB", "1KiB")
    )
    assert (whole["streamed"], streamed["streamed"]) == (False, True)
    assert streamed["actor_memory"] < whole["actor_memory"]
    assert streamed["disk"]["tree"] > whole["disk"]["tree"]
    assert not any("memory" in warning for warning in streamed["warnings"])
    assert any("cluster.memory" in warning for warning in small["warnings"])


def test_it_warns_of_threads_that_fight(told, write_config, vectors, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "512")
    assert any("OMP_NUM_THREADS is 512" in w for w in told(write_config(vectors), "--json")["warnings"])


def test_bad_requests(refused, write_config, vectors, tmp_path):
    assert "nowhere" in refused("plan", write_config(tmp_path / "nowhere"))
    assert "--dimensions" in refused("plan", write_config(vectors), "--dimensions", 0)
    assert "sample.sise" in refused("plan", write_config(vectors), "sample.sise=1")


def test_the_machine_is_measured_in_about_the_time_that_it_is_given():
    rates = measure(5000, 32, 600, 1, seconds=0.1)
    for value in (rates.gemm, rates.pair, rates.sketch, rates.near, rates.update, rates.memory, rates.double):
        assert value > 0
    assert rates.block >= 0


def test_the_disk_is_measured_and_left_as_it_was(tmp_path):
    written, read = calibration.disk_rates(tmp_path / "not" / "there" / "yet")
    assert written > 0
    assert read > 0
    assert list(tmp_path.iterdir()) == []


def test_faster_gpus_are_no_slower_and_a_small_one_streams():
    works = tree_work(Recipe([100_000]), 10**7, 768)
    times = {gpu.name: gpu_seconds(gpu, works, 10**7, 768, 100_000) for gpu in GPUS}
    assert times["H200"] <= times["H100"] <= times["A100 80 GB"] < times["L4"] <= times["T4"]
    assert {gpu.name: streams(gpu, 10**7, 768, 10**5) for gpu in GPUS}["T4"]
    # 2 n k d operations at no more than the peak, and no less than a tenth of it
    scan = [scan_work(10**7, 10**5), Work()]
    for gpu in GPUS:
        floor = 2 * 10**7 * 10**5 * 768 / gpu.rate
        assert floor < gpu_seconds(gpu, scan, 10**7, 768, 10**5) < 10 * floor


@pytest.mark.parametrize(
    ("value", "words"),
    [(0, "0 B"), (999, "999 B"), (999.9, "1 kB"), (4.214e9, "4.21 GB"), (3e15, "3 PB"), (2e18, "2,000 PB")],
)
def test_quantities_read_as_a_person_says_them(value, words):
    assert scaled(value, "B") == words


def test_the_estimate_is_kept_and_the_report_shows_both(evenset, write_config, tmp_path):
    file = write_vectors(tmp_path / "pool.parquet", blobs(400))
    config = write_config(file, source={"format": "embeddings"}, sample={"size": 40})
    ran = evenset("run", config)
    assert ran.code == 0, ran
    assert "40 > 8" not in ran.text
    assert "cluster.n_clusters auto is 40" in ran.text
    counts = read_manifest(Store(str(tmp_path / "run")), "tree").counts
    assert counts["estimated_s"] > 0
    assert counts["took_s"] > 0
    assert any("a leaf for every 10 samples" in note for note in counts["notes"])
    html = (tmp_path / "run" / "report.html").read_text()
    assert "estimated at" in html
    assert "a leaf for every 10 samples" in html


def test_a_run_that_is_there_tells_more_than_its_pool(evenset, told, write_config, tmp_path):
    points = blobs(400)
    points[7] = np.nan
    config = write_config(write_vectors(tmp_path / "pool.parquet", points), source={"format": "embeddings"})
    assert evenset("embed", config, "limits.rejected=0.9").code == 0
    found = told(config, "--json")
    assert (found["samples"], found["dimensions_of"]) == (399, "the run's embeddings")
