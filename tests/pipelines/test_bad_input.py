"""Whole runs over bad input: it is rejected by name and for a reason of its own, and costs nothing else."""

import json
import sys
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image as Pillow
from ray import cloudpickle

from modalities import registry
from modalities.image import Image
from modalities.mapper import threads
from modalities.sources.files import PART_ROWS, FilesSource
from pipelines.manifest import read_manifest
from pipelines.store import Store
from tests.modalities.scenes import values, write_scene
from tests.modalities.sources.tars import tar_of
from tests.modalities.sources.test_lines import WORDS
from tests.modalities.sources.test_paths import somebody

from .conftest import rows_of

cloudpickle.register_pickle_by_value(sys.modules[__name__])
cloudpickle.register_pickle_by_value(sys.modules[somebody.__module__])

HTML = b"<!DOCTYPE html>\n<html><body>404 Not Found</body></html>\n"
NOT_JSON, NOT_UTF8 = "The line is not valid JSON.", "The line is not valid UTF-8."
NO_DATA = "The chip has no data in more than 50 % of its pixels (satellite.max_nodata)."


class Guarded(Image):
    """Pictures that somebody reads who is not root, and of which one goes as soon as they are listed."""

    name = "guarded"
    formats = {"guarded": Image.suffixes}  # noqa: RUF012 - as a modality declares them

    def open(self, format, listing, part_rows):
        return GuardedFiles(listing, self.suffixes, part_rows or PART_ROWS)


class GuardedFiles(FilesSource):
    def parts(self, mapper=threads):
        parts = super().parts(mapper)
        Path(self._root.uri("gone.png")).unlink()
        return parts

    def read(self, part):
        with somebody():
            records = list(super().read(part))
        return iter(records)


@pytest.fixture
def checked(evenset, tmp_path):
    """Run a command, and check what is embedded, what is rejected and why, and that nothing is missing."""

    def checked(command, config, embedded, rejected):
        done, run = evenset(command, config), Store(str(tmp_path / "run"))
        assert done.code == 0, done
        assert rows_of(run, "embeddings").keys() == {*embedded}
        assert {id: row["reason"] for id, row in rows_of(run, "rejected/embed").items()} == rejected
        counts = read_manifest(run, "embeddings").counts
        assert (counts["embedded"], counts["rejected"]) == (len(embedded), len(rejected))
        assert counts["samples"] == len(embedded) + len(rejected)
        assert counts["reasons"] == Counter(rejected.values())
        assert f"{len(rejected)} of {counts['samples']} samples rejected" in done.text
        status = evenset("status", run.url).text
        assert all(reason in status for reason in rejected.values())
        return run

    return checked


