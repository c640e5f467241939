"""The Ray form gives the bits of the local one, on any number of shards and through their deaths."""

import json
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import ray

from curation import CurationError, HierarchicalKMeans, sketch
from curation.actors import PointShard
from curation.assign import Assigner
from curation.chance import keys_of
from curation.checkpoint import HEADER, Checkpoint, Standing, Step
from curation.errors import RegroupError, WorkerRestartedError
from curation.hierarchy import grow
from curation.inputs import grid_rows
from curation.points import EVERYTHING
from curation.recipe import Recipe
from curation.shards import RayWorkers, _cpus_beside
from curation.shares import equal_share, whole_share
from curation.workers import FIT_DONE, LocalWorkers
from pipelines.store import Store
from tests.curation.on_ray import Rows, assert_equal, grow_on_ray, in_a_view, killing
from tests.curation.pools import blobs, halfway

pytestmark = pytest.mark.usefixtures("ray_cluster", "in_batches")

POINTS = blobs(3000, 8, 80)
RECIPE = Recipe([200, 40, 8], resample_steps=2, resample_points=[5, 3, 2])


@pytest.fixture(scope="module")
def twin():
    levels, steps, points = RECIPE.n_clusters, RECIPE.resample_steps, RECIPE.resample_points
    return HierarchicalKMeans(levels, resample_steps=steps, resample_points=points).fit(POINTS).tree_


@pytest.mark.slow
def test_upper_levels_spread_over_shards_as_well(twin):
    assert_equal(grow_on_ray(POINTS, RECIPE, 2, slices=3, alone=50), twin, 300)


@pytest.mark.slow
def test_shards_that_die_change_nothing(twin):
    """A point shard while seeding, and all of them and a centroid shard while iterating."""
    killer = killing(
        (lambda w: w.point_shards[:1], "seeding", 60),
        (lambda w: w.point_shards + w.centroid_shards[:1], "iterations", 2),
    )
    order = np.random.default_rng(0).permutation(3000)
    assert_equal(grow_on_ray(POINTS, RECIPE, 2, slices=2, order=order, killer=killer), twin, 300)
    assert not killer.left


class Stopped(Exception):
    """Ends a fit before it is done."""


def stopping(phase, at):
    """Breaks a fit off."""

    def stop(_, told, done, __):
        if (told, done) == (phase, at):
            raise Stopped

    return stop


# Wide enough for a sketch, and more clusters than are scanned as a whole.
WIDE = Recipe([600, 30], resample_steps=1, resample_points=[5, 3], max_iter=9)


@pytest.fixture(scope="module")
def wide():
    points = halfway(6000, 144, 900)
    fit = HierarchicalKMeans(
        WIDE.n_clusters, resample_steps=1, resample_points=WIDE.resample_points, max_iter=WIDE.max_iter
    )
    return points, fit.fit(points).tree_


@pytest.mark.slow
@pytest.mark.parametrize(("shards", "slices"), [(1, 1), (2, 3), (3, 1), (7, 2)])
def test_any_number_of_shards_agrees(wide, shards, slices):
    points, twin = wide
    order = np.random.default_rng(shards).permutation(len(points))
    assert_equal(grow_on_ray(points, WIDE, shards, slices=slices, order=order), twin, 500)


@pytest.mark.parametrize("reduce", ["store", pytest.param("collective", marks=pytest.mark.slow)])
def test_shards_that_die_in_a_view_change_nothing(wide, reduce):
    """While seeds attract its points, while it iterates, and while all points are labelled after it."""
    points, twin = wide
    killer = killing(
        (lambda w: w.point_shards[:1], "seeding", 20),
        (lambda w: w.point_shards[-1:], "iterations", 2),
        (lambda w: w.point_shards[1:2], FIT_DONE, 1),
    )
    order = np.random.default_rng(1).permutation(len(points))
    watch = in_a_view(killer)
    tree = grow_on_ray(points, WIDE, 3, slices=2, order=order, reduce=reduce, killer=watch)
    assert_equal(tree, twin, 500)
    assert not killer.left


