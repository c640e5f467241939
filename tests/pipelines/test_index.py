"""A large pool is looked into by the cluster, and is the same pool."""

import io
import json
import tarfile
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import modalities
from modalities.base import ModalityError
from pipelines import index
from pipelines.errors import RequestError, causes
from pipelines.manifest import read_manifest
from pipelines.resources import resources
from pipelines.store import Store

from .conftest import rows_of


def squared(item):
    """A look that takes now longer, now shorter."""
    time.sleep(0.01 * (item % 3))
    return item * item


def refused(item):
    """A look at a file that is none."""
    raise ModalityError(f"file {item} is no file: take it out")


def test_answers_come_in_the_order_of_the_items(ray_cluster):
    assert list(index.on_cluster(squared, range(30), resources())) == [item**2 for item in range(30)]


def test_what_a_file_says_against_itself_comes_back_as_a_sentence(ray_cluster):
    with pytest.raises(Exception, match="file 0 is no file: take it out") as told:
        list(index.on_cluster(refused, range(30), resources()))
    assert any(isinstance(cause, RequestError) for cause in causes(told.value))


@pytest.fixture
def tars(tmp_path, digits):
    """Pictures in three tars."""
    folder = tmp_path / "tars"
    folder.mkdir()
    for number in range(3):
        with tarfile.open(folder / f"{number}.tar", "w") as tar:
            for i, payload in enumerate(digits[100 * number : 100 * (number + 1)]):
                info = tarfile.TarInfo(f"{i:03}.png")
                info.size = len(payload)
                tar.addfile(info, io.BytesIO(payload))
    return folder


@pytest.mark.slow
def test_a_pool_is_the_same_whoever_looks_into_it(evenset, write_config, tars, tmp_path, monkeypatch):
    found = {}
    for large in (index.LARGE, 1):
        monkeypatch.setattr(index, "LARGE", large)
        output = tmp_path / f"run-{large}"
        encoder = {"model": "patches"}
        file = write_config(tars, modality="image", encoder=encoder, output=str(output))
        done = evenset("embed", file)
        assert done.code == 0, done
        assert ("looks for the samples in 3 files" in done.text) == (large == 1)
        store = Store(str(output))
        pool = read_manifest(store, "embeddings").basis.inputs["pool"]
        found[large] = pool, rows_of(store, "embeddings")
    here, there = found.values()
    assert here == there


@pytest.mark.parametrize(
    ("format", "write"),
    [
        (
            "jsonl",
            lambda file, rows: file.write_text("".join(json.dumps({"text": row}) + "\n" for row in rows)),
        ),
        ("parquet", lambda file, rows: pq.write_table(pa.table({"text": pa.array(rows, pa.string())}), file)),
    ],
)
def test_parts_are_the_same_whoever_looks_for_them(ray_cluster, tmp_path, format, write):
    for number in range(5):
        write(tmp_path / f"{number}.{format}", [f"text {i} of file {number}" for i in range(7 * number)])
    pool = modalities.source(format, str(tmp_path), modality=modalities.modality("text"), part_rows=4)
    on_cluster = pool.parts(lambda look, files, size: index.on_cluster(look, files, resources()))
    assert on_cluster == pool.parts()
    assert [part.index for part in on_cluster] == list(range(2 + 4 + 6 + 7))
