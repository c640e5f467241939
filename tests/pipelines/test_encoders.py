"""Encoders in a run: what a wrong one costs, what is cut is counted, and the forms of embeddings."""

import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ray import cloudpickle

import modalities
from modalities import registry
from pipelines.embed import truncated_told
from pipelines.encode import matrix
from pipelines.manifest import read_manifest
from pipelines.store import Store
from pipelines.tally import Tally

from . import wrong
from .conftest import png, rows_of

cloudpickle.register_pickle_by_value(sys.modules[__name__])
cloudpickle.register_pickle_by_value(wrong)

MARKS = {3: wrong.NAN, 11: wrong.INFINITE, 17: wrong.ZERO, 25: wrong.RAISES, 30: wrong.CUT}
NAMES = [f"digit {i}" for i in range(40)]


@pytest.fixture
def embed(evenset, write_config, tmp_path, monkeypatch):
    """Embed forty pictures in two parts by ``wrong:HOW``; the outcome, and the run."""
    monkeypatch.setitem(registry.ENCODERS, "wrong", "tests.pipelines.wrong:Wrong")
    monkeypatch.setitem(registry.ENCODERS, "placed", "tests.pipelines.wrong:Placed")

    def embed(how, *overrides, name="run"):
        marks = MARKS if how == "some" else {30: wrong.CUT}
        pixels = [np.full((8, 8), marks.get(i, i + 1), np.uint8) for i in range(40)]
        rows = {"name": NAMES, "image": list(map(png, pixels))}
        pq.write_table(pa.table(rows), tmp_path / "pool.parquet", row_group_size=20)
        source = {"format": "parquet", "column": "image", "id_column": "name"}
        encoder = {"model": f"wrong:{how}", "batch_size": 8, "dtype": "float32", "num_gpus": 0}
        config = write_config(tmp_path / "pool.parquet", source=source, encoder=encoder)
        done = evenset("embed", config, f"output={tmp_path / name}", *overrides)
        return done, Store(str(tmp_path / name))

    return embed


def test_what_an_encoder_does_with_some_samples_costs_those_alone(embed, evenset):
    done, run = embed("some")
    assert done.code == 0, done
    reasons = {row["id"]: row["reason"] for row in rows_of(run, "rejected/embed").values()}
    expected = {3: "NaN or infinity", 11: "NaN or infinity", 17: "all zero", 25: "it is marked"}
    assert reasons.keys() == {f"digit {i}" for i in expected}
    assert all(told in reasons[f"digit {i}"] for i, told in expected.items())
    embedded = rows_of(run, "embeddings")
    assert embedded.keys() == set(NAMES) - reasons.keys()
    assert [name for name, row in embedded.items() if row["truncated"]] == ["digit 30"]
    assert "1 of 36 embedded samples are longer" in done.text
    assert "(the column truncated)" in done.text  # this encoder knows nothing of long_text
    assert "truncated 1" in evenset("status", run.url).text


@pytest.mark.parametrize(
    ("long_text", "said"),
    [
        (None, "(the column truncated; encoder.long_text=windows reads 100,000 characters)"),
        ("windows", "(the column truncated; of a text 100,000 characters are read: split what is longer"),
    ],
)
def test_what_would_read_more_of_a_text_is_not_what_is_set_already(long_text, said):
    options = {"long_text": long_text} if long_text else {}
    text = modalities.modality("text")
    found = modalities.encoder("sentence-transformers:all-MiniLM-L6-v2", text, **options)
    assert said in truncated_told(Tally(embedded=7, truncated=2), found)


@pytest.mark.slow
def test_pictures_are_decoded_in_tasks_and_encoded_in_actors(embed):
    """A GPU that an actor holds never waits for Pillow."""
    done, run = embed("here", "encoder.model=placed:here", "encoder.normalize=none")
    assert done.code == 0, done
    rows = matrix_of(run)
    assert len(rows) == len(NAMES)
    assert (rows == [wrong.TASK, wrong.ACTOR]).all()


@pytest.mark.parametrize(
    ("how", "code", "said"),
    [("shape", 1, "failed on each of the 8 samples of a batch"), ("unloadable", 2, "are not here.")],
)
def test_an_encoder_that_cannot_work_ends_the_run_in_a_sentence(embed, how, code, said):
    done, run = embed(how)
    assert done.code == code
    *_, last = done.text.strip().splitlines()
    assert last.startswith("evenset: ")
    assert said in last
    assert read_manifest(run, "embeddings") is None


def matrix_of(run):
    tables = [run.read_table(rel) for rel in sorted(run.list("embeddings"))]
    return np.concatenate([matrix(table["embedding"]) for table in tables])


@pytest.mark.slow
def test_embeddings_far_from_the_origin_are_told_apart_when_centred(embed):
    plain, centred, left = (
        embed("far", f"encoder.normalize={how}", name=how) for how in ("unit", "centre", "none")
    )
    assert [done.code for done, _ in (plain, centred, left)] == [0, 0, 0], (plain, centred, left)
    unit, middle, none = (matrix_of(run) for _, run in (plain, centred, left))
    assert (unit.dtype, middle.dtype, none.dtype) == (np.float16, np.float16, np.float32)
    assert np.allclose(np.linalg.norm(middle.astype(float), axis=1), 1, atol=1e-3)
    assert np.abs(none - wrong.FAR).max() < 100
    distinct = [len(np.unique(rows, axis=0)) for rows in (unit, middle, none)]
    assert distinct[0] < distinct[1] == distinct[2]
    # the direction from the mean of all that there is, as every sample was looked at
    mean = none.astype(float).mean(axis=0)
    away = none - mean
    away /= np.linalg.norm(away, axis=1, keepdims=True)
    assert (away * middle).sum(axis=1).min() > 0.99


@pytest.mark.slow
def test_the_centre_is_kept_when_the_run_resumes(embed):
    done, run = embed("far", "encoder.normalize=centre")
    assert done.code == 0, done
    rows, counts = matrix_of(run), read_manifest(run, "embeddings").counts
    state = run.read_bytes("encoder/centre.npz")
    run.delete("embeddings/_manifest.json")
    run.delete("embeddings/part-00001.parquet")
    again, _ = embed("far", "encoder.normalize=centre")
    assert "resumed" in again.text
    assert run.read_bytes("encoder/centre.npz") == state
    assert np.array_equal(matrix_of(run), rows)
    assert counts["truncated"] == 1  # counted from what is on disk
    assert read_manifest(run, "embeddings").counts == counts
    changed, _ = embed("far", "encoder.normalize=unit")
    assert "encoder.normalize centre -> (nothing)" in changed.text
    assert not run.exists("encoder/centre.npz")


def test_rows_as_they_are_are_not_for_cosine(refused, write_config, tmp_path):
    text = refused("embed", write_config(tmp_path), "encoder.normalize=none", "cluster.distance=cosine")
    assert "write unit or centre" in text
