"""The report of a run: its numbers, its figures, and the page in a real browser."""

import io
import itertools
import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_digits

from curation import chance
from curation.balance import balance
from curation.tree import Level, Tree
from pipelines.config import Config
from pipelines.errors import RunError
from pipelines.manifest import Basis, Manifest, write_manifest
from pipelines.progress import Progress
from pipelines.report import figures, occupancy, report, shown
from pipelines.report.page import duration
from pipelines.store import Store

HOSTILE = ["<script>document.title='owned'<script>.png", "<img src=x onerror=alert(1)>.png", "{{ 7*7 }}.png"]
LEAVES, MIDDLE, TOP = 60, 12, 4


def configured(pool, modality="image", form="files"):
    return Config.model_validate(
        {"modality": modality, "source": {"path": str(pool), "format": form}, "seed": 3}
    )


class Run:
    """A pool of digits on disk, and a finished run over it with a made-up tree of three levels."""

    def __init__(self, folder, part_rows=1024, samples=1300, repeats=1):  # the rows of a part of files
        self.pool, self.store = folder / "pool", Store(str(folder / "run"))
        self.pool.mkdir()
        images = load_digits().images
        self.ids = sorted([f"digit-{i:04d}.png" for i in range(samples - len(HOSTILE))] + HOSTILE)
        for row, name in enumerate(self.ids):
            pixels = Image.fromarray((images[row] * 15).astype(np.uint8))
            pixels.save(self.pool / name)
        self.config = configured(self.pool)
        self.part_rows, self.repeats = part_rows, repeats
        self._write_tree(samples)
        self._write_curated()
        self._write_rejects_and_manifests()

    def _write_tree(self, samples):
        random = np.random.default_rng(0)
        tail = 1 / np.arange(1, LEAVES + 1) ** 1.2
        self.leaf = np.r_[np.arange(LEAVES), random.choice(LEAVES, samples - LEAVES, p=tail / tail.sum())]
        self.parents = [np.arange(LEAVES) % MIDDLE, np.arange(MIDDLE) % TOP, None]
        self.keys = pa.array(chance.digests(self.ids), pa.binary(16))
        sizes = np.bincount(self.leaf, minlength=LEAVES)
        for level, parent in enumerate(self.parents, start=1):
            table = pa.table(
                {
                    "cluster": np.arange(len(sizes)),
                    "centroid": pa.FixedSizeListArray.from_arrays(
                        pa.array(np.zeros(2 * len(sizes), np.float32)), 2
                    ),
                    "size": sizes,
                    "parent": pa.array([None] * len(sizes) if parent is None else parent, pa.int64()),
                }
            )
            half = len(sizes) // 2
            self.store.write_table(f"tree/level-{level}/centroids/part-00000.parquet", table[:half])
            self.store.write_table(f"tree/level-{level}/centroids/part-00001.parquet", table[half:])
            if parent is not None:
                sizes = np.bincount(parent, weights=sizes, minlength=[MIDDLE, TOP][level - 1]).astype(
                    np.int64
                )
        for part, start in enumerate(range(0, samples, self.part_rows)):
            rows = slice(start, start + self.part_rows)
            ids = pa.array(self.ids[rows])
            self.store.write_table(
                f"embeddings/part-{part:05d}.parquet",
                pa.table(
                    {"id": ids, "uri": [str(self.pool / i) for i in self.ids[rows]], "key": self.keys[rows]}
                ),
            )
            self.store.write_table(
                f"tree/level-1/assignments/part-{part:05d}.parquet",
                pa.table({"id": ids, "key": self.keys[rows], "cluster": self.leaf[rows]}),
            )

    def _write_curated(self):
        rows = np.concatenate([np.flatnonzero(self.leaf == leaf)[:3] for leaf in range(LEAVES)])
        self.curated = self.leaf[rows]
        middle = self.parents[0][self.curated]
        path = np.stack([self.parents[1][middle], middle, self.curated], axis=1)
        table = pa.table(
            {
                "id": [self.ids[r] for r in rows],
                "key": self.keys.take(pa.array(rows)),
                "repeats": pa.array([self.repeats] * len(rows), pa.int32()),
                "path": pa.array(path.tolist(), pa.list_(pa.int64())),
            }
        )
        self.store.write_table("curated/part-00000.parquet", table[:50])
        self.store.write_table("curated/part-00001.parquet", table[50:])

    def _write_rejects_and_manifests(self):
        rejects = pa.table(
            {
                "id": ["a.png", "b.png", "<b>c</b>.png"],
                "uri": ["a", "b", "c"],
                "reason": ["empty", "empty", "<i>torn</i>"],
            }
        )
        self.store.write_table("rejected/embed/part-00000.parquet", rejects)
        for folder, stage in (("embeddings", "embed"), ("tree", "cluster"), ("curated", "sample")):
            notes = ["level 2 takes one cluster an input & says so"] if stage == "cluster" else []
            counts = {"rows": 1300, "digest": "a5", "notes": notes}
            manifest = Manifest(stage, Basis({}, {}), counts, 75.2, "2026-01-01T00:00:00", {"numpy": "2.4.6"})
            write_manifest(self.store, folder, manifest)

    def report(self):
        counts = report(self.config, self.store, Progress(self.store))
        return counts, json.loads(self.store.read_bytes("metrics.json"))

    @property
    def html(self):
        return self.store.read_bytes("report.html").decode()


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


