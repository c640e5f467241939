"""A tree that is broken off and taken up again has the bits of one that was not."""

import itertools
import json
from dataclasses import fields
from types import SimpleNamespace

import numpy as np
import pytest

from curation.checkpoint import HEADER, Checkpoint, Standing
from curation.errors import CurationError, WorkerRestartedError
from curation.hierarchy import grow
from curation.inputs import grid_rows, point_keys
from curation.kept import KeptBlock
from curation.points import EVERYTHING, Labels
from curation.recipe import Recipe
from curation.workers import FIT_DONE, LocalWorkers
from tests.curation.pools import blobs, halfway


class Broken(Exception):
    """Stands for a kill."""


class Memory:
    """Files of a checkpoint in memory."""

    def __init__(self):
        self.kept = {}

    def exists(self, rel):
        return rel in self.kept

    def list(self, rel, suffix):
        return [name for name in self.kept if name.startswith(f"{rel}/") and name.endswith(suffix)]

    def read_bytes(self, rel):
        if rel not in self.kept:
            raise FileNotFoundError(rel)
        return self.kept[rel]

    def write_bytes(self, rel, data):
        self.kept[rel] = bytes(data)

    def delete(self, rel):
        for name in [n for n in self.kept if n == rel or n.startswith(f"{rel}/")]:
            del self.kept[name]


class KeptWorkers(LocalWorkers):
    """Workers whose blocks know checkpoints, at every level."""

    def above(self, slices, level, count):
        upper = super().above(slices, level, count)
        points = upper.blocks[0].everything
        kept = KeptWorkers([KeptBlock(points.rows, points.keys)], self.n_slices)
        kept.monitor = self.monitor
        return kept


class Run:
    """Trees over the same points, with a checkpoint that outlives them."""

    def __init__(self, points, recipe):
        self.rows, _ = grid_rows(points, recipe.distance)
        self.keys = point_keys(len(points), None)
        self.recipe, self.files, self.said, self.ticks = recipe, Memory(), [], []

    def grow(self, blocks=1, slices=1, until=None, every=0.0, basis=None):
        """A tree's arrays; broken off where `until` says so of (phase, done)."""
        edges = np.linspace(0, len(self.rows), blocks + 1).astype(int)
        shares = [slice(low, high) for low, high in itertools.pairwise(edges)]
        workers = KeptWorkers([KeptBlock(self.rows[s], self.keys[s]) for s in shares], slices)
        self.ticks = []

        def watch(phase, done, _):
            self.ticks.append((phase, done))
            if until is not None and until(self.ticks):
                raise Broken

        workers.monitor = watch
        checkpoint = Checkpoint(self.files, "kept", {"fit": basis or "a"}, every, self.said.append)
        leaves = []

        def keep(new):
            told = workers.points("save", lambda *both: both, new.renumbered, *new.slices, own=new.own)
            leaves.extend(np.concatenate(column) for column in zip(*told, strict=True))

        grown = grow(workers, self.recipe, keep, checkpoint)
        found = [*leaves]
        self.notes = [note for level in grown for note in level.notes]
        for level in grown:
            parents = np.empty(0) if level.parents is None else level.parents
            found += [np.concatenate(level.slices), level.sizes, parents, np.asarray(str(level.inertia))]
        return found


def assert_same(found, twin):
    assert len(found) == len(twin)
    for mine, other in zip(found, twin, strict=True):
        assert np.array_equal(mine, other)


def at(phase, done):
    """Breaks off when a phase has come so far, of whichever level."""
    return lambda ticks: ticks[-1] == (phase, done)


def late(phase, times):
    """Breaks off when a phase was told for the so many-th time."""
    return lambda ticks: ticks[-1][0] == phase and sum(p == phase for p, _ in ticks) == times


SMALL = Recipe([60, 12, 3], resample_steps=2, resample_points=[4, 3, 2], max_iter=12)
WIDE = Recipe([600, 30], max_iter=14)  # with a sketch, candidates and swaps


@pytest.fixture(scope="module")
def small():
    run = Run(blobs(1200, 6, 40), SMALL)
    return run, run.grow(every=1e9)


