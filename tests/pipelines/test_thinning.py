"""Samples that break a rule are left out before the draw, named, and counted; the rest is drawn as ever."""

import json
from collections import Counter
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pytest

from curation import chance
from curation.thinning import at_most, lucky_order
from modalities import Apart, AtMost
from modalities.earth import cells
from modalities.text import Text
from pipelines.blocks import part_name
from pipelines.config import Config
from pipelines.encode import fixed_lists
from pipelines.errors import RunError
from pipelines.manifest import read_manifest
from pipelines.progress import Progress
from pipelines.sample import sample
from pipelines.store import Store
from tests.modalities.scenes import values, write_scene

from .conftest import blobs, rows_of, write_vectors

SPEECHES, LEAVES = 600, 24


class Speeches(Text):
    """Somebody else's modality: ten speeches of a speaker at most, no two within five seconds."""

    name = "speeches"
    columns: ClassVar = {"speaker": pa.string(), "second": pa.float64()}
    thinned_by = ("speaker", "second")

    def rules(self, columns):
        assert columns.column_names == ["speaker", "second"]
        seconds = columns["second"].to_numpy()[:, None]
        yield Apart(seconds, 5.0, "Within five seconds of another.", columns["speaker"], "have no speaker")
        yield AtMost(10, columns["speaker"], "The speaker has ten others.", "have no speaker")


@pytest.fixture(scope="module")
def speeches():
    """Embeddings and what is said of them: some speakers say much, and some speeches have none."""
    random = np.random.default_rng(0)
    who = random.choice(4, SPEECHES, p=[0.6, 0.3, 0.08, 0.02])
    speakers = np.array(["ann", "bob", "eve", None], object)[who]
    return blobs(SPEECHES), speakers, np.round(random.uniform(0, 900, SPEECHES), 1)


