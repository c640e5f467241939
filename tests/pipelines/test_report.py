"""The report of a run: its numbers, its figures, and what it says where something is missing."""

import itertools
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation import chance
from curation.balance import balance
from curation.tree import Level, Tree
from pipelines.config import Config
from pipelines.errors import RunError
from pipelines.progress import Progress
from pipelines.quantities import duration
from pipelines.report import figures, occupancy, report, shown
from pipelines.store import Store

from .finished import LEAVES, MIDDLE, TOP, Run, configured


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    run = Run(tmp_path_factory.mktemp("report"))
    run.counts, run.metrics = run.report()
    return run


def test_input_is_embedded_plus_rejected(run):
    assert run.counts == {
        "pool": 1303, "embedded": 1300, "rejected": 3, "curated": len(run.curated), "copies": len(run.curated)
    }  # fmt: skip


def test_balance_of_every_level_is_that_of_the_rows(run):
    leaf, curated = run.leaf, run.curated
    draw = chance.draws(
        chance.mixed(chance.keys_of(run.ids)), chance.salt(run.config.seed, chance.Purpose.RANDOM_BASELINE)
    )
    drawn = leaf[np.argsort(draw)[: len(curated)]]
    for level, clusters in zip(run.metrics["levels"], (LEAVES, MIDDLE, TOP), strict=True):
        for role, rows in (("pool", leaf), ("random", drawn), ("curated", curated)):
            expected = balance(np.bincount(rows, minlength=clusters))
            assert level[role] == pytest.approx(vars(expected)), (level["level"], role)
        if level["level"] < 3:
            parent = run.parents[level["level"] - 1]
            leaf, drawn, curated = parent[leaf], parent[drawn], parent[curated]


def test_the_curated_set_is_more_even_than_the_random_draw(run):
    for level in run.metrics["levels"][:1]:
        assert level["curated"]["kl_to_uniform"] < level["random"]["kl_to_uniform"]


def test_numbers_do_not_depend_on_how_the_rows_are_cut_into_parts(run, tmp_path):
    other = Run(tmp_path, part_rows=77)
    _, metrics = other.report()
    assert metrics["levels"] == run.metrics["levels"]


def test_repeats_count_as_copies(tmp_path):
    run = Run(tmp_path, repeats=2)
    counts, metrics = run.report()
    assert counts["copies"] == 2 * counts["curated"]
    assert metrics["levels"][0]["curated"]["total"] == counts["copies"]


@given(
    sizes=st.lists(st.integers(0, 40), min_size=1, max_size=12).filter(any),
    share=st.floats(0, 3),
    cuts=st.integers(1, 9),
    seed=st.integers(0, 2**63),
)
def test_the_random_draw_is_the_smallest_hashes_whatever_the_parts(sizes, share, cuts, seed):
    n = sum(sizes)
    size = round(share * n)
    cluster = np.repeat(np.arange(len(sizes)), sizes)
    keys = chance.keys_of(map(str, range(n)))
    draw = occupancy.RandomDraw(np.array(sizes), size, seed)
    for part in np.array_split(np.arange(n), cuts):
        draw.first_pass(keys[part])
    for part in np.array_split(np.arange(n), cuts):
        draw.second_pass(keys[part], cluster[part])
    order = np.argsort(chance.draws(chance.mixed(keys), chance.salt(seed, chance.Purpose.RANDOM_BASELINE)))
    everybody, some = divmod(size, n)
    expected = np.bincount(cluster[order[:some]], minlength=len(sizes)) + everybody * np.array(sizes)
    assert draw.counts().tolist() == expected.tolist()


@given(st.integers(0, 60), st.integers(1, 20), st.integers(1, 7))
def test_shown_rows_are_the_same_whatever_the_parts(n, size, cuts):
    keys = chance.keys_of(map(str, range(n)))

    def pick(parts):
        few = shown.Smallest(size, chance.salt(0, chance.Purpose.SHOWN))
        for part in parts:
            few.offer(0, keys[part], part)
        return [row.row for row in few.rows]

    rows = pick(np.array_split(np.arange(n), cuts))
    assert rows == pick([np.arange(n)])
    assert len(set(rows)) == min(n, size)


@st.composite
def trees(draw):
    ks = sorted(draw(st.sets(st.integers(1, 300), min_size=1, max_size=4)), reverse=True)
    random = np.random.default_rng(draw(st.integers(0, 100)))
    sizes, levels = random.integers(1, 1000, ks[0]), []
    for below, above in itertools.pairwise(ks):
        parents = np.r_[np.arange(above), random.integers(0, above, below - above)]  # nobody without a child
        levels.append(Level(sizes, parents))
        sizes = np.bincount(parents, weights=sizes, minlength=above).astype(np.int64)
    tree = Tree([*levels, Level(sizes, None)])
    return occupancy.by_level(tree, random.integers(0, 9, ks[0]), random.integers(0, 9, ks[0]))