@pytest.mark.parametrize(
    ("seconds", "words"), [(3.21, "3.2 s"), (75.2, "1 min 15 s"), (7500, "2 h 5 min"), (None, "?")]
)
def test_durations_read_as_a_person_says_them(seconds, words):
    assert duration(seconds) == words


@pytest.fixture(scope="module")
def browser():
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no chromium on the PATH: the page is not opened")
    playwright = pytest.importorskip("playwright.sync_api")
    flags = [
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
        "--disable-component-update", "--disable-sync", "--no-first-run",
    ]  # fmt: skip
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium, args=flags)
        yield browser
        browser.close()


class Visit:
    """The report as a browser shows it, with everything that it asked for or complained about."""

    def __init__(self, browser, run, scheme):
        self.page = browser.new_context(
            color_scheme=scheme, viewport={"width": 1280, "height": 1000}
        ).new_page()
        self.requests, self.complaints, self.dialogs = [], [], []
        self.page.on("request", lambda r: self.requests.append(r.url))
        self.page.on(
            "console", lambda m: self.complaints.append(m.text) if m.type in ("error", "warning") else None
        )
        self.page.on("pageerror", lambda e: self.complaints.append(str(e)))
        self.page.on("dialog", lambda d: (self.dialogs.append(d.message), d.dismiss()))
        self.page.goto((run.store.local / "report.html").as_uri())
        self.page.wait_for_selector("#treemap .slice")

    def colour(self, selector, name="color"):
        return self.page.evaluate(
            "([s, n]) => getComputedStyle(document.querySelector(s))[n]", [selector, name]
        )


@pytest.fixture(scope="module", params=["light", "dark"])
def visit(request, browser, run):
    visit = Visit(browser, run, request.param)
    visit.scheme = request.param
    yield visit
    visit.page.context.close()


def test_the_page_needs_no_network_and_has_no_complaints(visit, run):
    own = (run.store.local / "report.html").as_uri()
    assert [url for url in visit.requests if url != own and not url.startswith("data:")] == []
    assert visit.complaints == []


def test_every_figure_is_drawn(visit):
    names = ["treemap", *(f"histogram-{level}" for level in (1, 2, 3))]
    for name in names:
        box = visit.page.locator(f"#{name} svg.main-svg").first.bounding_box()
        assert box["width"] > 200, name
        assert box["height"] > 200, name
    assert visit.page.locator("#histogram-1 .bars .point path").count() > 10
    assert visit.page.locator("#treemap .slice").count() > TOP


def test_samples_of_pool_and_curated_set_stand_side_by_side(visit):
    sheets = visit.page.locator(".sheet")
    assert sheets.count() == 2
    boxes = [sheets.nth(i).bounding_box() for i in range(2)]
    assert boxes[0]["y"] == boxes[1]["y"]
    for i in range(2):
        assert sheets.nth(i).locator("img").count() == 40
    broken = "[...document.images].filter(i => !i.complete || !i.naturalWidth).length"
    assert visit.page.evaluate(broken) == 0


def test_figures_take_the_colours_of_the_theme(visit):
    text, page = visit.colour("body"), visit.colour("body", "backgroundColor")
    bright = {name: sum(map(int, value[4:-1].split(","))) for name, value in (("text", text), ("page", page))}
    assert (bright["text"] > bright["page"]) == (visit.scheme == "dark")
    assert visit.colour("#histogram-1 .xtick text", "fill") == text


def test_figures_follow_a_change_of_theme(browser, run):
    visit = Visit(browser, run, "light")
    visit.page.emulate_media(color_scheme="dark")
    sync_api = pytest.importorskip("playwright.sync_api")
    tick = visit.page.locator("#histogram-1 .xtick text").first
    sync_api.expect(tick).to_have_css("fill", visit.colour("body"))
    assert visit.complaints == []
    visit.page.context.close()


def test_a_hostile_name_stays_text(run, browser, tmp_path):
    """Shows only samples with hostile names, so that all of them are on the page."""
    hostile = Store(str(tmp_path / "run"))
    shutil.copytree(run.store.local, hostile.local)
    names = [f"{i}{HOSTILE[i % len(HOSTILE)]}" for i in range(len(run.ids))]
    pool = tmp_path / "pool"
    pool.mkdir()
    picture = io.BytesIO()
    Image.new("RGB", (8, 8), "teal").save(picture, "png")
    for name in names:
        (pool / name).write_bytes(picture.getvalue())
    start = 0
    for part in hostile.list("embeddings"):
        table = hostile.read_table(part)
        ids = pa.array(names[start : start + table.num_rows])
        hostile.write_table(part, table.set_column(0, "id", ids))
        start += table.num_rows
    report(configured(pool), hostile, Progress(hostile))

    class Page:
        store = hostile

    visit = Visit(browser, Page, "light")
    assert visit.page.title() == "run: evenset report"
    assert visit.dialogs == visit.complaints == []
    captions = visit.page.locator(".sheet figcaption").all_inner_texts()
    assert {c.lstrip("0123456789") for c in captions} == set(HOSTILE)
    visit.page.context.close()


def test_a_script_that_slips_through_is_not_run(run, browser, tmp_path):
    """The page's own policy is the second line of defence, behind the escaping."""
    path = tmp_path / "report.html"
    injected = "<script>document.title = 'owned'</script><img src='https://example.org/x.png'>"
    path.write_text(run.html.replace("<main>", "<main>" + injected))

    class Page:
        class store:
            local = tmp_path

    visit = Visit(browser, Page, "light")
    assert visit.page.title() == "run: evenset report"
    assert any("Content Security Policy" in c for c in visit.complaints)
    visit.page.context.close()
