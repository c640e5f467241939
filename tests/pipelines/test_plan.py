"""`evenset plan`: counted, estimated and warned of before anything starts, and compared in the report."""

import json
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curation import sketch
from curation.cost import Work, scan_work, tree_work
from curation.recipe import Recipe
from curation.rows import Footing
from pipelines import calibration, plan
from pipelines.calibration import machine, measure
from pipelines.cli import main
from pipelines.config import Config
from pipelines.estimate import DRIVER_BYTES, actor_bytes, crew, stage_bytes, stage_seconds
from pipelines.gpus import GPUS, gpu_seconds, kernel_seconds, streams
from pipelines.manifest import read_manifest
from pipelines.quantities import scaled
from pipelines.store import Store

from .conftest import blobs, png, write_vectors

HALVES = np.tile(blobs(1000), (200, 8)).astype(np.float16)


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
    for level in found["levels"]:
        assert level["seconds"] > 0
        assert level["operations"] > 2 * level["inputs"] * level["clusters"] * 8  # a scan, at least
        assert level["bytes"] > 4 * level["inputs"] * 8
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


@pytest.mark.parametrize(
    ("n", "levels", "split", "cut", "kept"),
    [
        (3001, [4000, 5], [10, 1], [3000, 5], [10, 1]),
        (505, [1000, 100], [10, 1], [500, 100], [10, 1]),
        (505, [1000, 502], [10, 2], [500, 498], [10, 2]),
        (7, [1000, 100, 10], [10, 1, 1], [7, 6, 5], [1, 1, 1]),
        (2, [1000, 100, 10], [10, 1, 1], [2, 1], [1, 1]),
        (5000, [1000, 100], [10, 1], [1000, 100], [10, 1]),
    ],
)
def test_levels_that_are_split_are_cut_to_what_can_be(n, levels, split, cut, kept):
    asked = Config.model_validate(
        {"source": {"path": "x"}, "cluster": {"n_clusters": levels, "split": split}}
    )
    recipe = plan._recipe(asked, n)
    assert (recipe.n_clusters, recipe.split) == (cut, kept)


def test_a_split_level_is_priced_as_what_is_done_and_warned_of_where_it_cannot_be(
    told, write_config, tmp_path
):
    file = tmp_path / "pool.npy"
    np.save(file, blobs(20_000))
    whole, split = (
        told(write_config(file, cluster={"n_clusters": [5000, 50], **more}), "--json")
        for more in ({}, {"split": [100, 1]})
    )
    assert [level["fits"] for level in split["levels"]] == [2, 2]
    assert [level["fits"] for level in whole["levels"]] == [1, 2]
    assert split["levels"][0]["operations"] < whole["levels"][0]["operations"] / 2
    many = write_config(file, cluster={"n_clusters": [30_000, 50], "split": [3000, 1]})
    found = told(many, "--json")
    assert "30,000 clusters" in found["warnings"][0]
    assert [level["clusters"] for level in found["levels"]] == [18_000, 50]


def test_approximate_scans_are_priced_as_such(told, write_config, tmp_path):
    pytest.importorskip("faiss")
    file = tmp_path / "pool.npy"
    np.save(file, blobs(20_000))
    exact, near = (
        told(write_config(file, cluster={"n_clusters": [5000], "algorithm": algorithm}), "--json")
        for algorithm in ("auto", "ivf")
    )
    assert near["levels"][0]["operations"] < 0.9 * exact["levels"][0]["operations"]


