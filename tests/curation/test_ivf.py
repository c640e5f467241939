"""Approximate assignment to very many clusters: asked for by name, told what it costs, never by accident."""

import subprocess
import sys

import numpy as np
import pytest

from curation import CurationError, HierarchicalKMeans, KMeans
from curation.block import PointBlock
from curation.candidates import Lists
from curation.descent import FEW, Plan
from curation.hierarchy import grow
from curation.inputs import grid_rows, point_keys
from curation.recipe import Recipe
from curation.workers import LocalWorkers
from tests.curation.pools import blobs, halfway

POOL = halfway(12_000, 24, 1500)
MANY = 900


@pytest.fixture(scope="module")
def found():
    return KMeans(MANY, algorithm="ivf").fit(POOL)


def objective(points, model, labels):
    return float(((points.astype(np.float64) - model.cluster_centers_[labels]) ** 2).sum())


def test_it_finds_nearly_what_the_fast_recipe_finds(found):
    exact = KMeans(MANY).fit(POOL)
    assert found.inertia_ <= 1.03 * exact.inertia_  # a pool where most assignments are close calls
    assert np.isclose(objective(POOL, found, found.labels_), found.inertia_, rtol=1e-5)
    assert np.array_equal(np.unique(found.labels_), np.arange(len(found.cluster_centers_)))


def test_it_says_how_many_have_their_nearest(found):
    """Of all 12,000 rows about the share that is told of 4,096."""
    nearest = found.predict(POOL)
    share = float((nearest == found.labels_).mean())
    assert 0.95 < found.recall_ <= 1
    assert abs(share - found.recall_) < 0.01
    assert objective(POOL, found, nearest) <= objective(POOL, found, found.labels_)


def test_it_is_the_fast_recipe_itself_where_clusters_are_few():
    points = blobs(3000, 6, 50)
    plain, asked = (KMeans(60, algorithm=algorithm).fit(points) for algorithm in ("auto", "ivf"))
    assert np.array_equal(plain.labels_, asked.labels_)
    assert asked.recall_ == plain.recall_ == 1
    assert Plan(algorithm="ivf").lists(FEW) is None
    assert Plan(algorithm="ivf").lists(FEW + 1) == Lists()
    assert Plan().lists(10**7) is None


def test_one_who_looks_again_keeps_what_is_nearer():
    """Full scans by lists never part a point from a nearer centroid than the one they find."""
    rows, _ = grid_rows(POOL, "euclidean")
    block = PointBlock(rows, point_keys(len(rows), None))
    centroids = rows[:: len(rows) // MANY]
    exact, _ = block.assign(None, "everything", None, None, None, False, centroids)
    lists = Lists(probes=1)
    again, _ = block.assign(exact, "everything", None, lists, None, False, centroids)
    alone, _ = block.assign(None, "everything", None, lists, None, False, centroids)
    assert np.array_equal(again.first, exact.first)
    assert (alone.first != exact.first).any()


def test_a_tree_says_which_level_is_approximate():
    tree = HierarchicalKMeans([MANY, 20], algorithm="ivf", max_iter=5).fit(POOL).tree_
    notes = [note for note in tree.notes if "approximately" in note]
    assert len(notes) == 1
    assert notes[0].startswith("level 1: ")
    assert "of 4096 sampled ones" in notes[0]


def test_shares_of_the_points_tell_the_same_recall():
    rows, _ = grid_rows(POOL, "euclidean")
    keys = point_keys(len(rows), None)
    told = []
    for blocks in (1, 3):
        shares = np.array_split(np.arange(len(rows)), blocks)
        workers = LocalWorkers([PointBlock(rows[share], keys[share]) for share in shares])
        recipe = Recipe([MANY], algorithm="ivf", max_iter=3)
        told += [note for level in grow(workers, recipe, lambda _: None) for note in level.notes]
    assert len(told) == 2
    assert told[0] == told[1]


def test_without_faiss_it_says_what_to_install():
    program = (
        "import sys; sys.modules['faiss'] = None\n"
        "from curation import CurationError, KMeans\n"
        "KMeans(2).fit([[0.0], [1.0]])\n"
        "try:\n    KMeans(2, algorithm='ivf').fit([[0.0], [1.0]])\n"
        "except CurationError as error:\n    print(error)\n"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert "install evenset[cpu], or evenset[gpu]" in told


def test_other_names_are_refused():
    with pytest.raises(CurationError, match="there is no algorithm 'hnsw'; there are auto, lloyd, ivf"):
        Plan(algorithm="hnsw")