@pytest.fixture(scope="module")
def wide():
    run = Run(halfway(6000, 144, 900), WIDE)
    return run, run.grow(every=1e9)


@pytest.fixture(autouse=True)
def fresh(small, wide):
    for run, _ in (small, wide):
        run.files.kept.clear()
        run.said.clear()


@pytest.mark.parametrize("iteration", [1, 2, 3, 5, 8, 11])
@pytest.mark.parametrize(("blocks", "slices"), [(1, 1), (3, 2)])
def test_a_fit_goes_on_from_its_last_iteration(wide, iteration, blocks, slices):
    """Whatever the iteration did (swaps, a scan of the sketch), and whoever holds the points afterwards."""
    run, twin = wide
    with pytest.raises(Broken):
        run.grow(until=at("iterations", iteration))
    assert_same(run.grow(blocks, slices), twin)
    first = next(done for phase, done in run.ticks if phase == "iterations")
    assert first == iteration  # the one that was broken off is done again, and none before it
    assert not any(phase == "seeding" and done > 30 for phase, done in run.ticks)
    assert f"level 1, step 0, iteration {iteration - 1}" in run.said[-1]


@pytest.mark.parametrize("fits", [1, 2, 3, 4, 6, 8])
@pytest.mark.parametrize(("blocks", "slices"), [(1, 1), (2, 3)])
def test_a_tree_goes_on_between_its_steps(small, fits, blocks, slices):
    run, twin = small
    with pytest.raises(Broken):
        run.grow(3, until=late(FIT_DONE, fits))
    assert_same(run.grow(blocks, slices), twin)
    assert sum(phase == FIT_DONE for phase, _ in run.ticks) == SMALL.fits(1200)


@pytest.mark.parametrize("times", [2, 9, 17, 23, 31])
def test_a_resampled_fit_goes_on_in_its_view(small, times):
    run, twin = small
    with pytest.raises(Broken):
        run.grow(2, until=late("iterations", times))
    assert_same(run.grow(5, 2), twin)


def test_it_may_be_broken_off_again_and_again(small):
    run, twin = small
    for _ in range(200):
        try:
            found = run.grow(until=late("iterations", 2))
        except Broken:
            continue
        break
    assert_same(found, twin)


@pytest.mark.parametrize(("blocks", "slices"), [(1, 1), (3, 2)])
def test_a_division_goes_on_from_its_last_iteration(blocks, slices):
    """Some of whose coarse clusters have fewer distinct points than they were to be divided into."""
    points = blobs(1200, 6, 40)
    points[:700] = points[np.arange(700) % 9]
    run = Run(points, Recipe([120, 6], split=[6, 1], max_iter=12, tol=0))
    twin = run.grow(every=1e9)
    run.files.kept.clear()
    splitting = ("level 1, splitting", 0)
    with pytest.raises(Broken):
        run.grow(2, 2, until=lambda ticks: splitting in ticks and ticks[-1] == ("iterations", 3))
    assert_same(run.grow(blocks, slices), twin)
    assert "level 1, step 1, iteration 2" in run.said[-1]
    again = run.ticks[run.ticks.index(splitting) :]
    assert next(done for phase, done in again if phase == "iterations") == 3
    assert "seeding" not in [phase for phase, _ in again[: again.index((FIT_DONE, 1))]]


def test_what_is_said_of_a_level_is_said_once():
    """Of one that goes on while it is divided, after its inputs were assigned approximately."""
    run = Run(blobs(3000, 4, 700), Recipe([1200], split=[2], algorithm="ivf", max_iter=6, tol=0))
    with pytest.raises(Broken):
        run.grow(2, until=lambda ticks: ("level 1, splitting", 0) in ticks and ticks[-1] == ("iterations", 2))
    run.grow(2)
    assert run.said[-1].startswith("goes on from a checkpoint: level 1, step 1")
    assert sum("assigned approximately" in note for note in run.notes) == 1


