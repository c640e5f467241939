"""The cluster and sample stages against the library, on any number of shards."""

import numpy as np
import pyarrow as pa
import pytest

from curation import HierarchicalKMeans, balanced_sample, chance
from pipelines.blocks import part_name
from pipelines.cluster import cluster
from pipelines.config import Config
from pipelines.encode import fixed_lists, matrix
from pipelines.errors import RunError
from pipelines.progress import Progress
from pipelines.sample import read_tree, sample
from pipelines.store import Store
from tests.curation.pools import blobs

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


@pytest.mark.parametrize(("shards", "distance", "repeats"), [(1, "euclidean", 1), (3, "cosine", 2)])
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
    tree = twin.fit(POINTS, ids).tree_
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
    assert told == {"pool": 2000, "curated": 400, "distinct": len(curated)}
    assert curated["weight"].to_numpy().sum() == pytest.approx(2000)
    assert curated["uri"].to_pylist() == [f"there/{i}" for i in curated["id"].to_pylist()]
    leaf = dict(zip(ids, tree.leaves.clusters, strict=True))
    paths = tree.paths()
    for name, path in zip(curated["id"].to_pylist(), curated["path"].to_pylist(), strict=True):
        assert path == paths[leaf[name]].tolist()


def test_assignments_keep_the_parts_of_the_embeddings(tmp_path):
    store, _ = embedded(tmp_path, POINTS[:700], 300)
    cluster(config(cluster={"n_clusters": [20, 5]}), store, Progress(store))
    for part in store.list("embeddings"):
        mirrored = part.replace("embeddings", "tree/level-1/assignments")
        assert store.read_table(mirrored, ["id"]).equals(store.read_table(part, ["id"]))


def test_identical_samples_are_one_cluster_and_it_is_said(tmp_path):
    store, _ = embedded(tmp_path, np.ones((50, 4), np.float32))
    counts = cluster(config(cluster={"n_clusters": [10, 3]}), store, Progress(store))
    assert counts["clusters"] == [1, 1]
    assert any("only 1 distinct" in note for note in counts["notes"])
    assert sample(config(sample={"size": 5}), store, Progress(store))["distinct"] == 5


def test_far_points_are_refused_with_a_way_out(tmp_path):
    points = (100 + 1e-3 * np.random.default_rng(0).standard_normal((300, 64))).astype(np.float32)
    store, _ = embedded(tmp_path, points)
    with pytest.raises(RunError, match="subtract their mean"):
        cluster(config(cluster={"n_clusters": [10, 3]}), store, Progress(store))


def test_nothing_embedded_is_said(tmp_path):
    with pytest.raises(RunError, match="no sample is embedded"):
        cluster(config(), Store(str(tmp_path)), Progress())


def test_a_sample_larger_than_the_tree_is_refused(tmp_path):
    store, _ = embedded(tmp_path, POINTS[:200])
    cluster(config(cluster={"n_clusters": [20, 5]}), store, Progress(store))
    with pytest.raises(RunError, match="sample.size: a sample of 201 was asked for"):
        sample(config(sample={"size": 201}), store, Progress(store))


def test_assignments_of_another_run_are_not_sampled(tmp_path):
    store, _ = embedded(tmp_path, POINTS[:700])
    cluster(config(cluster={"n_clusters": [20, 5]}), store, Progress(store))
    store.delete(store.list("tree/level-1/assignments")[0])
    with pytest.raises(RunError, match="belong to different runs"):
        sample(config(sample={"size": 650}), store, Progress(store))


def test_a_damaged_tree_is_named(tmp_path):
    store, _ = embedded(tmp_path, POINTS[:200])
    cluster(config(cluster={"n_clusters": [20, 5]}), store, Progress(store))
    part = store.list("tree/level-2/centroids")[0]
    store.write_table(part, store.read_table(part).slice(0, 3))
    with pytest.raises(RunError, match="cannot be used"):
        read_tree(store)
