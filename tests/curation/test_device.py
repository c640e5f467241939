"""A fit on a device gives the bits of a fit on a CPU: the same path runs here on a CPU of PyTorch's."""

import os

import numpy as np
import pytest
import torch

from curation import CurationError, HierarchicalKMeans, KMeans, assign, exact, sketch
from curation.assign import Assigner, Centroids
from curation.block import PointBlock
from curation.device import Device, Placed, find
from curation.inputs import grid_rows, point_keys
from curation.rows import ResidentRows, store
from tests.curation.pools import blobs, halfway

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # before Triton is first imported

HERE = "cuda" if torch.cuda.is_available() else "cpu"
ON = [f"{HERE}:torch", f"{HERE}:triton"]
TORCH = Assigner(device=ON[0])

pytestmark = pytest.mark.usefixtures("in_batches")


def assert_same(points, n_clusters, weights=None, assigner=TORCH, **how):
    plain = KMeans(n_clusters, **how).fit(points, sample_weight=weights)
    there = KMeans(n_clusters, assigner=assigner, **how).fit(points, sample_weight=weights)
    assert np.array_equal(plain.labels_, there.labels_)
    assert np.array_equal(plain.cluster_centers_, there.cluster_centers_)
    assert (plain.inertia_, plain.n_iter_) == (there.inertia_, there.n_iter_)
    assert np.array_equal(plain.predict(points), there.predict(points))


@pytest.mark.parametrize(
    ("points", "n_clusters", "how"),
    [
        (blobs(2000, 8, 80), 50, {}),
        (blobs(1000, 5, 30), 40, {"distance": "cosine"}),
        (halfway(5000, 150, 900), 700, {"max_iter": 7}),  # sketch, candidates and swaps
        (halfway(3000, 20, 900), 600, {"max_iter": 4, "algorithm": "lloyd"}),
        (blobs(300, 3, 5), 9, {"init": "k-means++"}),
        (np.repeat(blobs(20, 4, 3), 30, axis=0), 30, {}),  # fewer distinct points than clusters
        (np.ones((5, 1)), 1, {}),
    ],
)
def test_a_fit_gives_the_bits_of_a_cpu(points, n_clusters, how):
    assert_same(points, n_clusters, **how)


def test_weights_are_whole_numbers_there_too():
    points = blobs(2000, 8, 60)
    assert_same(points, 50, np.random.default_rng(0).integers(0, 5, len(points)))
    assert_same(points, 50, np.random.default_rng(0).random(len(points)))


def test_the_fused_kernel_takes_the_same_path():
    assert_same(blobs(300, 20, 40), 33, assigner=Assigner(device=ON[1]), max_iter=3)


@pytest.mark.parametrize("assigner", [Assigner(), TORCH])
def test_what_is_done_element_by_element_may_be_shared_out(monkeypatch, assigner):
    points = halfway(3000, 150, 900)
    plain = KMeans(600, max_iter=4).fit(points)
    monkeypatch.setattr("curation.kernels.threads._RUN", 97)
    monkeypatch.setattr("curation.kernels.threads._ALONE", 0)
    shared = KMeans(600, max_iter=4, assigner=assigner).fit(points)
    assert np.array_equal(plain.labels_, shared.labels_)
    assert np.array_equal(plain.cluster_centers_, shared.cluster_centers_)


@pytest.mark.slow
def test_the_fused_kernel_takes_the_path_of_many_clusters():
    """A sketch, candidates, merits and swaps; the interpreter takes minutes."""
    assert_same(halfway(3000, 150, 900), 600, assigner=Assigner(device=ON[1]), max_iter=4)


def test_a_tree_with_resampling_and_splitting_is_the_same():
    points = halfway(4000, 12, 400)
    how = {"resample_steps": 2, "split": [6, 1, 1], "max_iter": 5}
    plain, there = (
        HierarchicalKMeans([240, 40, 6], assigner=assigner, **how).fit(points).tree_
        for assigner in (Assigner(), TORCH)
    )
    assert np.array_equal(plain.leaves.clusters, there.leaves.clusters)
    for level, other in zip(plain.levels, there.levels, strict=True):
        assert np.array_equal(level.centroids, other.centroids)


@pytest.mark.parametrize("room", [0, 1 << 40])
def test_rows_that_do_not_fit_are_streamed(monkeypatch, tmp_path, room):
    """From memory and from a file, in chunks of 100 rows: labels, sums and sketch of one chunk."""
    rows, _ = grid_rows(halfway(2570, 150, 300), "euclidean")
    keys = point_keys(len(rows), None)
    monkeypatch.setattr(Device, "room", lambda _: room)
    directions = sketch.directions(rows[:500])
    plain, stored = PointBlock(rows, keys), store(iter([rows]), tmp_path / "rows", 150, 100 * 4 * 150)
    there = PointBlock(stored, keys, TORCH)
    centroids = rows[::9]
    for along, told in ((None, centroids), (directions, sketch.project(centroids, directions))):
        expected = plain.assign(None, "everything", along, None, None, True, told)
        found = there.assign(None, "everything", along, None, None, True, told)
        for part, other in zip([*expected[0], *expected[1]], [*found[0], *found[1]], strict=True):
            assert np.array_equal(part, other)


