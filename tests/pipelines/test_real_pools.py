"""The examples on real data: one pool in three forms is one pool, and nothing of any pool is lost."""

import io
import json
import tarfile
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.manifest import read_manifest
from pipelines.store import Store

from .conftest import rows_of
from .test_report_page import Visit, opened_browser

EXAMPLES = "examples"


def some(data, name, count, step=1):
    """Some rows of a file of real data, in the order of their ids."""
    columns = ["id", "image"] if name in ("cifar10", "eurosat_rgb_part0") else ["id", "text"]
    table = pq.read_table(data / f"{name}.parquet", columns=columns)
    return sorted(table.slice(0, count * step).to_pylist()[::step], key=lambda row: row["id"].encode())


def as_parquet(rows, folder):
    pq.write_table(pa.Table.from_pylist(rows), folder / "images.parquet")
    return "images.parquet", "id"


def as_folder(rows, folder):
    for row in rows:
        file = folder / "images" / f"{row['id']}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(row["image"])
    return "images", "__key__"


def as_webdataset(rows, folder):
    for number, start in enumerate(range(0, len(rows), 150)):
        with tarfile.open(folder / f"shard-{number:03d}.tar", "w") as tar:
            for row in rows[start : start + 150]:
                member = tarfile.TarInfo(f"{row['id']}.jpg")
                member.size = len(row["image"])
                tar.addfile(member, io.BytesIO(row["image"]))
    return "shard-{000..001}.tar", "__key__"


def embedded(evenset, example, folder, *overrides):
    """Embeds an example's pool; returns its run, in which the counts add up."""
    output = folder / "run"
    told = evenset("embed", f"{EXAMPLES}/{example}.yaml", f"output={output}", "sample.size=40", *overrides)
    assert told.code == 0, told
    run = Store(str(output))
    counts = read_manifest(run, "embeddings").counts
    assert counts["samples"] == counts["embedded"] + counts["rejected"] > 40
    return run


def curated(evenset, example, folder, *overrides):
    """Runs an example to its end; returns its run."""
    run, output = embedded(evenset, example, folder, *overrides), folder / "run"
    told = evenset("run", f"{EXAMPLES}/{example}.yaml", f"output={output}", "sample.size=40", *overrides)
    assert told.code == 0, told
    assert len(rows_of(run, "curated")) == 40
    assert (output / "report.html").stat().st_size > 10_000
    return run


def look_at(run, shown, maps=0):
    """Opens the report in a browser; comes last in a test, which is skipped here where there is none.

    Of what is ``shown`` of the samples there has to be something for the pool and for the curated set; of
    figures there are as many maps.
    """
    with opened_browser() as browser:
        visit = Visit(browser, SimpleNamespace(store=run), "light")
        own = (run.local / "report.html").as_uri()
        assert [url for url in visit.requests if url != own and not url.startswith("data:")] == []
        assert visit.complaints == visit.dialogs == []
        figures = visit.page.evaluate(
            "[...document.querySelectorAll('[data-figure]')].map(f => f.dataset.figure)"
        )
        assert {"treemap", "histogram-1"} <= {*figures}
        assert sum(name.startswith("region-") for name in figures) == maps
        for name in figures:
            box = visit.page.locator(f"#{name} svg.main-svg").first.bounding_box()
            assert min(box["width"], box["height"]) > 100, name
            if name.startswith("region-"):
                assert visit.page.locator(f"#{name} .scatterlayer path").count() > 0, name
        sheets = visit.page.locator(".sheet")
        assert sheets.count() == 2
        for i in range(2):
            assert sheets.nth(i).locator(f"figure {shown}").count() >= 12
        broken = "[...document.images].filter(i => !i.complete || !i.naturalWidth).length"
        assert visit.page.evaluate(broken) == 0