def stored(folder, speeches, rows=None, part_rows=SPEECHES):
    """A run that is clustered by speech modulo 24, in parts of so many rows in some order."""
    points, speakers, seconds = speeches
    rows = np.arange(SPEECHES) if rows is None else rows
    store = Store(str(folder))
    for index, start in enumerate(range(0, len(rows), part_rows)):
        mine = rows[start : start + part_rows]
        ids = [f"speech-{row}" for row in mine]
        names = {"id": ids, "uri": ids, "key": pa.array(chance.digests(ids), pa.binary(16))}
        about = {"speaker": pa.array(speakers[mine], pa.string()), "second": seconds[mine]}
        embedded = pa.table({**names, "embedding": fixed_lists(points[mine]), **about})
        store.write_table(part_name("embeddings", index), embedded)
        places = {"cluster": mine % LEAVES, "distance": points[mine, 0]}
        store.write_table(part_name("tree/level-1/assignments", index), pa.table({**names, **places}))
    sizes, parents = np.full(LEAVES, SPEECHES // LEAVES), np.arange(LEAVES) % 4
    write_level(store, 1, sizes, pa.array(parents))
    write_level(store, 2, np.bincount(parents) * sizes[0], pa.nulls(4, pa.int64()))
    return store


def write_level(store, number, sizes, parents):
    table = pa.table({"cluster": np.arange(len(sizes)), "size": sizes, "parent": parents})
    store.write_table(part_name(f"tree/level-{number}/centroids", 0), table)


def drawn(store, modality=None, **keys):
    """Samples; returns what the manifest counts."""
    config = Config.model_validate({"source": {"path": "x"}, "seed": 4, **keys})
    return sample(config, store, Progress(store), modality or Speeches())


@pytest.fixture
def clustered(ray_cluster, speeches, tmp_path):
    """A run in six parts that only has to be sampled."""
    return stored(tmp_path / "run", speeches, part_rows=100)


def test_what_is_left_out_breaks_a_rule_with_what_stays(clustered, speeches):
    store = clustered
    told = drawn(store, sample={"size": 20})
    _, speakers, seconds = speeches
    thinned = rows_of(store, "thinned")
    number = lambda id: int(id.removeprefix("speech-"))  # noqa: E731
    assert Counter(row["reason"] for row in thinned.values()) == told["reasons"]
    assert set(told["reasons"]) == {"Within five seconds of another.", "The speaker has ten others."}
    assert (told["pool"], told["thinned"], told["curated"]) == (SPEECHES, len(thinned), 20)
    assert told["notes"] == [f"{(speakers == None).sum()} samples have no speaker, and are not thinned"]  # noqa: E711
    for id, row in thinned.items():
        assert row["uri"] == id
        if row["instead"] is None:
            assert row["reason"] == "The speaker has ten others."
        else:
            near, far = number(row["instead"]), number(id)
            assert row["instead"] not in thinned or thinned[row["instead"]]["instead"] is None
            assert (speakers[near], abs(seconds[near] - seconds[far]) < 5) == (speakers[far], True)
    stays = [row for row in range(SPEECHES) if f"speech-{row}" not in thinned]
    assert Counter(speakers[stays]) == {"ann": 10, "bob": 10, "eve": 10, None: (speakers == None).sum()}  # noqa: E711
    assert not rows_of(store, "curated").keys() & thinned.keys()

    # all that stay can be drawn, and no more
    everything = drawn(store, sample={"size": len(stays)})
    assert everything["curated"] == len(stays)
    assert rows_of(store, "curated").keys() == {f"speech-{row}" for row in stays}
    assert sum(row["weight"] for row in rows_of(store, "curated").values()) == pytest.approx(len(stays))
    with pytest.raises(RunError, match=rf"{len(stays)} samples .* \({len(thinned)} were left out before"):
        drawn(store, sample={"size": len(stays) + 1})


def test_neither_parts_nor_their_order_decide(ray_cluster, speeches, tmp_path):
    whole = stored(tmp_path / "whole", speeches)
    pieces = stored(tmp_path / "pieces", speeches, np.random.default_rng(1).permutation(SPEECHES), 70)
    told = [drawn(store, sample={"size": "50%"}) for store in (whole, pieces)]
    assert rows_of(whole, "thinned") == rows_of(pieces, "thinned") != {}
    for name in ("thinned", "curated", "reasons", "notes"):
        assert told[0][name] == told[1][name]
    assert rows_of(whole, "curated") == rows_of(pieces, "curated")


def test_a_leaf_may_lose_all_its_samples(clustered):
    class OfLeaves(Speeches):
        def rules(self, columns):
            yield AtMost(1, np.zeros(len(columns), int), "There is one already.")

    store = clustered
    told = drawn(store, OfLeaves(), sample={"size": 1})
    (curated,) = rows_of(store, "curated")
    order = lucky_order(chance.keys_of(f"speech-{row}" for row in range(SPEECHES)), 4)
    assert curated == f"speech-{order[0]}"
    assert len(at_most(np.zeros(SPEECHES, int), 1, order)) == told["thinned"] == SPEECHES - 1


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ([AtMost(1, ["a"], "")], "rule 1 cannot be kept: it has 1 groups, and there are 600 samples"),
        ([AtMost(0, np.zeros(SPEECHES), "")], "give 1 or more"),
        ([Apart(np.zeros(SPEECHES), 1.0, "")], "its points have the shape"),
        ([Apart(np.zeros((SPEECHES, 2)), 0.0, "")], "above 0"),
        (None, "rules.. raised TypeError"),
    ],
)
def test_rules_that_cannot_be_kept_are_named(clustered, found, said):
    class Wrong(Speeches):
        def rules(self, columns):
            return iter(found)

    with pytest.raises(RunError, match=f"modality 'speeches': .*{said}"):
        drawn(clustered, Wrong(), sample={"size": 5})


SETTINGS = {"chip": 16, "bands": [1, 2, 3], "scale": [0, 9000]}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """One place on two days, the same scene again a pixel beside it, and a tile without a place."""
    folder = tmp_path_factory.mktemp("scenes")
    for name, east in (("a_20200105.tif", 0), ("b_20200105.tif", 10), ("a_20210105.tif", 0)):
        write_scene(
            folder / name, values(3, 64, 64, seed=len(name) + east), corner=(500_000 + east, 5_600_000)
        )
    return folder