def chunks(rows, device, monkeypatch, room=1 << 40):
    monkeypatch.setattr(Device, "room", lambda _: room)
    placed = Placed(ResidentRows(rows), device)
    first, again = (list(placed.chunks()) for _ in range(2))
    return first, again


def test_rows_that_fit_stay_in_float16_where_that_is_exact(monkeypatch):
    device = find(ON[0])
    rows = blobs(500, 16, 9)
    coarse = rows.astype(np.float16).astype(np.float32)
    for values, dtype in ((coarse, torch.float16), (rows, torch.float32)):
        monkeypatch.setattr("curation.rows.CHUNK_BYTES", 64 * 90)
        (where, found), *rest = chunks(values, device, monkeypatch)[0]
        assert where == slice(0, 500)
        assert not rest
        assert found.dtype == dtype
        assert np.array_equal(found.float().cpu().numpy(), values)
    # one row that does not fit, far behind
    late = coarse.copy()
    late[-1, 0] += 2.0**-20
    first, again = chunks(late, device, monkeypatch)
    assert np.array_equal(first[0][1].float().cpu().numpy(), late)
    assert first[0][1] is again[0][1]


def test_streamed_chunks_come_in_order(monkeypatch):
    rows = blobs(500, 16, 9)
    monkeypatch.setattr("curation.rows.CHUNK_BYTES", 64 * 90)
    first, again = chunks(rows, find(ON[0]), monkeypatch, room=0)
    assert len(first) == len(again) == 6
    for where, part in (*first, *again):
        assert np.array_equal(part.cpu().numpy(), rows[where])


def test_what_a_file_lacks_is_told_by_the_one_who_reads_on(tmp_path, monkeypatch):
    rows = blobs(500, 16, 9)
    monkeypatch.setattr(Device, "room", lambda _: 0)
    stored = store(iter([rows]), tmp_path / "rows", 16, 64 * 90)
    os.truncate(tmp_path / "rows", 64 * 300)
    with pytest.raises(EOFError, match="ended early"):
        list(Placed(stored, find(ON[0])).chunks())


def test_operations_are_those_of_a_cpu():
    rows, _ = grid_rows(halfway(700, 33, 90), "euclidean")
    labels = np.random.default_rng(0).integers(-1, 40, len(rows)).astype(np.int32)
    centroids, there, rows.flags.writeable = Centroids(rows[:40]), Assigner(device=ON[0]), False
    expected = exact.squared_distances(rows, centroids.values, None, labels)
    assert np.isinf(expected).any()
    assert np.array_equal(there.squared_distances(rows, centroids, labels), expected)
    directions = sketch.directions(rows, 7)
    assert np.array_equal(there.project(rows, directions), sketch.project(rows, directions))
    weights = np.arange(len(rows))
    for weight in (None, weights):
        found = there.cluster_sums(rows, np.maximum(labels, 0), 41, weight)
        for part, other in zip(
            found, exact.cluster_sums(rows, np.maximum(labels, 0), 41, weight), strict=True
        ):
            assert part.dtype == other.dtype
            assert np.array_equal(part, other)


def test_every_pass_over_the_points_is_made_there(monkeypatch):
    """The CPU reads centroids, and single points."""
    asked, passes = set(), {"nearest", "squared_distances", "cluster_sums", "gains", "project"}
    for name in passes:
        there = getattr(Device, name)

        def noted(*args, name=name, there=there):
            asked.add(name)
            return there(*args)

        monkeypatch.setattr(Device, name, noted)
    here = assign.as_array

    def of_centroids(rows):
        assert len(rows) < 3000
        return here(rows)

    monkeypatch.setattr(assign, "as_array", of_centroids)
    KMeans(600, max_iter=5, assigner=TORCH).fit(halfway(3000, 150, 900))
    assert asked == passes


def test_auto_takes_a_gpu_where_there_is_one():
    assert (find("auto") is None) == (HERE == "cpu")
    assert find("cpu") is None
    assert Assigner().on is None
    assert find(ON[0]) is find(ON[0])


@pytest.mark.parametrize("name", ["tpu", "cuda:0", "cpu:numba"])
def test_a_device_that_there_is_not_is_refused(name):
    with pytest.raises(CurationError, match=f"there is no device '{name}'"):
        KMeans(2, assigner=Assigner(device=name)).fit(np.eye(3))


@pytest.mark.skipif(HERE == "cuda", reason="needs a machine without a GPU")
def test_a_gpu_that_is_not_there_is_named_with_a_way_out():
    with pytest.raises(CurationError, match="no GPU here; choose 'cpu' or 'auto'"):
        KMeans(2, assigner=Assigner(device="cuda")).fit(np.eye(3))