@pytest.mark.slow
def test_images_are_the_same_pool_as_parquet_as_files_and_as_tars(evenset, data, tmp_path):
    """With 300 images in one part each or two of 150, ids, payloads and the patches learned are the same.

    One of them is curated to the end: from what is the same, the same follows.
    """
    rows, found, runs = some(data, "cifar10", 300, step=30), {}, {}
    for form in (as_parquet, as_folder, as_webdataset):
        folder = tmp_path / form.__name__
        folder.mkdir()
        path, id_column = form(rows, folder)
        done = curated if form is as_webdataset else embedded
        run = done(evenset, "images", folder, f"source.path={folder / path}", f"source.id_column={id_column}")
        runs[form.__name__] = run
        found[form.__name__] = {id: row["embedding"] for id, row in rows_of(run, "embeddings").items()}
    assert list(found["as_parquet"]) == [row["id"] for row in rows]
    assert found["as_folder"] == found["as_parquet"] == found["as_webdataset"]
    look_at(runs["as_webdataset"], "img")


@pytest.mark.slow
def test_newswires_as_json_lines(evenset, data, tmp_path):
    rows = some(data, "reuters21578", 120)
    rows[7]["text"] = "  \n "
    lines = [json.dumps(row) for row in rows]
    lines[11] = lines[11][:-20]
    (tmp_path / "wires.jsonl").write_text("\n".join(lines))
    run = curated(evenset, "text", tmp_path, f"source.path={tmp_path / 'wires.jsonl'}", "source.id_column=id")
    rejected = rows_of(run, "rejected/embed")
    assert {row["reason"] for row in rejected.values()} == {
        "The text is empty or blank.",
        "The line is not valid JSON.",
    }
    look_at(run, "blockquote")


@pytest.mark.slow
def test_tiles_of_eurosat_have_no_place_and_are_curated_all_the_same(evenset, data, tmp_path):
    pq.write_table(
        pa.Table.from_pylist(some(data, "eurosat_rgb_part0", 150, step=60)), tmp_path / "tiles.parquet"
    )
    where = f"source.path={tmp_path / 'tiles.parquet'}"
    run = curated(evenset, "satellite", tmp_path, where, "source.id_column=id", "source.format=parquet",
                   "satellite.bands=null")  # fmt: skip
    assert all(row["crs"] is None for row in rows_of(run, "embeddings").values())
    look_at(run, "img")


@pytest.mark.slow
def test_scenes_as_they_come(evenset, data, tmp_path):
    run = curated(evenset, "satellite", tmp_path, f"source.path={data / 'geotiff'}")
    assert any(row["crs"] for row in rows_of(run, "embeddings").values())
    look_at(run, "img", maps=6)  # as many as the report has at most


@pytest.mark.slow
def test_of_two_scenes_of_one_place_chips_are_thinned_year_by_year(evenset, data, tmp_path):
    """By distances on a sphere, which are within .6 % of ours."""
    thin = ["satellite.thin={distance_m: 2000, dates: year}", "satellite.date=_(?P<year>\\d{4})\\."]
    cut = ["satellite.chip=32", "satellite.stride=16", "satellite.bands=[3,2,1]"]
    run = curated(
        evenset, "satellite", tmp_path, f"source.path={data}/geotiff/landsat_pucallpa_*.tif", *thin, *cut
    )
    chips, thinned = rows_of(run, "embeddings"), rows_of(run, "thinned")
    assert 500 < len(thinned) < len(chips) - 500
    assert not rows_of(run, "curated").keys() & thinned.keys()
    for year in (1995, 2020):
        mine = [id for id, chip in chips.items() if chip["datetime"].year == year]
        place = np.deg2rad([(chips[id]["lon"], chips[id]["lat"]) for id in mine]).T
        half = np.sin((place[:, :, None] - place[:, None]) / 2) ** 2
        across = half[0] * np.cos(place[1])[:, None] * np.cos(place[1])
        apart = 2 * 6_371_009 * np.arcsin(np.sqrt(half[1] + across))
        np.fill_diagonal(apart, np.inf)
        stays = np.array([id not in thinned for id in mine])
        assert apart[stays][:, stays].min() > 0.99 * 2000
        row = {id: i for i, id in enumerate(mine)}
        for id in row.keys() & thinned.keys():
            assert apart[row[id], row[thinned[id]["instead"]]] < 1.01 * 2000
    look_at(run, "img", maps=1)
