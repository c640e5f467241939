"""The curated set leaves the run: with its payloads, as files, as lists; and never outside the folder."""

import json
from pathlib import PurePosixPath

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation import HierarchicalKMeans, balanced_sample
from curation.levels import auto_clusters
from pipelines.naming import LONGEST, file_name
from pipelines.store import Store
from tests.modalities.sources.tars import tar_of

from .conftest import blobs, rows_of, write_vectors

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".txt")
NASTY = st.text(st.sampled_from("ab./\\~_\x00\n é-A#"), min_size=1, max_size=12)
NEAR = st.lists(st.sampled_from(["a", "a~", *SUFFIXES, ".PNG", "/"]), min_size=1, max_size=4).map("".join)


IDS = st.lists(NASTY | NEAR | st.text(min_size=1), min_size=2, max_size=6, unique=True)


@given(IDS, st.sampled_from(SUFFIXES))
def test_names_stay_in_the_folder_and_differ(ids, suffix):
    names = [file_name(id, suffix, SUFFIXES) for id in ids]
    # a name may itself be the id of another sample
    names += [file_name(name, suffix, SUFFIXES) for name in set(names) - set(ids)]
    assert len(set(names)) == len(names)
    folders = {
        "/".join(name.split("/")[:depth]) for name in names for depth in range(1, len(name.split("/")))
    }
    assert not folders & set(names)
    for name in names:
        ending = PurePosixPath(name).suffix.lower()
        assert any({ending, suffix} <= kind for kind in ({suffix}, {".jpg", ".jpeg"}, {".tif", ".tiff"}))
        components = name.split("/")
        assert not name.startswith("/")
        assert all(c not in ("", ".", "..") and not c.startswith(".") for c in components)
        assert all(len(c.encode()) <= LONGEST + 32 and c.isprintable() for c in components)


def test_tidy_ids_keep_their_names():
    for id, suffix in {"a/b.png": ".png", "x.jpeg": ".jpg", "x.tif": ".tiff", "x.JPG": ".jpg"}.items():
        assert file_name(id, suffix, SUFFIXES) == id
    for id, name in {"a/b.jpeg": "a/b.jpeg~", "x.parquet#12": "x.parquet#12~", "a": "a~"}.items():
        assert file_name(id, ".png", SUFFIXES).startswith(name)


@pytest.mark.slow
def test_images_in_every_form(evenset, write_config, tmp_path, digits):
    pool = tmp_path / "pool"
    (pool / "sub").mkdir(parents=True)
    for i, payload in enumerate(digits[:120]):
        (pool / ("sub" if i % 2 else "") / f"{i:03d}.png").write_bytes(payload)
    config = write_config(
        pool, cluster={"n_clusters": [12, 4]}, sample={"size": 30}, export={"formats": ["files"]}
    )
    assert evenset("run", config).code == 0
    run = Store(str(tmp_path / "run"))
    curated = rows_of(run, "curated")
    folder = tmp_path / "run/export/files"
    written = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*.png")}
    assert written == {id: (pool / id).read_bytes() for id in curated}
    assert not (tmp_path / "run/export/ids.txt").exists()

    again = evenset("run", config, "export.formats=[parquet, ids]")
    assert "export.formats" in again.text
    assert not folder.exists()
    rows = rows_of(run, "export/parquet")
    assert {id: row["payload"] for id, row in rows.items()} == {
        id: (pool / id).read_bytes() for id in curated
    }
    assert all(rows[id][name] == curated[id][name] for id in curated for name in ("ranks", "path", "weight"))
    assert sorted((tmp_path / "run/export/ids.txt").read_text().splitlines()) == sorted(curated)


@pytest.mark.slow
def test_a_sample_that_is_gone_is_named(evenset, write_config, tmp_path, digits):
    pool = tmp_path / "pool"
    pool.mkdir()
    for i, payload in enumerate(digits[:40]):
        (pool / f"{i:03d}.png").write_bytes(payload)
    config = write_config(pool, cluster={"n_clusters": [8, 2]}, sample={"size": 10})
    for stage in ("embed", "cluster", "sample"):
        assert evenset(stage, config).code == 0
    lost = next(iter(rows_of(Store(str(tmp_path / "run")), "curated")))
    content = (pool / lost).read_bytes()
    (pool / lost).write_bytes(b"")
    (pool / lost).unlink()
    (pool / lost).mkdir()
    stale = evenset("export", config)
    assert stale.code == 2
    assert "the pool changed" in stale.text
    (pool / lost).rmdir()
    (pool / lost).write_bytes(content)
    assert evenset("export", config).code == 0