@pytest.mark.parametrize("algorithm", ["auto", "lloyd"])
@pytest.mark.parametrize("init", ["auto", "k-means++"])
def test_every_kind_of_fit_goes_on(algorithm, init):
    how = {"algorithm": algorithm, "init": init}
    recipe = Recipe([40, 4], resample_steps=1, resample_points=[5, 3], max_iter=9, tol=0, **how)
    run = Run(blobs(500, 5, 30), recipe)
    twin = run.grow(every=1e9)
    run.files.kept.clear()
    with pytest.raises(Broken):
        run.grow(until=at("iterations", 4))
    assert_same(run.grow(2), twin)


@pytest.mark.parametrize(("blocks", "slices"), [(2, 3), (1, 1), (5, 2)])
def test_all_that_a_fit_stands_for_comes_back(blocks, slices):
    generator, files = np.random.default_rng(0), Memory()
    rows, _ = grid_rows(generator.standard_normal((40, 3)), "euclidean")
    keys = point_keys(40, None)

    def workers(blocks, slices):
        edges = itertools.pairwise(np.linspace(0, 40, blocks + 1).astype(int))
        return KeptWorkers([KeptBlock(rows[low:high], keys[low:high]) for low, high in edges], slices)

    first, second = generator.integers(-1, 7, (2, 40)).astype(np.int32)
    own = [Labels(first[:20], second[:20]), Labels(first[20:], second[20:])]
    centroids = generator.standard_normal((7, 3)).astype(np.float32)
    gone = generator.random(7) < 0.5
    numbers = {"found": 7, "n_iter": 11, "objective": 2**70 + 1, "moved": 3, "swapped": 5}
    numbers |= {"swapping": False, "sure": True, "few": True}
    seeds = generator.integers(0, 9, 5)
    standing = Standing(
        slices=[centroids[:4], centroids[4:]], own=own, dissolved=gone, seeds=seeds, **numbers
    )
    Checkpoint(files, "kept", {}, 0).save(standing, (1, 2, 0), workers(2, 2))

    others = workers(blocks, slices)
    kept = Checkpoint(files, "kept", {})
    kept.open(others)
    assert kept.standing(EVERYTHING, (1, 2, 1), others) is None  # of another step
    kept.open(others)
    found = kept.standing(EVERYTHING, (1, 2, 0), others)
    assert {name: getattr(found, name) for name in numbers} == numbers
    assert set(numbers) | {"slices", "own", "dissolved", "seeds"} == {
        field.name for field in fields(Standing)
    }
    assert np.array_equal(found.dissolved, gone)
    assert len(found.slices) == slices
    assert np.array_equal(np.concatenate(found.slices), centroids)
    assert [len(labels.first) for labels in found.own] == [len(block.everything) for block in others.blocks]
    assert np.array_equal(np.concatenate([labels.first for labels in found.own]), first)
    assert np.array_equal(np.concatenate([labels.second for labels in found.own]), second)


def test_what_is_not_named_by_the_header_is_deleted(small):
    run, _ = small
    run.grow(2)
    header = run.files.kept[f"kept/{HEADER}"].decode()
    arrays = [name.removeprefix("kept/") for name in run.files.kept if name.endswith(".npy")]
    assert arrays
    assert all(name in header for name in arrays)


def test_between_two_times_nothing_is_written(small):
    run, twin = small
    with pytest.raises(Broken):
        run.grow(until=at("iterations", 3), every=1e9)
    assert not run.files.kept
    assert_same(run.grow(), twin)


@pytest.mark.parametrize(("every", "first"), [(3.0, 1), (60.0, 2)])
def test_a_state_is_written_once_the_last_is_old_enough(small, monkeypatch, every, first):
    """After `every` seconds at most, after five where it costs nothing; an iteration takes four here."""
    run, _ = small
    now, seen = [0.0], []
    monkeypatch.setattr("curation.checkpoint.time", SimpleNamespace(monotonic=lambda: now[0]))

    def until(ticks):
        if ticks[-1][0] == "iterations":
            now[0] += 4
            seen.append(f"kept/{HEADER}" in run.files.kept)
        return len(seen) == 4

    with pytest.raises(Broken):
        run.grow(until=until, every=every)
    assert seen == [number >= first for number in range(4)]