@given(trees(), st.integers(3, 400))
def test_treemap_loses_no_sample_and_keeps_to_its_size(levels, nodes):
    trace = figures.treemap(levels, nodes)["data"][0]
    values = dict(zip(trace["ids"], trace["values"], strict=True))
    assert len(values) == len(trace["ids"]) <= nodes
    below = dict.fromkeys(values, 0)
    for node, parent in zip(trace["ids"][1:], trace["parents"][1:], strict=True):
        below[parent] += values[node]
    assert values["pool"] == levels[0].pool.sum()
    for node, total in below.items():
        assert total in (0, values[node]), "a node that is opened shows all of its samples"


@given(trees())
def test_histograms_count_every_cluster_once(levels):
    for level in levels:
        for trace in figures.size_histogram(level)["data"]:
            assert sum(trace["y"]) == len(level.pool)
            assert len(trace["x"]) == len(trace["y"]) == len(set(trace["x"]))


def test_an_embeddings_pool_has_nothing_to_show_and_says_so(run, tmp_path):
    store = Store(str(tmp_path / "run"))
    shutil.copytree(run.store.local, store.local)
    np.save(tmp_path / "pool.npy", np.ones((len(run.ids), 2), np.float16))
    report(configured(tmp_path / "pool.npy", form="embeddings"), store, Progress(store))
    assert "there are no samples to show" in store.read_bytes("report.html").decode()


def test_a_source_that_is_gone_costs_the_pictures_and_not_the_report(tmp_path):
    run = Run(tmp_path)
    for file in run.pool.iterdir():
        if file.name.startswith("digit"):
            file.unlink()
    _, metrics = run.report()
    assert any("samples to show could not be read" in note for note in metrics["notes"])
    shutil.rmtree(run.pool)
    _, metrics = run.report()
    assert any("the source could not be opened" in note for note in metrics["notes"])


def test_a_damaged_sample_is_left_out_and_reported(tmp_path):
    run = Run(tmp_path)
    for file in run.pool.iterdir():
        file.write_bytes(file.read_bytes()[:40])
    _, metrics = run.report()
    assert metrics["copies"] == len(run.curated)


@pytest.mark.parametrize(
    ("missing", "message"), [("tree", "run `cluster` first"), ("curated", "run `sample` first")]
)
def test_what_is_missing_is_named(tmp_path, missing, message):
    run = Run(tmp_path)
    run.store.delete(missing)
    with pytest.raises(RunError, match=message):
        run.report()


def test_a_tree_that_contradicts_its_assignments_is_refused(tmp_path):
    run = Run(tmp_path)
    run.store.delete("tree/level-1/assignments/part-00001.parquet")
    with pytest.raises(RunError, match="1,300 samples and its assignments 1,024"):
        run.report()


def test_texts_of_a_table_are_shown_as_escaped_excerpts(run, tmp_path):
    hostile = "</blockquote></script><script>document.title = 'owned'</script> words of "
    table = pa.table({"name": run.ids, "text": [hostile + str(row) for row in range(len(run.ids))]})
    pq.write_table(table, tmp_path / "pool.parquet")
    store = Store(str(tmp_path / "run"))
    shutil.copytree(run.store.local, store.local)
    source = {"path": str(tmp_path / "pool.parquet"), "column": "text", "id_column": "name"}
    report(Config.model_validate({"modality": "text", "source": source}), store, Progress(store))
    html = store.read_bytes("report.html").decode()
    assert html.count("words of ") == 2 * 12
    assert "<script>document.title" not in html


def test_numbers_and_reasons_are_on_the_page_escaped(run):
    assert "&lt;i&gt;torn&lt;/i&gt;" in run.html
    assert "&lt;b&gt;c&lt;/b&gt;.png" in run.html
    assert "level 2 takes one cluster an input &amp; says so" in run.html
    assert "1 min 15 s" in run.html
    assert [(r["reason"], r["count"]) for r in run.metrics["rejects"]] == [("empty", 2), ("<i>torn</i>", 1)]


def test_the_estimate_stands_beside_what_the_stage_took(run):
    assert "estimated at 1 min 1 s and took 1 min 14 s" in run.html
    times = {s["stage"]: (s["estimated_s"], s["took_s"]) for s in run.metrics["stages"] if "took_s" in s}
    assert times == {"cluster": (61.0, 74.5)}
    assert all("took_s" not in stage["counts"] for stage in run.metrics["stages"])


@pytest.mark.parametrize(
    ("seconds", "words"), [(3.21, "3.2 s"), (75.2, "1 min 15 s"), (7500, "2 h 5 min"), (None, "?")]
)
def test_durations_read_as_a_person_says_them(seconds, words):
    assert duration(seconds) == words