@pytest.mark.slow
def test_chips_of_one_place_and_day_are_thinned_and_only_the_set_is_drawn_anew(
    evenset, write_config, scenes, tmp_path
):
    near = {"thin": {"distance_m": 100}}
    config = write_config(
        scenes, modality="satellite", satellite=SETTINGS | near, sample={"size": "50%"},
        cluster={"n_clusters": [6]},
    )  # fmt: skip
    assert evenset("run", config).code == 0
    run = Store(str(tmp_path / "run"))
    assert len(rows_of(run, "embeddings")) == 3 * 16
    out = rows_of(run, "thinned")
    assert len(out) == 16  # of the two scenes of a day one of each pair of chips stays
    assert {row["instead"][1:] for row in out.values()} == {id[1:] for id in out}
    counts = read_manifest(run, "curated").counts
    assert (counts["pool"], counts["thinned"], counts["curated"]) == (48, 16, 16)
    status = evenset("status", tmp_path / "run").text
    assert "left out before the draw: 16" in status
    assert "16  Nearer than 100 m to a chip of the same day that stays (satellite.thin.distance_m)." in status
    metrics = json.loads((tmp_path / "run/metrics.json").read_bytes())
    numbers = [metrics[key] for key in ("pool", "embedded", "rejected", "thinned", "curated")]
    assert numbers == [48, 48, 0, 16, 16]
    assert metrics["left_out"][0]["count"] == 16
    assert "Left out before the draw" in (tmp_path / "run/report.html").read_text()

    # the stages before are as they were; a chip is 160 m long, and of one date its neighbours are not as near
    every = evenset("sample", config, "satellite.thin.dates=any", "satellite.cap.per_date=5")
    assert every.code == 0, every
    assert "because satellite.cap.per_date null -> 5; satellite.thin.dates day -> any" in every.text
    reasons = read_manifest(run, "curated").counts["reasons"]
    assert reasons["Nearer than 100 m to a chip that stays (satellite.thin.distance_m)."] == 48 - 16
    date_of = lambda ids: Counter(id[2:6] for id in ids)  # noqa: E731
    out = rows_of(run, "thinned")
    stays = date_of(rows_of(run, "embeddings").keys() - out.keys())
    capped = date_of(id for id, row in out.items() if row["instead"] is None)
    assert stays["2020"] + stays["2021"] + capped.total() == 16
    assert (
        capped.total()
        == reasons["There are 5 other chips of the same day that stay (satellite.cap.per_date)."]
    )
    assert {stays[year] for year in capped} == {5}

    # and without them nothing is left out
    without = evenset("sample", config, "satellite.thin.distance_m=null")
    assert "satellite.thin.distance_m 100.0 -> (nothing)" in without.text
    assert read_manifest(run, "curated").counts["curated"] == 24
    assert not run.exists("thinned")

    # of each cell so many stay, and of the chips of all dates in it those that a hash says
    by_cell = evenset(
        "sample", config, "satellite.thin.distance_m=null", "satellite.cap={cell_m: 300, per_cell: 2}",
        "sample.size=3",
    )  # fmt: skip
    assert by_cell.code == 0, by_cell
    assert "satellite.cap.per_cell (nothing) -> 2" in by_cell.text
    found, out = rows_of(run, "embeddings"), rows_of(run, "thinned")
    lon, lat = (np.array([row[name] for row in found.values()]) for name in ("lon", "lat"))
    cell = dict(zip(found, cells(lon, lat, 300).tolist(), strict=True))
    whole, stays = Counter(cell.values()), Counter(cell[id] for id in found.keys() - out.keys())
    assert len(whole) > 3
    assert max(whole.values()) > 6
    assert stays == {one: min(2, count) for one, count in whole.items()}
    told = "Its cell of 300 m has 2 other chips that stay (satellite.cap.per_cell)."
    assert read_manifest(run, "curated").counts["reasons"] == {told: 48 - stays.total()}
    assert {(row["reason"], row["instead"]) for row in out.values()} == {(told, None)}
    assert not rows_of(run, "curated").keys() & out.keys()


def test_a_pool_of_embeddings_cannot_be_thinned(refused, write_config, tmp_path):
    file = write_vectors(tmp_path / "x.parquet", blobs(50))
    config = write_config(
        file, modality="satellite", source={"format": "embeddings"}, satellite={"thin": {"distance_m": 5}}
    )
    said = refused("run", config)
    assert "satellite.thin and satellite.cap: samples are thinned by lon, lat, datetime" in said
