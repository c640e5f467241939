"""The cluster and sample stages against the library, on any number of shards."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow as pa
import pytest

from curation import HierarchicalKMeans, balanced_sample, chance
from curation.shards import RayWorkers
from pipelines.blocks import part_name
from pipelines.cluster import UNFINISHED, cluster
from pipelines.config import Config
from pipelines.encode import fixed_lists, matrix
from pipelines.errors import RequestError, RunError
from pipelines.estimate import shared_out, shares
from pipelines.progress import Progress
from pipelines.sample import read_tree, sample
from pipelines.store import Store
from tests.curation.pools import blobs

from .conftest import write_vectors

pytestmark = pytest.mark.usefixtures("ray_cluster")

POINTS = blobs(2000, 12, 60)
LEVELS = [150, 30, 6]


def embedded(folder, points, rows_a_part=300):
    """A run directory whose embed stage is done."""
    store = Store(str(folder))
    ids = [f"sample-{i}" for i in range(len(points))]
    for index, start in enumerate(range(0, len(points), rows_a_part)):
        rows = slice(start, start + rows_a_part)
        keys = pa.array(chance.digests(ids[rows]), pa.binary(16))
        columns = {"id": ids[rows], "uri": [f"there/{i}" for i in ids[rows]], "key": keys}
        table = pa.table({**columns, "embedding": fixed_lists(points[rows])})
        store.write_table(part_name("embeddings", index), table)
    return store, ids


def config(**keys):
    wanted = {"n_clusters": LEVELS, "max_iter": 10, "resample": {"steps": 2}, **keys.pop("cluster", {})}
    return Config.model_validate({"source": {"path": "x"}, "cluster": wanted, "seed": 4, **keys})


def whole(store, folder, columns=None):
    return pa.concat_tables([store.read_table(part, columns) for part in store.list(folder)])


@pytest.mark.parametrize(
    ("shards", "distance", "repeats"),
    [pytest.param(1, "euclidean", 1, marks=pytest.mark.slow), (3, "cosine", 2)],
)
def test_the_stages_give_what_the_library_gives(tmp_path, shards, distance, repeats):
    store, ids = embedded(tmp_path, POINTS)
    asked = config(
        cluster={"shards": shards, "distance": distance}, sample={"size": 400, "max_repeats": repeats}
    )
    progress = Progress(store)
    counts = cluster(asked, store, progress)
    assert counts["clusters"] == LEVELS
    assert counts["shards"] == shards
    told = sample(asked, store, progress)
    twin = HierarchicalKMeans(LEVELS, max_iter=10, resample_steps=2, distance=distance, random_state=4)
    tree = twin.fit(POINTS, ids=ids).tree_
    assert counts["grid_exponent"] == twin._grid.exponent
    for number, level in enumerate(tree.levels, start=1):
        table = whole(store, f"tree/level-{number}/centroids")
        assert np.array_equal(table["cluster"].to_numpy(), np.arange(len(level)))
        assert np.array_equal(matrix(table["centroid"]), level.centroids)
        assert np.array_equal(table["size"].to_numpy(), level.sizes)
        parents = table["parent"].to_pylist()
        assert parents == ([None] * len(level) if level.parents is None else level.parents.tolist())
    assignments = whole(store, "tree/level-1/assignments")
    assert assignments["id"].to_pylist() == ids
    assert np.array_equal(assignments["cluster"].to_numpy(), tree.leaves.clusters)
    assert np.array_equal(assignments["distance"].to_numpy(), tree.leaves.distances)
    assert counts["inertia"] == pytest.approx(twin.inertia_)

    curated = whole(store, "curated")
    copies = sorted(
        (rank, name)
        for name, ranks in zip(curated["id"].to_pylist(), curated["ranks"].to_pylist(), strict=True)
        for rank in ranks
    )
    drawn = balanced_sample(tree, 400, max_repeats=repeats, seed=4)
    assert [name for _, name in copies] == list(drawn)
    assert [rank for rank, _ in copies] == list(range(1, 401))
    files = {"curated": [[0, 1]]}
    assert told == {"pool": 2000, "curated": 400, "distinct": len(curated), "files": files}
    assert curated["weight"].to_numpy().sum() == pytest.approx(2000)
    assert curated["uri"].to_pylist() == [f"there/{i}" for i in curated["id"].to_pylist()]
    leaf = dict(zip(ids, tree.leaves.clusters, strict=True))
    paths = tree.paths()
    for name, path in zip(curated["id"].to_pylist(), curated["path"].to_pylist(), strict=True):
        assert path == paths[leaf[name]].tolist()


def test_centroids_of_another_number_of_shards_do_not_stay(tmp_path):
    """Of a stage that was cut off while it wrote them: whoever reads the folder sees each cluster once."""
    store, _ = embedded(tmp_path, POINTS[:700])
    for level, name in ((1, 7), (2, 1)):
        part = part_name(f"tree/level-{level}/centroids", name)
        store.write_table(part, pa.table({"cluster": pa.array([0], pa.int64())}))
    cluster(config(cluster={"n_clusters": [20, 5], "shards": 1}), store, Progress(store))
    for level, count in ((1, 20), (2, 5)):
        found = whole(store, f"tree/level-{level}/centroids", ["cluster"])
        assert found["cluster"].to_pylist() == list(range(count))


def test_assignments_keep_the_parts_of_the_embeddings(tmp_path):
    store, _ = embedded(tmp_path, POINTS[:700], 300)
    cluster(config(cluster={"n_clusters": [20, 5]}), store, Progress(store))
    for part in store.list("embeddings"):
        mirrored = part.replace("embeddings", "tree/level-1/assignments")
        assert store.read_table(mirrored, ["id"]).equals(store.read_table(part, ["id"]))


@pytest.mark.slow
def test_identical_samples_are_one_cluster_and_it_is_said(tmp_path):
    store, _ = embedded(tmp_path, np.ones((50, 4), np.float32))
    counts = cluster(config(cluster={"n_clusters": [10, 3]}), store, Progress(store))
    assert counts["clusters"] == [1, 1]
    assert any("only 1 distinct" in note for note in counts["notes"])
    assert sample(config(sample={"size": 5}), store, Progress(store))["distinct"] == 5


def test_a_pool_of_one_sample(tmp_path):
    store, ids = embedded(tmp_path, POINTS[:1])
    assert cluster(config(cluster={"n_clusters": [1]}), store, Progress(store))["clusters"] == [1]
    assert sample(config(sample={"size": 1}), store, Progress(store))["distinct"] == 1
    assert whole(store, "curated")["id"].to_pylist() == ids


def test_far_points_are_refused_with_a_way_out(tmp_path):
    points = (100 + 1e-3 * np.random.default_rng(0).standard_normal((300, 64))).astype(np.float32)
    store, _ = embedded(tmp_path, points)
    with pytest.raises(RunError, match="subtract their mean"):
        cluster(config(cluster={"n_clusters": [10, 3]}), store, Progress(store))


@pytest.mark.parametrize(
    ("scale", "said"),
    [(1.0, r"that of 'sample-7', has a norm of about 2\^100, .* leave that sample out .* by 2\^-100"),
     (2.0**-60, r"about 2\^-5\d, so squared distances leave float32: multiply all embeddings by 2\^5\d ")],
)  # fmt: skip
def test_an_embedding_that_leaves_float32_is_named_before_shards_begin(tmp_path, monkeypatch, scale, said):
    points = POINTS * np.float32(scale)
    if scale == 1:
        points[7, 3] = 1e30
    store, _ = embedded(tmp_path, points)
    monkeypatch.setattr("pipelines.cluster.RayWorkers", lambda *_, **__: pytest.fail("shards were started"))
    with pytest.raises(RequestError, match=said) as refusal:
        cluster(config(), store, Progress(store))
    assert "cluster.distance" in str(refusal.value)
    assert refusal.value.exit_code == 2


@pytest.mark.parametrize(
    ("rows", "wanted", "held"),
    [
        ([10_000], 2, [10_000]),
        ([16_384] * 6 + [1_696], 16, [16_384] * 6 + [1_696]),
        ([16_384, 3_616], 2, [16_384, 3_616]),
        ([5, 5, 5, 5], 2, [10, 10]),
        ([1, 1, 1, 97], 3, [3, 97]),
        ([7, 9], 1, [16]),
    ],
)
def test_there_are_no_more_shards_than_parts(rows, wanted, held):
    dealt = shares(rows, wanted)
    assert [part for share in dealt for part in share] == list(range(len(rows)))
    assert shared_out(rows, wanted) == held


def test_a_pool_of_fewer_parts_than_cpus_is_not_regrouped_for_more(tmp_path, monkeypatch):
    """Whoever looks for room for more shards, here at every iteration, sees that there are no more parts."""
    seen = []

    class Looking(RayWorkers):
        def outgrown(self):
            self._looked = -1e9
            seen.append(self.wanted())
            return super().outgrown()

    def estimated(recipe, held, *_):
        seen.append(held)
        return 1.0

    monkeypatch.setattr("pipelines.cluster.RayWorkers", Looking)
    monkeypatch.setattr("pipelines.cluster.stage_estimate", estimated)
    monkeypatch.setattr("pipelines.cluster._REGROUPS", 1)
    store, _ = embedded(tmp_path, blobs(10_000, 4, 60), rows_a_part=10_000)
    asked = config(cluster={"n_clusters": [20], "max_iter": 6, "resample": {"steps": 0}})
    counts = cluster(asked, store, Progress(store))
    assert (counts["shards"], counts["regrouped"]) == (1, 0)
    assert seen[0] == [10_000]
    assert len(seen) >= 3
    assert set(seen[1:]) == {1}


def test_nothing_embedded_is_said(tmp_path):
    with pytest.raises(RunError, match="no sample is embedded"):
        cluster(config(), Store(str(tmp_path)), Progress())


@pytest.mark.slow
def test_a_sample_larger_than_the_tree_is_refused(tmp_path):
    store, _ = embedded(tmp_path, POINTS[:200])
    cluster(config(cluster={"n_clusters": [20, 5]}), store, Progress(store))
    with pytest.raises(RunError, match="sample.size: a sample of 201 was asked for"):
        sample(config(sample={"size": 201}), store, Progress(store))


@pytest.mark.slow
def test_assignments_of_another_run_are_not_sampled(tmp_path):
    store, _ = embedded(tmp_path, POINTS[:700])
    cluster(config(cluster={"n_clusters": [20, 5]}), store, Progress(store))
    store.delete(store.list("tree/level-1/assignments")[0])
    with pytest.raises(RunError, match="belong to different runs"):
        sample(config(sample={"size": 650}), store, Progress(store))


@pytest.mark.slow
def test_a_damaged_tree_is_named(tmp_path):
    store, _ = embedded(tmp_path, POINTS[:200])
    cluster(config(cluster={"n_clusters": [20, 5]}), store, Progress(store))
    part = store.list("tree/level-2/centroids")[0]
    store.write_table(part, store.read_table(part).slice(0, 3))
    with pytest.raises(RunError, match="cannot be used"):
        read_tree(store)


def tree_of(store, levels=3):
    """All rows of a tree."""
    folders = [f"tree/level-{level}/centroids" for level in range(1, levels + 1)]
    return [whole(store, folder) for folder in ("tree/level-1/assignments", *folders)]


def streams(monkeypatch):
    """Which kinds of files shards keep their rows in while they are told to."""
    seen = set()

    def tell(checkpoint, *_, **__):
        folder = checkpoint.files.local / UNFINISHED / "scratch"
        seen.update(path.name for path in folder.glob("*/rows.*"))

    monkeypatch.setattr("curation.checkpoint.Checkpoint.save", tell)
    return seen


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
def test_no_result_depends_on_the_memory(tmp_path, monkeypatch, dtype, distance):
    """Of a pool of either type, held in memory or streamed from a file of the smallest type that fits."""
    points, seen = (POINTS / 8).astype(dtype), streams(monkeypatch)
    trees = []
    for memory in ("auto", 330_000):
        store, _ = embedded(tmp_path / str(memory), points)
        asked = config(cluster={"memory": memory, "shards": 1, "distance": distance})
        assert memory == 330_000 or not seen
        cluster(asked, store, Progress(store))
        assert not store.exists(UNFINISHED)
        trees.append(tree_of(store))
    assert seen == {"rows.f2" if (dtype, distance) == (np.float16, "euclidean") else "rows.f4"}
    assert all(one.equals(two) for one, two in zip(*trees, strict=True))


@pytest.mark.slow
def test_too_little_memory_is_refused_with_the_least(tmp_path):
    store, _ = embedded(tmp_path, POINTS)
    with pytest.raises(RunError, match=r"take at least ([\d,]+);") as refusal:
        cluster(config(cluster={"memory": 1000, "shards": 1}), store, Progress(store))
    least = int(str(refusal.value).split("at least ")[1].split(";")[0].replace(",", ""))
    with pytest.raises(RunError, match="at least"):
        cluster(config(cluster={"memory": least - 1, "shards": 1}), store, Progress(store))
    cluster(config(cluster={"memory": least, "shards": 1}), store, Progress(store))


def test_greedy_seeds_want_all_points_in_memory(tmp_path):
    store, _ = embedded(tmp_path, POINTS)
    with pytest.raises(RunError, match="leave cluster.init at auto"):
        cluster(config(cluster={"memory": 330_000, "shards": 1, "init": "k-means++"}), store, Progress(store))


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("moment", "shards", "then"), [("fit", 1, 1), ("fit", 2, 3), ("step", 2, 2), ("levels", 2, 1)]
)
def test_a_killed_run_goes_on_and_ends_the_same(
    evenset, write_config, tmp_path, ray_cluster, moment, shards, then
):
    """Killed in an iteration, a resampling step, or after a level; a shard that is alone streams its rows."""
    pool = tmp_path / "pool"
    pool.mkdir()
    for i in range(0, len(POINTS), 200):
        rows = slice(i, i + 200)
        write_vectors(pool / f"{i:04}.parquet", POINTS[rows], [f"sample-{j}" for j in range(i, i + 200)])
    wanted = {"n_clusters": LEVELS, "resample": {"steps": 2, "points": [4, 3, 2]}, "tol": 0, "max_iter": 12}
    wanted |= {"shards": shards, "checkpoint": 0.001, "memory": 330_000}
    sections = {"source": {"format": "embeddings"}, "cluster": wanted}
    reference = write_config(pool, "reference", **sections, output=str(tmp_path / "reference"))
    killed = write_config(pool, **sections)
    for file in (reference, killed):
        assert evenset("embed", file).code == 0
    assert evenset("cluster", reference).code == 0

    header = tmp_path / "run" / UNFINISHED / "checkpoint/header.json"

    def reached():
        told = (
            json.loads(header.read_text()) if header.exists() else {"fit": None, "step": None, "levels": []}
        )
        if moment == "fit":
            return told["fit"] and told["fit"]["n_iter"] >= 2
        return told["step"] and told["step"]["step"] >= 2 if moment == "step" else told["levels"]

    command = [sys.executable, "-m", "pipelines", "cluster", str(killed)]
    environment = os.environ | {"RAY_ADDRESS": ray_cluster}
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and not reached():
            time.sleep(0.01)
        assert process.poll() is None, "the run was over before it could be killed: make it longer"
        process.send_signal(signal.SIGKILL)
    done = evenset("cluster", killed, f"cluster.shards={then}")
    assert done.code == 0, done
    at = {"fit": "level 1, step 0, iteration", "step": "level 1, step", "levels": "level"}[moment]
    assert f"goes on from a checkpoint: {at}" in done.text, done
    one, two = (Store(str(tmp_path / name)) for name in ("reference", "run"))
    assert all(mine.equals(other) for mine, other in zip(tree_of(one), tree_of(two), strict=True))
    assert not two.exists(UNFINISHED)


@pytest.mark.slow
def test_a_checkpoint_of_another_config_is_refused_and_named(tmp_path, monkeypatch):
    store, _ = embedded(tmp_path / "one", POINTS)
    every = {"checkpoint": 0.001}
    with monkeypatch.context() as until:
        until.setattr("pipelines.cluster._monitor", lambda _: stop)
        with pytest.raises(Stopped):
            cluster(config(cluster=every), store, Progress(store))
    assert store.exists(f"{UNFINISHED}/checkpoint/header.json")
    finer = {**every, "n_clusters": [160, 30, 6]}
    cluster(config(cluster=finer), store, Progress(store))
    said = [json.loads(line).get("text", "") for line in store.read_bytes("log.jsonl").splitlines()]
    assert any(
        "header.json belongs to another fit, with another cluster.n_clusters;" in text for text in said
    )
    twin, _ = embedded(tmp_path / "two", POINTS)
    cluster(config(cluster=finer), twin, Progress(twin))
    assert all(a.equals(b) for a, b in zip(tree_of(store), tree_of(twin), strict=True))


class Stopped(Exception):
    """Ends a fit before it is done."""


def stop(phase, done, _):
    if phase == "iterations" and done == 3:
        raise Stopped
