"""What a pool, a config or a run says is text in the report: in its HTML, and in a real browser."""

import shutil

import pyarrow as pa
import pytest

from modalities.base import Modality
from modalities.image import Image
from modalities.text import Text
from pipelines.manifest import Basis, Manifest, write_manifest
from pipelines.progress import Progress
from pipelines.report import report
from pipelines.store import Store
from tests.pipelines.finished import Run, configured
from tests.pipelines.test_report_page import Visit, browser

__all__ = ["browser"]

SCRIPT = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """A finished run over texts in which all that is anybody's to write is a script."""
    folder = tmp_path_factory.mktemp("escapes")
    run = Run(folder)
    store = Store(str(folder / "texts"))
    shutil.copytree(run.store.local, store.local)
    names = [f"{i:04d}{SCRIPT}.txt" for i in range(len(run.ids))]
    pool = folder / "documents"
    for name in names:
        (pool / name).parent.mkdir(parents=True, exist_ok=True)
        (pool / name).write_text(f"{SCRIPT} {name} \"'><img src=x onerror=alert(2)>")
    start = 0
    for part in store.list("embeddings"):
        table = store.read_table(part)
        store.write_table(part, table.set_column(0, "id", pa.array(names[start : start + table.num_rows])))
        start += table.num_rows
    rejected = pa.table({"id": [SCRIPT], "uri": [SCRIPT], "reason": [SCRIPT]})
    store.write_table("rejected/embed/part-00000.parquet", rejected)
    counts = {"notes": [SCRIPT], SCRIPT: 1}
    basis = Basis({"encoder.model": SCRIPT}, {})
    manifest = Manifest("embed", basis, counts, 1.0, SCRIPT, {SCRIPT: SCRIPT})
    write_manifest(store, "embeddings", manifest)
    config = configured(pool, modality="text")
    model = config.encoder.model_copy(update={"model": f"sentence-transformers:{SCRIPT}"})
    report(config.model_copy(update={"encoder": model}), store, Progress(store))

    class Page:
        pass

    Page.store = store
    return Page


def test_the_html_holds_no_script_of_the_pool(hostile):
    html = hostile.store.read_bytes("report.html").decode()
    assert SCRIPT not in html
    assert "<img src=x" not in html
    assert html.count("&lt;script&gt;alert(1)&lt;/script&gt;") > 50


def test_a_browser_shows_it_as_text(hostile, browser):
    visit = Visit(browser, hostile, "light")
    assert visit.dialogs == visit.complaints == []
    texts = visit.page.locator(".sheet blockquote").all_inner_texts()
    assert len(texts) > 10
    assert all(SCRIPT in text for text in texts)
    assert all(SCRIPT in caption for caption in visit.page.locator("figcaption").all_inner_texts())
    assert SCRIPT in visit.page.locator("#rejects").inner_text()
    assert SCRIPT in visit.page.locator("#stages").inner_text()
    assert SCRIPT in visit.page.locator(".notes").inner_text()
    scripts = visit.page.locator("script:not([type='application/json'])").count()
    assert scripts == 2
    visit.page.context.close()


@pytest.mark.parametrize("modality", [Text(), Image()])
def test_what_a_modality_shows_is_escaped(modality):
    assert isinstance(modality, Modality)
    for quote in ("", '"', "'"):
        shown = modality.show(f"{quote}>{SCRIPT}".encode(), f"{quote}>{SCRIPT}")
        assert "<script" not in shown
        assert quote * 2 + ">" not in shown or not quote