@pytest.mark.parametrize(("n", "held"), [(12_000, [12_000]), (20_000, [16_384, 3616])])
def test_shards_are_those_that_the_parts_of_the_pool_allow(
    told, write_config, tmp_path, monkeypatch, n, held
):
    """On a machine that has room for four: memory and time are those of the one that holds most."""
    large = replace(machine(), cpus=4)
    monkeypatch.setattr(plan, "machine", lambda: large)
    rates = measure(5000, 8, 50, 2, seconds=0.01)
    monkeypatch.setattr(plan, "measure", lambda *_: rates)
    file = tmp_path / "pool.npy"
    np.save(file, blobs(n))
    found = told(write_config(file, cluster={"n_clusters": [50]}), "--json")
    assert found["shards"] == len(held)
    assert found["actor_memory"] == actor_bytes(Footing(2**40, held[0], 8, 50))
    recipe = Recipe([50], resample_steps=1)
    assert found["cluster_seconds"] == pytest.approx(sum(stage_seconds(recipe, n, 8, rates, crew(held, 4))))
    even = [n // len(held)] * len(held)
    assert found["cluster_seconds"] >= sum(stage_seconds(recipe, n, 8, rates, crew(even, 4)))


def test_a_crew_waits_for_whoever_holds_most():
    assert (crew([16_384, 3616], 4).shards, crew([16_384, 3616], 4).uneven) == (2, 1.6384)
    assert crew([10, 10, 10], 2).uneven == 1  # the third takes turns with the others
    assert crew([30, 10, 10], 2).uneven == 1.2
    assert crew([7], 2).shards == 1


def test_memory_counts_the_centroid_shards_as_well():
    """A process for each point shard, and what all of them hold of the centroids together."""
    few, many = (Footing(2**40, 1000, 64, k) for k in (50, 500_000))
    assert stage_bytes(few, 64) - stage_bytes(few, 1) > 63 * (actor_bytes(few) + 100_000_000)
    for shards in (1, 64):
        more = stage_bytes(many, shards) - stage_bytes(few, shards)
        held = more - shards * (actor_bytes(many) - actor_bytes(few))  # by the store, and the centroid shards
        assert held == (500_000 - 50) * 64 * (8 + 8 * shards + 28)


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
    np.save(file, HALVES)
    config = write_config(file, cluster={"n_clusters": [50]})
    whole, streamed, small = (
        told(config, f"cluster.memory={m}", "--json") for m in ("1GiB", "20MiB", "1KiB")
    )
    assert (whole["streamed"], streamed["streamed"]) == (False, True)
    assert streamed["actor_memory"] < whole["actor_memory"]
    assert streamed["disk"]["unfinished"] == 2 * 64 * 200_000
    assert "unfinished" not in whole["disk"]
    assert not any("memory" in warning for warning in streamed["warnings"])
    assert any("cluster.memory" in warning for warning in small["warnings"])


@pytest.mark.parametrize(
    ("cluster", "item", "sketches"),
    [
        ({}, 2, 1),
        ({"distance": "cosine"}, 4, 1),
        ({"n_clusters": [500]}, 2, 0),
        ({"algorithm": "lloyd"}, 2, 0),
        ({"n_clusters": [6000], "split": [60], "memory": 40_000_000}, 2, 0),
        ({"resample": {"steps": 2, "points": [3]}}, 2, 1 + 2 * 3 * 600 / 20_000),
        ({"resample": {"steps": 2, "points": [900]}}, 2, 1 + 2),
    ],
)
def test_streamed_points_lie_on_the_disk_in_the_type_that_holds_them_with_their_sketches(
    told, write_config, tmp_path, cluster, item, sketches
):
    file = tmp_path / "pool.npy"
    np.save(file, HALVES[:20_000].repeat(3, axis=1))
    asked = {"n_clusters": [600], "memory": 6_000_000, "shards": 2, **cluster}
    found = told(write_config(file, cluster=asked), "--json")
    assert found["streamed"]
    assert found["disk"]["unfinished"] == pytest.approx(20_000 * (item * 192 + 4 * sketch.SIZE * sketches))


def test_it_warns_of_greedy_seeds_that_want_all_points_in_memory(told, write_config, vectors):
    config = write_config(vectors, cluster={"n_clusters": [50], "init": "k-means++"})
    kept, streamed = (told(config, f"cluster.memory={m}", "--json")["warnings"] for m in ("1GiB", "400KB"))
    assert not any("k-means++" in warning for warning in kept)
    assert any("cluster.init k-means++ reads every point" in warning for warning in streamed)


def test_it_warns_of_a_kernel_that_is_older_than_the_cpu(told, write_config, vectors, monkeypatch):
    old = replace(machine(), kernels=("Prescott",), flags=frozenset({"avx2"}))
    monkeypatch.setattr(plan, "machine", lambda: old)
    assert "set OPENBLAS_CORETYPE=Haswell" in " ".join(told(write_config(vectors)).split())
    [warning] = told(write_config(vectors), "--json")["warnings"]
    assert "Prescott" in warning


def test_it_warns_of_threads_that_fight(told, write_config, vectors, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "512")
    assert any("OMP_NUM_THREADS is 512" in w for w in told(write_config(vectors), "--json")["warnings"])


def test_bad_requests(refused, write_config, vectors, tmp_path):
    assert "nowhere" in refused("plan", write_config(tmp_path / "nowhere"))
    assert "--dimensions" in refused("plan", write_config(vectors), "--dimensions", 0)
    assert "sample.sise" in refused("plan", write_config(vectors), "sample.sise=1")


def test_the_machine_is_measured_in_about_the_time_that_it_is_given():
    measure(5000, 32, 600, 1, seconds=0.01)  # compiles what is not compiled yet
    began = time.perf_counter()
    rates = measure(5000, 32, 600, 1, seconds=0.4)
    assert 0.2 < time.perf_counter() - began < 4  # beside another test
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
        busy = kernel_seconds(gpu, scan, 10**7, 768, 10**5)
        assert floor < busy < 10 * floor
        assert busy < gpu_seconds(gpu, scan, 10**7, 768, 10**5)


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


def below(process):
    """A process and those that it has started, and these; a process that ends meanwhile is left out."""
    children = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            children.setdefault(int(stat.read_text().rsplit(")", 1)[1].split()[1]), []).append(
                int(stat.parent.name)
            )
        except OSError:
            continue
    found = [process]
    for one in found:
        found += children.get(one, ())
    return found


def memory_of(name):
    """Bytes of each process of this test's Ray for an actor of this class; what is shared counts in parts."""
    found = []
    for process in below(os.getpid()):
        try:
            if Path(f"/proc/{process}/cmdline").read_text().startswith(f"ray::{name}"):
                told = Path(f"/proc/{process}/smaps_rollup").read_text().split("Pss:")[1]
                found.append(int(told.split()[0]) * 1024)
        except (OSError, IndexError):
            continue
    return found


def size(folder):
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


@pytest.mark.slow
def test_disk_and_memory_are_those_of_a_run_within_a_factor_of_2(
    evenset, told, write_config, tmp_path, monkeypatch
):
    """Of points that are streamed, with a sketch beside them, on two shards."""
    (tmp_path / "pool").mkdir()
    for i in range(4):
        np.save(tmp_path / "pool" / f"{i}.npy", blobs(2000, 160, i).astype(np.float16))
    wanted = {"n_clusters": [600], "shards": 2, "memory": 4_000_000, "max_iter": 5}
    config = write_config(tmp_path / "pool", source={"format": "embeddings"}, cluster=wanted)
    found = told(config, "--json")
    assert found["streamed"]
    seen = {"shard": [], "shards": [], "unfinished": []}

    def look(*_, **__):
        points, slices = memory_of("PointShard"), memory_of("CentroidShard")
        seen["shard"].append(max(points))
        seen["shards"].append(sum(points + slices))
        seen["unfinished"].append(size(tmp_path / "run/unfinished"))

    monkeypatch.setattr("curation.checkpoint.Checkpoint.save", look)
    assert evenset("run", config).code == 0
    expected = {"shard": found["actor_memory"], "shards": found["memory"] - DRIVER_BYTES} | found["disk"]
    took = {name: max(sizes) for name, sizes in seen.items()}
    took |= {stage: size(tmp_path / "run" / stage) for stage in ("embeddings", "tree", "curated", "export")}
    assert took.keys() == expected.keys()
    for name, bytes_ in took.items():
        assert bytes_ / 2 < expected[name] < 2 * bytes_, name
