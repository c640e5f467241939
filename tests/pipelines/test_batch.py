"""The size of a batch: grown while that pays, halved where memory runs out, and kept with the run."""

import gc
import sys
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from ray import cloudpickle

import modalities
from modalities import registry
from pipelines import batch
from pipelines.store import Store

from . import wrong
from .conftest import png

cloudpickle.register_pickle_by_value(wrong)
cloudpickle.register_pickle_by_value(sys.modules[__name__])

ROWS = [np.full((8, 8, 1), i % 200, np.uint8) for i in range(100)]


class Small(wrong.Wrong):
    """It has memory for batches of so many; torch itself says when it has no more."""

    def encode(self, rows, like=None):
        if self.batch_size > int(self.how):
            torch.empty(2**60)
        return super().encode(rows)


def of_rates(monkeypatch, table):
    monkeypatch.setattr(batch, "_rate", lambda encoder, prepared, size: table.get(size))
    encoder = wrong.Wrong("some", batch_size=32)
    return batch.rates(encoder, [None] * 512)


@pytest.mark.parametrize(
    ("table", "tried", "chosen"),
    [
        ({32: 100, 64: 104, 128: 900}, [32, 64], 32),
        ({32: 100, 64: 150, 128: 160, 256: 161, 512: 900}, [32, 64, 128, 256], 128),
        ({32: 100, 64: 150, 128: 300, 256: 500, 512: 600, 1024: 900}, [32, 64, 128, 256, 512], 512),
        ({32: 100, 64: 150}, [32, 64, 128], 64),
        ({8: 10, 4: 8}, [32, 16, 8], 8),
        ({}, [32, 16, 8, 4, 2, 1], 1),
    ],
    ids=["flat", "rises", "rises to the last", "out of memory", "halved", "no memory at all"],
)
def test_a_batch_grows_while_that_pays(monkeypatch, table, tried, chosen):
    found = of_rates(monkeypatch, table)
    assert [size for size, _ in found] == tried
    assert batch.best(found, 32) == chosen


@given(st.lists(st.one_of(st.none(), st.floats(1, 1e6)), min_size=10, max_size=10))
def test_the_size_that_is_chosen_was_tried_and_had_memory(values):
    table = {2**i: value for i, value in enumerate(values)}
    with pytest.MonkeyPatch.context() as patch:
        found = of_rates(patch, table)
    chosen = batch.best(found, 7)
    assert chosen in dict(found)
    assert chosen == 1 or table[chosen] is not None


def test_nothing_tried_leaves_the_encoders_own():
    assert batch.best([], 7) == 7


@pytest.mark.parametrize(("room", "chosen"), [("5", 4), ("16", 16), ("1", 1)])
def test_errors_of_memory_are_told_from_others(room, chosen):
    encoder = Small(room, batch_size=16)
    encoder.load()
    found = batch.rates(encoder, ROWS)
    assert all((rate is None) == (size > int(room)) for size, rate in found)
    assert batch.best(found, 16) == chosen


def test_rows_that_an_encoder_fails_on_are_not_taken_for_memory():
    encoder = wrong.Wrong("some", batch_size=8)
    encoder.load()
    found = batch.rates(encoder, [np.full((8, 8, 1), wrong.RAISES, np.uint8)] * 20)
    assert all(rate for _, rate in found)
    assert 16 in dict(found)


def test_texts_are_read_from_the_pool(tmp_path):
    file = tmp_path / "lines.txt"
    file.write_text("\n".join(f"line number {i} of a pool" for i in range(40)) + "\n")
    modality = modalities.modality("text")
    source = modalities.source("txt", str(file), modality=modality)
    encoder = modalities.encoder("sentence-transformers:all-MiniLM-L6-v2", modality, batch_size=8)
    assert len(batch._prepared(encoder, source, source.parts()[0], modality, None)) == 40


@pytest.fixture
def embed(evenset, write_config, tmp_path, monkeypatch):
    """Embed forty pictures by ``wrong:HOW``, a pool that is worth measuring."""
    monkeypatch.setitem(registry.ENCODERS, "wrong", "tests.pipelines.wrong:Wrong")
    monkeypatch.setattr(batch, "WORTH", 40)
    pixels = [np.full((8, 8), i + 1, np.uint8) for i in range(40)]
    pq.write_table(pa.table({"image": list(map(png, pixels))}), tmp_path / "pool.parquet")

    def embed(how, *changes, run="run", code=0):
        encoder = {"model": f"wrong:{how}", "dtype": "float32", "num_gpus": 0}
        config = write_config(tmp_path / "pool.parquet", source={"column": "image"}, encoder=encoder)
        done = evenset("embed", config, f"output={tmp_path / run}", *changes)
        assert done.code == code, done
        kept = yaml.safe_load(Store(str(tmp_path / run)).read_bytes("config.yaml"))
        return done.text, kept["encoder"]["batch_size"]

    return embed


def test_the_size_is_measured_once_a_run(embed):
    text, size = embed("some")
    assert f"encoder.batch_size is {size} (samples a second in batches of 8: " in text
    assert size in (8, 16, 32, 64, 128, 256, 512)
    text, again = embed("some")
    assert "embed: kept" in text
    assert "samples a second" not in text
    assert again == size


@pytest.mark.slow
def test_a_process_that_dies_of_a_large_batch_costs_the_measurement_alone(embed):
    text, size = embed("frail")
    assert "the process that measured encoder.batch_size died: it is 8" in text
    assert size == 8


def embeddings(run):
    parts = sorted((run / "embeddings").glob("part-*.parquet"))
    return pa.concat_tables(map(pq.read_table, parts)).select(["id", "embedding"])


@pytest.mark.slow
@pytest.mark.parametrize("normalize", ["unit", "centre"])
def test_a_run_whose_batches_have_no_memory_halves_them_and_keeps_that(
    embed, tmp_path, monkeypatch, normalize
):
    monkeypatch.setattr(batch, "WORTH", 50_000)
    text, size = embed("narrow2", f"encoder.normalize={normalize}")
    assert size == 2
    assert "embed: no memory for batches of 8, so encoder.batch_size is 4" in text
    assert "embed: no memory for batches of 4, so encoder.batch_size is 2" in text
    assert "rejected" not in text
    text, again = embed("narrow2", f"encoder.normalize={normalize}")
    assert (again, "embed: kept" in text) == (2, True)
    embed("narrow2", f"encoder.normalize={normalize}", "encoder.batch_size=2", run="asked")
    assert embeddings(tmp_path / "run") == embeddings(tmp_path / "asked")
    assert len(embeddings(tmp_path / "run")) == 40


def test_a_size_that_was_asked_for_is_not_changed_and_the_next_run_has_the_cpus(embed):
    gc.disable()  # which might let the actors go by chance
    try:
        text, size = embed("narrow4", "encoder.batch_size=8", code=1)
        deadline = time.monotonic() + 30
        while ray.available_resources().get("CPU", 0) < 2 and time.monotonic() < deadline:
            time.sleep(0.1)
        assert ray.available_resources()["CPU"] == 2
    finally:
        gc.enable()
    assert size == 8
    assert "no memory for batches of 8 samples" in text
    assert "lower encoder.batch_size" in text