def test_a_shard_that_dies_in_a_view_changes_nothing_where_all_centroids_are_scanned():
    """Its labels are handles of what it never had: the iteration begins with those before them."""
    how = {"resample_steps": 1, "resample_points": [30, 2], "algorithm": "lloyd", "tol": 0, "max_iter": 8}
    killer = killing((lambda w: w.point_shards[:1], "iterations", 2))
    tree = grow_on_ray(POINTS, Recipe([60, 10], **how), 2, slices=2, killer=in_a_view(killer))
    assert_equal(tree, HierarchicalKMeans([60, 10], **how).fit(POINTS).tree_, 300)
    assert not killer.left


@pytest.mark.slow
@pytest.mark.parametrize(
    "recipe",
    [
        Recipe([600], max_iter=5),
        Recipe([600, 30], resample_steps=1, resample_points=[5, 3], max_iter=9),
    ],
    ids=["fit", "tree"],
)
def test_nothing_of_the_size_of_points_or_centroids_comes_to_the_driver(monkeypatch, recipe):
    """A few numbers a cluster do, whatever the points and their dimensions are."""
    rows, _ = grid_rows(halfway(30_000, 144, 900), "euclidean")
    refs = ray.put(rows), ray.put(keys_of(str(i) for i in range(len(rows))))
    seen = []
    get = RayWorkers.get

    def watched(self, handles):
        found = get(self, handles)
        seen.append(len(pickle.dumps(found)))
        return found

    monkeypatch.setattr(RayWorkers, "get", watched)
    monkeypatch.setattr(sketch, "SAMPLE", 256)  # of which it sees the keys, however many clusters there are
    workers = RayWorkers([Rows(*refs, share) for share in np.array_split(np.arange(len(rows)), 2)], 2)
    try:
        grow(workers, recipe, lambda _: None)
    finally:
        workers.close()
    numbers = 32 * recipe.n_clusters[0]  # a value, a key and a distance of each cluster
    assert len(seen) > 20
    assert max(seen) < 4 * numbers < min(4 * len(rows), rows[: recipe.n_clusters[0]].nbytes)


@pytest.mark.slow
@pytest.mark.parametrize(("shards", "slices"), [(3, 1), (2, 3)])
def test_shards_may_add_up_their_sums_among_themselves(wide, shards, slices):
    """And meet again when one is killed: the one where they meet, or another."""
    points, twin = wide
    killer = killing(
        (lambda w: w.point_shards[-1:], "iterations", 2), (lambda w: w.point_shards[:1], "iterations", 5)
    )
    groups = set()

    def watch(workers, *news):
        groups.add(workers.group)
        killer(workers, *news)

    tree = grow_on_ray(points, WIDE, shards, slices=slices, reduce="collective", killer=watch)
    assert_equal(tree, twin, 500)
    assert not killer.left
    assert groups >= {1, 2, 3}


@pytest.mark.slow
@pytest.mark.parametrize(("shards", "before"), [(3, 2), (2, 3)])
def test_a_shard_may_be_added_or_taken_away_between_iterations(wide, tmp_path, shards, before):
    points, twin = wide
    said = []
    kept = Checkpoint(Store(str(tmp_path)), "kept", {}, 0.0, said.append)
    with pytest.raises(Stopped):
        grow_on_ray(points, WIDE, before, slices=2, killer=stopping("iterations", 4), checkpoint=kept)
    again = Checkpoint(Store(str(tmp_path)), "kept", {}, 1e9, said.append)
    assert_equal(grow_on_ray(points, WIDE, shards, slices=3, checkpoint=again), twin, 500)
    assert said == ["goes on from a checkpoint: level 1, step 0, iteration 3"]


class Filling(Store):
    """Fails once, with the fourth state of a fit of level 2 in it."""

    def write_bytes(self, rel, data):
        super().write_bytes(rel, data)
        if rel.endswith(HEADER) and (json.loads(data)["fit"] or {}).get("level") == 2:
            count = self.read_bytes("count") if self.exists("count") else b""
            super().write_bytes("count", count + b".")
            if len(count) == 3:
                raise OSError("the disk is full")


