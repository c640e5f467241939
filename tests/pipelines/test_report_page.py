"""The report in a real browser: it draws, asks the network for nothing, and runs no hostile name."""

import io
import shutil
from contextlib import contextmanager

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from pipelines.progress import Progress
from pipelines.report import report
from pipelines.store import Store

from .finished import HOSTILE, TOP, Run, configured


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    places = np.random.default_rng(0).normal([178, -17], [2, 1], (1300, 2))
    run = Run(tmp_path_factory.mktemp("report"), places=places)
    run.counts, run.metrics = run.report()
    return run


@contextmanager
def opened_browser():
    """A browser of this machine; where there is none, the test is skipped."""
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


@pytest.fixture(scope="module")
def browser():
    with opened_browser() as browser:
        yield browser


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
    names = ["treemap", "map-pool", "map-curated", *(f"histogram-{level}" for level in (1, 2, 3))]
    for name in names:
        box = visit.page.locator(f"#{name} svg.main-svg").first.bounding_box()
        assert box["width"] > 200, name
        assert box["height"] > 200, name
    assert visit.page.locator("#histogram-1 .bars .point path").count() > 10
    assert visit.page.locator("#treemap .slice").count() > TOP
    for name, layers in (("map-pool", 1), ("map-curated", 2)):
        assert visit.page.locator(f"#{name} .heatmaplayer image").count() == layers
        assert {"180°", "18° S"} <= {
            *visit.page.locator(f"#{name} .xtick, #{name} .ytick").all_text_contents()
        }


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