@pytest.mark.slow
def test_pictures_in_files(checked, write_config, digits, monkeypatch):
    monkeypatch.setitem(registry.MODALITIES, "guarded", f"{__name__}:Guarded")
    with TemporaryDirectory() as name:  # nobody may look into a folder of pytest
        pool = Path(name)
        pool.chmod(0o755)
        good = [f"{i:02d}.png" for i in range(20)]
        for file, payload in zip([*good, "gone.png", "closed.png"], digits, strict=False):
            (pool / file).write_bytes(payload)
        (pool / "closed.png").chmod(0)
        at = digits[0].index(b"IDAT")
        for file, length in {"short.png": 20, "long.png": 2**31 - 1}.items():
            (pool / file).write_bytes(digits[0][: at - 4] + length.to_bytes(4, "big") + digits[0][at:])
        noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Pillow.fromarray(noise).save(pool / "half.jpg")
        whole = (pool / "half.jpg").read_bytes()
        (pool / "half.jpg").write_bytes(whole[: len(whole) // 2])
        (pool / "page.jpg").write_bytes(HTML)
        (pool / "zero.png").touch()
        (pool / "circle.png").symlink_to("circle.png")
        rejected = {
            "gone.png": "The file is gone, or is no regular file.",
            "closed.png": "The file may not be read (permission denied).",
            "short.png": "The image data are truncated or damaged.",
            "half.jpg": "The image data are truncated or damaged.",
            "page.jpg": "The file is not an image in a known format.",
            "zero.png": "The file is empty.",
            "circle.png": "The file is gone, or is no regular file.",
        }
        config = write_config(pool, modality="guarded", source={"format": "guarded"}, sample={"size": 5})
        run = checked("embed", config, [*good, "long.png"], rejected)
    embedded = rows_of(run, "embeddings")
    assert embedded["long.png"]["embedding"] == embedded["00.png"]["embedding"]  # all of its pixels are there


@pytest.mark.slow
def test_pictures_in_tars(checked, write_config, tmp_path, digits):
    pool = tmp_path / "pool"
    pool.mkdir()
    names = [f"{i:02d}.png" for i in range(10)] + ["../outside.png", "/etc/outside.png"]
    (pool / "a.tar").write_bytes(tar_of(list(zip(names, digits, strict=False))))
    members = [(f"{i:02d}.png", payload) for i, payload in enumerate(digits[20:41])]
    assert all(len(payload) <= 512 for _, payload in members)  # two blocks a member: the cut goes through one
    cut = tar_of(members, end=False)
    (pool / "cut.tar").write_bytes(cut[: len(cut) // 2])
    (pool / "page.tar").write_bytes(HTML)
    good = [f"a.tar#{name.removesuffix('.png')}" for name in names] + [f"cut.tar#{i:02d}" for i in range(10)]
    rejected = {
        "cut.tar#10": "The tar is cut off here: it has no end mark.",
        "page.tar#0": "The tar is cut off here: it has no end mark.",
    }
    checked("embed", write_config(pool, sample={"size": 5}), good, rejected)
    assert not [path for path in tmp_path.rglob("*outside*") if "run" not in path.parts]


def written(run, id):
    """The bytes of a sample in the folder of exported files."""
    return (run.local / "export/files" / rows_of(run, "export/index")[id]["file"]).read_bytes()


@pytest.mark.slow
def test_texts_in_json_lines(checked, write_config, tmp_path):
    *words, blank = WORDS
    long = "word " * (10 * 2**20)
    good = {word: word for word in words} | {"long": long} | {f"n{i}": f"Wire {i} of many." for i in range(9)}
    rows = [{"text": text, "id": id, "said": f"{id} (as it is)"} for id, text in good.items()]
    lines = [json.dumps(row, ensure_ascii=bool(i % 2)).encode() for i, row in enumerate(rows)]
    assert max(map(len, lines)) > 50 * 10**6
    lines += [
        *(b'{"text": "cut', b"<p>no JSON</p>", b'{"text": "\xc3(", "id": "a"}'),
        *(b'{"text": "a\0b", "id": "b"}', b"\0" * 99, json.dumps({"text": blank, "id": blank}).encode()),
    ]
    (tmp_path / "x.jsonl").write_bytes(b"\n".join(lines))
    reasons = dict(enumerate([NOT_JSON, NOT_JSON, NOT_UTF8, NOT_JSON, NOT_JSON], start=len(good)))
    rejected = {f"x.jsonl#{line}": reason for line, reason in reasons.items()}
    config = write_config(
        tmp_path / "x.jsonl", modality="text", source={"id_column": "id", "keep": ["said"]},
        cluster={"n_clusters": [3]}, sample={"size": len(good)}, export={"formats": ["files", "parquet"]},
    )  # fmt: skip
    run = checked("run", config, good, rejected | {blank: "The text is empty or blank."})
    assert [id for id, row in rows_of(run, "embeddings").items() if row["truncated"]] == ["long"]
    exported = rows_of(run, "export/parquet")
    assert {id: row["payload"].decode() for id, row in exported.items()} == good
    assert {id: row["said"] for id, row in exported.items()} == {id: f"{id} (as it is)" for id in good}
    assert all(written(run, id).decode() == text for id, text in good.items())


@pytest.mark.slow
def test_texts_in_parquet(checked, write_config, tmp_path):
    pool = tmp_path / "pool"
    pool.mkdir()
    texts = pa.array([*(word.encode() for word in WORDS), None, b"caf\xe9", b""], pa.binary())
    odd = pa.Array.from_buffers(pa.string(), len(texts), texts.buffers(), texts.null_count)
    pq.write_table(pa.table({"text": odd}), pool / "a.parquet")
    pq.write_table(pa.table({"text": [7, 8]}), pool / "b.parquet")
    pq.write_table(pa.table({"body": ["one", "two"]}), pool / "c.parquet")
    pq.write_table(pa.table({"text": [f"Wire {i} of many." for i in range(9)]}), pool / "d.parquet")
    first = len(WORDS) - 1  # the last of them is blank
    good = [f"a.parquet#{row}" for row in range(first)] + [f"d.parquet#{row}" for row in range(9)]
    rejected = {
        f"a.parquet#{first}": "The text is empty or blank.",
        f"a.parquet#{first + 1}": "The value is missing.",
        f"a.parquet#{first + 2}": "The text is not valid UTF-8.",
        f"a.parquet#{first + 3}": "The text is empty or blank.",
        "b.parquet#0": "The column 'text' of the file is of type int64, unlike that of the first file.",
        "c.parquet#0": "The file has no column 'text'.",
    }
    config = write_config(pool, modality="text", cluster={"n_clusters": [3]}, sample={"size": len(good)})
    run = checked("run", config, good, rejected)
    exported = rows_of(run, "export/parquet")
    assert [exported[f"a.parquet#{row}"]["payload"].decode() for row in range(first)] == WORDS[:-1]


def chips(scene):
    return [f"{scene}#{x}_{y}_16_16" for y in (0, 16) for x in (0, 16)]


@pytest.mark.slow
def test_scenes(checked, write_config, tmp_path):
    """Each has four chips, in rows; some of them lack data, because a band does."""
    pool = tmp_path / "pool"
    size = (3, 32, 32)
    for i in range(4):
        write_scene(pool / f"good{i}.tif", values(*size, seed=i))
    write_scene(pool / "nowhere.tif", values(*size), crs=None)
    write_scene(pool / "empty.tif", np.zeros(size, np.uint16), nodata=0)
    holed = values(*size).astype(np.float32)
    holed[0, :16, :16], holed[1, 16:20, 16:] = np.nan, np.inf
    write_scene(pool / "holed.tif", holed)
    small, whole = values(1, 32, 32, "uint8"), values(1, 32, 32, "int16")
    small[0, :16, 16:], whole[0, 16:18, :16] = 255, -9999
    write_scene(pool / "mixed_B1.tif", small, nodata=255)
    write_scene(pool / "mixed_B2.tif", whole, nodata=-9999)
    write_scene(pool / "mixed_B3.tif", values(1, 32, 32, "float32"))
    write_scene(pool / "degrees.tif", values(*size), crs="EPSG:4326", corner=(-70, -8), metres=0.001)
    write_scene(pool / "metres.tif", values(*size), crs="EPSG:3857", corner=(1_113_194.9, 0))
    write_scene(pool / "date_line.tif", values(*size), crs="EPSG:4326", corner=(179.84, 10), metres=0.01)
    rejected = dict.fromkeys([*chips("empty.tif"), chips("holed.tif")[0], chips("mixed")[1]], NO_DATA)
    rejected["nowhere.tif"] = (
        "The scene has no CRS, so it lies nowhere: give it one, or take its files as they are with"
        " source.format=files."
    )
    scenes = [f"{name}.tif" for name in ("good0", "good1", "good2", "good3", "holed", "degrees", "metres")]
    good = {id for scene in (*scenes, "date_line.tif", "mixed") for id in chips(scene)} - rejected.keys()
    config = write_config(
        pool, modality="satellite", satellite={"chip": 16, "bands": [1, 2, 3]}, sample={"size": 5}
    )
    found = rows_of(checked("embed", config, good, rejected), "embeddings")
    lacking = {id: row["nodata"] for id, row in found.items() if row["nodata"]}
    assert lacking == {chips("holed.tif")[3]: 0.25, chips("mixed")[2]: 0.125}
    assert [found[id]["lon"] for id in chips("date_line.tif")] == pytest.approx([179.92, -179.92] * 2)
    places = {"degrees.tif": ("EPSG:4326", -69.992, -8.008), "metres.tif": ("EPSG:3857", 10.0007, -0.0007)}
    for scene, (crs, *place) in places.items():
        row = found[chips(scene)[0]]
        assert row["crs"] == crs
        assert [row["lon"], row["lat"]] == pytest.approx(place, abs=1e-4)