@pytest.mark.parametrize("lost", [None, "array", "header"])
def test_an_actor_that_is_restarted_takes_up_what_was_written_last(tmp_path, lost):
    """It is given the checkpoint of before; where what was written cannot be used, it begins anew."""
    files = Store(str(tmp_path))
    kept = Checkpoint(files, "kept", {"fit": "a"}, 1e9)
    before = pickle.loads(pickle.dumps(kept))
    refs = ray.put(POINTS), ray.put(keys_of(str(i) for i in range(len(POINTS))))
    shard = PointShard([ray.put(Rows(*refs, np.arange(len(POINTS))))], Assigner())
    workers = LocalWorkers([shard.block])
    kept.enter(Step(1, 2), workers)
    kept.save(Standing(found=1, slices=[POINTS[:1]], n_iter=3), (0, 1, 2), workers, now=True)
    if lost == "array":
        files.delete(files.list("kept", ".npy")[0])
    elif lost == "header":
        files.write_bytes(f"kept/{HEADER}", files.read_bytes(f"kept/{HEADER}")[:99])
    seen = []

    def conductor(workers, checkpoint):
        at = checkpoint.standing(EVERYTHING, (0, 1, 2), workers)
        seen.append((checkpoint.step(1, workers).step, at and at.n_iter))
        return SimpleNamespace(slices=[POINTS[:1]]), []

    shard.conduct(conductor, before)
    assert seen == ([(2, 3)] if lost is None else [(0, None)])


def test_a_level_that_one_actor_grows_goes_on_from_its_last_iteration(wide, tmp_path):
    points, twin = wide
    said = []
    kept = Checkpoint(Filling(str(tmp_path)), "kept", {"fit": "a"}, 0.0, said.append)
    with pytest.raises(OSError, match="the disk is full"):
        grow_on_ray(points, WIDE, 2, slices=2, checkpoint=kept)
    assert_equal(grow_on_ray(points, WIDE, 3, checkpoint=kept), twin, 500)
    assert said == ["goes on from a checkpoint: level 2, step 0, iteration 3"]


@pytest.mark.slow
@pytest.mark.parametrize("half", [True, False])
def test_rows_in_files_agree_and_are_cleared_away(wide, tmp_path, half):
    """Through the death of a shard as well, which finds its file again."""
    points = wide[0].astype(np.float16).astype(np.float32) if half else wide[0]
    points = points / np.float32(2.0**5)  # within the unit ball, so that float16 lies on the grid
    twin = HierarchicalKMeans(
        WIDE.n_clusters, resample_steps=1, resample_points=WIDE.resample_points, max_iter=WIDE.max_iter
    )
    tree = twin.fit(points).tree_
    seen = []
    killer = killing((lambda w: w.point_shards[:1], "iterations", 3))

    def watch(*news):
        seen.extend(path.name for path in tmp_path.glob("*/rows.*"))
        killer(*news)

    assert_equal(grow_on_ray(points, WIDE, 2, folder=tmp_path, killer=watch), tree, 500)
    assert set(seen) == {"rows.f2" if half else "rows.f4"}
    assert not killer.left
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("machines", [[2], [1, 1], [2, 3, 8], [64], [0.5]])
@pytest.mark.parametrize("count", [1, 2, 3, 7, 201, 999])
def test_all_shards_fit_the_machines_however_many_they_are(machines, count):
    """CPUs or GPUs of machines, of which none is shared by a shard with another one."""
    share = equal_share(sum(machines), count)
    assert 0 < share <= 1
    assert sum(int(there / share + 1e-9) for there in machines) >= count


@pytest.mark.parametrize(
    ("gpus", "whole"), [(0, 0), (1e-9, 1e-4), (0.25, 0.25), (0.3, 0.3333), (0.6, 1), (1, 1), (1.5, 2), (4, 4)]
)
def test_a_share_of_a_gpu_divides_it(gpus, whole):
    assert whole_share(gpus) == whole


def test_where_nothing_is_there_or_it_cannot_be_divided_nothing_is_asked_for():
    assert equal_share(0, 7) == equal_share(2, 0) == equal_share(1, 10_001) == 0
    assert equal_share(2, 20_000) == 1e-4


def test_more_shards_than_a_hundred_a_cpu_all_begin(monkeypatch):
    """What is asked of Ray for each of 201 on 2 CPUs, and where an autoscaler has brought none yet."""
    asked = []

    class Actors:
        def options(self, **options):
            asked.append(options["num_cpus"])
            return self

        def remote(self, *_):
            return self

        @property
        def place(self):
            return self

    workers = RayWorkers([])
    monkeypatch.setattr("curation.shards._PointActor", Actors())
    workers._start([None] * 201)
    assert set(asked) == {0.0099}
    asked.clear()
    monkeypatch.setattr("ray.cluster_resources", lambda: {})
    workers._start([None] * 3)
    assert asked == [1.0] * 3
    workers._places, workers.point_shards = [], []
    workers.close()