@pytest.mark.slow
def test_row_numbers_of_a_pool_of_embeddings(evenset, write_config, tmp_path):
    vectors = blobs(300)
    vectors[[0, 5, 17]] = np.nan
    (tmp_path / "pool").mkdir()
    write_vectors(tmp_path / "pool/a.parquet", vectors[:120], [f"a{i}" for i in range(120)])
    write_vectors(tmp_path / "pool/b.parquet", vectors[120:], [f"b{i}" for i in range(180)])
    sample = {"size": 400, "max_repeats": 2}
    source = {"format": "embeddings"}
    config = write_config(tmp_path / "pool", source=source, cluster={"n_clusters": [12, 4]}, sample=sample)
    assert evenset("run", config).code == 0
    names = [f"a{i}" for i in range(120)] + [f"b{i}" for i in range(180)]
    ids = (tmp_path / "run/export/ids.txt").read_text().splitlines()
    rows = np.load(tmp_path / "run/export/rows.npy")
    assert rows.dtype == np.int64
    assert len(ids) == len(rows) == 400
    assert [names[row] for row in rows] == ids
    exported = rows_of(Store(str(tmp_path / "run")), "export/parquet")
    assert all(
        np.array_equal(np.float32(exported[id]["embedding"]), vectors[row])
        for id, row in zip(ids, rows, strict=True)
    )
    counts = {id: ids.count(id) for id in set(ids)}
    assert counts == {id: row["repeats"] for id, row in exported.items()}


def test_the_example_for_embeddings_gives_the_rows_that_the_library_does(evenset, tmp_path):
    vectors = blobs(400)
    np.save(tmp_path / "pool.npy", vectors)
    source, output = f"source.path={tmp_path / 'pool.npy'}", f"output={tmp_path / 'run'}"
    ran = evenset("run", "examples/embeddings.yaml", source, output)
    assert ran.code == 0, ran.text
    rows = np.load(tmp_path / "run/export/rows.npy")
    tree = HierarchicalKMeans(auto_clusters(400), resample_steps=10).fit(vectors).tree_
    assert np.array_equal(rows, balanced_sample(tree, 40))
    curated = pq.read_table(tmp_path / "run/curated").to_pandas()
    smaller = curated[curated["ranks"].map(min) <= 10]  # as docs/formats.md says
    assert smaller["id"].astype(int).tolist() == balanced_sample(tree, 10).tolist()


@pytest.mark.slow
def test_an_id_with_a_line_break_takes_one_line(evenset, write_config, tmp_path, digits):
    names = [f"first\nsecond {i}" for i in range(20)]
    pq.write_table(pa.table({"name": names, "image": digits[:20]}), tmp_path / "pool.parquet")
    source = {"format": "parquet", "column": "image", "id_column": "name"}
    export = {"formats": ["files", "ids"]}
    config = write_config(
        tmp_path / "pool.parquet",
        source=source,
        export=export,
        cluster={"n_clusters": [4]},
        sample={"size": 5},
    )
    assert evenset("run", config).code == 0
    lines = (tmp_path / "run/export/ids.txt").read_text().splitlines()
    assert len(lines) == 5
    assert all(line.startswith("first\\nsecond ") for line in lines)
    assert len(list((tmp_path / "run/export/files").iterdir())) == 5


def as_parquet(folder, rows):
    kinds = pa.schema({"name": pa.string(), "image": pa.binary(), "n": pa.int16()})
    pq.write_table(pa.Table.from_pylist(rows, kinds), folder / "pool.parquet", row_group_size=20)
    return {"path": "pool.parquet", "column": "image"}


def as_lines(folder, rows):
    for row in rows:
        (folder / f"{row['name']}.png").write_bytes(row["image"])
    lines = [json.dumps({**row, "image": f"{row['name']}.png"}) for row in rows]
    (folder / "pool.jsonl").write_text("\n".join(lines))
    return {"path": "pool.jsonl", "column": "image"}


def as_tar(folder, rows):
    members = []
    for row in rows:
        about = json.dumps({name: row[name] for name in ("name", "n")}).encode()
        members += [(f"{row['name']}.png", row["image"]), (f"{row['name']}.json", about)]
    (folder / "pool.tar").write_bytes(tar_of(members))
    return {"path": "pool.tar"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("write", "kind"), [(as_parquet, pa.int16()), (as_lines, pa.string()), (as_tar, pa.string())]
)
def test_columns_of_the_pool_stay_with_their_samples(evenset, write_config, tmp_path, digits, write, kind):
    """Those of a table as they are, those of JSON as strings."""
    images = [*digits[:59], b"bad"]
    source = write(tmp_path, [{"name": f"d{i}", "image": image, "n": i} for i, image in enumerate(images)])
    source |= {"path": str(tmp_path / source["path"]), "id_column": "name", "keep": ["n"]}
    config = write_config(source["path"], source=source, cluster={"n_clusters": [6]}, sample={"size": 20})
    assert evenset("run", config).code == 0
    run = Store(str(tmp_path / "run"))
    for folder, rows in {"embeddings": 59, "curated": 20, "export/parquet": 20}.items():
        found = rows_of(run, folder)
        assert {id: str(row["n"]) for id, row in found.items()} == {id: id[1:] for id in found}
        assert len(found) == rows
        first = run.read_table(run.list(folder)[0])
        assert first.schema.field("n").type == kind
    assert "source.keep" in evenset("embed", config, "source.keep=[]").text