def test_a_checkpoint_of_another_fit_is_refused_and_named(small):
    run, twin = small
    with pytest.raises(Broken):
        run.grow(until=at("iterations", 3))
    assert_same(run.grow(basis="b"), twin)
    assert f"kept/{HEADER} belongs to another fit, with another fit" in run.said[0]
    assert "afresh" in run.said[0]


@pytest.mark.parametrize("which", ["header", "cut", "array", "missing"])
def test_a_damaged_checkpoint_is_refused_and_named(wide, which):
    run, twin = wide
    with pytest.raises(Broken):
        run.grow(2, until=at("iterations", 3))
    header = f"kept/{HEADER}"
    array = next(name for name in run.files.kept if name.endswith(".npy"))
    name = array if which in ("array", "missing") else header
    if which == "missing":
        del run.files.kept[name]
    else:
        whole = run.files.kept[name]
        run.files.kept[name] = b"{}" if which == "header" else whole[: len(whole) // 2]
    assert_same(run.grow(2), twin)
    assert name in run.said[0]
    assert "afresh" in run.said[0]


def test_a_sound_checkpoint_outlives_workers_that_cannot_read_it(wide, monkeypatch):
    run, twin = wide
    with pytest.raises(Broken):
        run.grow(2, until=at("iterations", 3))
    kept = dict(run.files.kept)

    def lost(*_):
        raise WorkerRestartedError("its process was replaced")

    with monkeypatch.context() as patch:
        patch.setattr(KeptBlock, "check", lost)
        with pytest.raises(CurationError, match="workers were lost 20 times"):
            run.grow(2)
    assert run.files.kept == kept
    assert_same(run.grow(2), twin)
    assert run.said == ["goes on from a checkpoint: level 1, step 0, iteration 2"]


def altered(header, how):
    """A header that is not as it was written, in one place."""
    names = header["levels"][0]["slices"]["names"]
    if how == "a digit":
        header["fit"]["objective"] += 10**6
    elif how == "a count":
        header["fit"]["n_iter"] += 1
    elif how == "another order":
        header["levels"][0]["slices"]["names"] = names[::-1]
    elif how == "no basis":
        header["basis"] = None
    elif how == "its hash":
        header["digest"] = header["digest"][::-1]
    elif how == "no hash":
        del header["digest"]
    return header


@pytest.mark.parametrize("how", ["a digit", "a count", "another order", "no basis", "its hash", "no hash"])
def test_a_header_that_was_altered_is_refused_and_named(small, how):
    run, twin = small
    second = ("level 2, step 0", 0)
    with pytest.raises(Broken):
        run.grow(2, 2, until=lambda ticks: second in ticks and ticks[-1] == ("iterations", 2))
    name = f"kept/{HEADER}"
    written = json.loads(run.files.kept[name])
    run.files.kept[name] = json.dumps(altered(json.loads(json.dumps(written)), how)).encode()
    assert json.loads(run.files.kept[name]) != written
    assert_same(run.grow(2), twin)
    assert f"the checkpoint is not used: {name} is damaged" in run.said[0]
    assert "afresh" in run.said[0]


@pytest.mark.parametrize("data", [b"[" * 100_000, b"[]", b"null", b'{"basis": {}}', b'{"basis": []}', b"7"])
def test_a_header_that_is_none_is_refused_and_named(small, data):
    run, twin = small
    run.files.kept[f"kept/{HEADER}"] = data
    assert_same(run.grow(2), twin)
    assert f"the checkpoint is not used: kept/{HEADER} is damaged" in run.said[0]


def test_a_header_of_an_older_version_without_a_hash_is_another_fits(small):
    run, twin = small
    with pytest.raises(Broken):
        run.grow(until=at("iterations", 3))
    header = json.loads(run.files.kept[f"kept/{HEADER}"])
    del header["digest"]
    header["basis"]["format"] = 3
    run.files.kept[f"kept/{HEADER}"] = json.dumps(header).encode()
    assert_same(run.grow(), twin)
    assert f"kept/{HEADER} belongs to another fit, with another format;" in run.said[0]