@pytest.mark.parametrize(
    ("machines", "gpus", "cpus"),
    [
        ([{"CPU": 16, "GPU": 8}], 1, 1),
        ([{"CPU": 4, "GPU": 8}, {"CPU": 64}], 1, 0.5),
        ([{"CPU": 4, "GPU": 1}, {"CPU": 64}], 0.25, 1),
        ([{"CPU": 16, "GPU": 1}, {"GPU": 2}], 1, 0),
        ([{"CPU": 16}], 1, 1),  # machines with GPUs are to come
    ],
)
def test_shards_fit_beside_their_gpus(monkeypatch, machines, gpus, cpus):
    monkeypatch.setattr("ray.nodes", lambda: [{"Alive": True, "Resources": has} for has in machines])
    assert _cpus_beside(gpus) == cpus


def test_a_machine_is_missed_while_it_holds_something(monkeypatch):
    workers = RayWorkers([Rows(ray.put(POINTS[:9]), ray.put(keys_of(map(str, range(9)))), np.arange(9))])
    try:
        assert workers.ask("count") == [9]
        monkeypatch.setattr("curation.shards._machines", set)
        assert isinstance(workers.given_up("x"), RegroupError)
        with pytest.raises(RegroupError):
            workers._check_machines()
        workers._discard()  # it holds nothing any more
        workers._check_machines()
    finally:
        workers.close()
    monkeypatch.undo()
    assert isinstance(workers.given_up("x"), CurationError)


def test_shards_do_not_meet_where_nobody_listens():
    """The first of them was lost after it had said where they meet."""
    refs = ray.put(POINTS[:9]), ray.put(keys_of(map(str, range(9))))
    shard = PointShard([ray.put(Rows(*refs, np.arange(9)))], Assigner())
    with pytest.raises(WorkerRestartedError, match="lost before they met"):
        shard.join(1, 0, 2, "gloo", ("127.0.0.1", 1))


def test_a_request_that_cannot_be_met_comes_back_as_itself():
    with pytest.raises(CurationError, match="ask for at most 20"):
        grow_on_ray(POINTS[:20], Recipe([21]), 1)


# Small cases agree by luck even when close calls are left to float32; with 5,000 clusters they do not.
# Wide enough for a sketch, with iterations enough for scans of it, candidates and swaps.
LARGE = Recipe([5000, 500, 50], max_iter=7)


@pytest.fixture(scope="module")
def large():
    points = halfway(100_000, 160, 6000)
    return points, HierarchicalKMeans(LARGE.n_clusters, max_iter=LARGE.max_iter).fit(points).tree_


@pytest.mark.slow
@pytest.mark.parametrize("shards", [1, 2, 5])
def test_a_hundred_thousand_points_agree(large, shards):
    """Other shards, order of rows, tiles, matrix product; with two shards each is killed once on the way."""
    points, twin = large
    order = np.random.default_rng(shards).permutation(len(points))
    how = {1: Assigner("numpy", 1), 2: Assigner("torch", 999), 5: Assigner("numpy", 5000)}[shards]
    killer = killing(
        (lambda w: w.point_shards[:1], "seeding", 2500), (lambda w: w.point_shards[1:], "iterations", 1)
    )
    killer = killer if shards == 2 else None
    tree = grow_on_ray(points, LARGE, shards, slices=2, order=order, assigner=how, killer=killer)
    assert_equal(tree, twin, 10_000)
    assert killer is None or not killer.left


@pytest.mark.slow
@pytest.mark.parametrize("recheck", [True, False])
def test_only_the_recheck_makes_tiles_agree(recheck):
    """Rows taken one by one and 64 at a time, where BLAS rounds differently: on a lattice, most are ties."""
    points = np.random.default_rng(0).integers(0, 5, (20_000, 8)).astype(np.float32) + np.float32(0.1)
    one, many = (
        HierarchicalKMeans([3000, 100], max_iter=2, assigner=Assigner("numpy", tile, recheck)).fit(points)
        for tile in (1, 64)
    )
    assert np.array_equal(one.labels_, many.labels_) == recheck
