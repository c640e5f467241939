"""The embed stage on real Ray: nothing is lost, parts stay whole, and what is unfit is named."""

import os
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from ray import cloudpickle

from curation.chance import digests
from curation.exact import normalize_rows
from modalities.base import Part, Record
from pipelines import blocks, stream
from pipelines.attempts import Attempts
from pipelines.encode import matrix, nameable
from pipelines.manifest import read_manifest
from pipelines.sizing import Sizing
from pipelines.store import Store

from .conftest import blobs, png, rows_of, write_vectors

cloudpickle.register_pickle_by_value(sys.modules[__name__])

ONE = Sizing(1, 1, 1, 1, cpus=1.0, gpus=0.0, task_cpus=1.0)


@pytest.fixture
def run(tmp_path):
    return Store(str(tmp_path / "run"))


def write_images(file, payloads, rows_a_group):
    names = [f"digit {i}" for i in range(len(payloads))]
    pq.write_table(pa.table({"name": names, "image": payloads}), file, row_group_size=rows_a_group)
    return {"format": "parquet", "column": "image", "id_column": "name"}


def rejects(run):
    return {row["id"]: row["reason"] for row in rows_of(run, "rejected/embed").values()}


def test_images_of_every_kind_and_bad_ones_among_them(evenset, write_config, tmp_path, run, digits):
    pool = tmp_path / "pool"
    (pool / "sub").mkdir(parents=True)
    for i, payload in enumerate(digits[:40]):
        (pool / f"{i:03d}.png").write_bytes(payload)
    random = np.random.default_rng(0)
    grey = random.integers(0, 256, (8, 8), dtype=np.uint8)
    colour = random.integers(0, 256, (8, 8, 4), dtype=np.uint8)
    (pool / "sub" / "rgba.png").write_bytes(png(colour))
    (pool / "deep.png").write_bytes(png(grey.astype(np.uint16) * 256))
    Image.fromarray(grey).convert("P").save(pool / "palette.png")
    Image.fromarray(colour[..., :3]).save(pool / "colour.jpg")
    (pool / "one.png").write_bytes(png(np.full((1, 1), 7, np.uint8)))
    bad = {
        "cut.png": digits[0][: len(digits[0]) // 2],
        "half.jpg": (pool / "colour.jpg").read_bytes()[:-200],
        "zero.png": b"",
        "page.jpg": b"<!DOCTYPE html><p>404 Not Found",
        "drawing.png": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    }
    for name, payload in bad.items():
        (pool / name).write_bytes(payload)
    (pool / "circle.png").symlink_to("circle.png")
    done = evenset("embed", write_config(pool))
    assert done.code == 0, done
    embedded = rows_of(run, "embeddings")
    assert embedded.keys() | rejects(run).keys() == {
        p.relative_to(pool).as_posix() for p in pool.rglob("*.*")
    }
    assert bad.keys() | {"circle.png"} == rejects(run).keys()
    assert {"sub/rgba.png", "deep.png", "palette.png", "colour.jpg"} <= embedded.keys()
    assert all(rejects(run).values())
    assert embedded["000.png"]["width"] == 8
    assert "rejected" in done.text
    counts = read_manifest(run, "embeddings").counts
    assert counts["samples"] == counts["embedded"] + counts["rejected"] == 51
    status = evenset("status", tmp_path / "run")
    for reason in rejects(run).values():
        assert reason in status.text


@pytest.mark.slow
def test_empty_and_blank_texts_are_rejected(evenset, write_config, tmp_path, run):
    pool = tmp_path / "pool"
    pool.mkdir()
    for name, text in {"a": "A cat sat on the mat.", "b": "Rain is likely.", "c": "", "d": " \n\t "}.items():
        (pool / f"{name}.txt").write_text(text)
    done = evenset("embed", write_config(pool), "modality=text", "sample.size=1")
    assert done.code == 0, done
    assert rows_of(run, "embeddings").keys() == {"a.txt", "b.txt"}
    assert rejects(run).keys() == {"c.txt", "d.txt"}


@pytest.mark.slow
def test_parts_are_neither_merged_nor_split(evenset, write_config, tmp_path, run, digits):
    pool = tmp_path / "pool"
    pool.mkdir()
    large = png(np.random.default_rng(0).integers(0, 256, (600, 600, 3), dtype=np.uint8))
    payloads = digits[:100] + [b"no image"] * 20 + [large] * 30 + digits[100:103]
    source = write_images(pool / "digits.parquet", payloads, 20)
    assert evenset("embed", write_config(pool, source=source)).code == 0
    sizes = []
    for index in range(8):
        ids = run.read_table(f"embeddings/part-{index:05d}.parquet")["id"].to_pylist()
        if run.exists(f"rejected/embed/part-{index:05d}.parquet"):
            ids += run.read_table(f"rejected/embed/part-{index:05d}.parquet")["id"].to_pylist()
        assert ids == [f"digit {i}" for i in range(20 * index, min(20 * index + 20, len(payloads)))]
        sizes.append(run.rows(f"embeddings/part-{index:05d}.parquet"))
    assert sizes == [20, 20, 20, 20, 20, 0, 20, 13]


@pytest.mark.slow
def test_embeddings_do_not_depend_on_actors_or_on_a_second_start(
    evenset, write_config, tmp_path, run, digits
):
    source = write_images(tmp_path / "digits.parquet", digits, 50)
    config = write_config(tmp_path / "digits.parquet", source=source)
    assert evenset("embed", config, "encoder.actors=[1,1]").code == 0
    first = rows_of(run, "embeddings")
    digest = read_manifest(run, "embeddings").counts["digest"]
    # as after a kill: some parts and the state of the encoder are there, the manifest is not
    run.delete("embeddings/_manifest.json")
    for index in (1, 3, 5):
        run.delete(f"embeddings/part-{index:05d}.parquet")
    resumed = evenset("embed", config, "encoder.actors=[2,2]")
    assert resumed.code == 0, resumed
    assert "resumed" in resumed.text
    assert rows_of(run, "embeddings") == first
    assert read_manifest(run, "embeddings").counts["digest"] == digest


@pytest.mark.slow
def test_stored_embeddings_are_unit_rows_in_float16_with_their_keys(
    evenset, write_config, tmp_path, run, digits
):
    source = write_images(tmp_path / "digits.parquet", digits[:60], 60)
    assert evenset("embed", write_config(tmp_path / "digits.parquet", source=source)).code == 0
    table = run.read_table("embeddings/part-00000.parquet")
    rows = matrix(table["embedding"])
    assert rows.dtype == np.float16
    assert np.allclose(np.linalg.norm(rows.astype(np.float64), axis=1), 1, atol=1e-3)
    assert table["key"].to_pylist() == digests(table["id"].to_pylist())
    assert {"width", "height", "bytes"} <= set(table.column_names)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_pool_of_embeddings_keeps_its_precision(evenset, write_config, tmp_path, run, dtype):
    """What float16 did not hold is rejected by id."""
    vectors = blobs(50)
    vectors[13, 2] = 70_000
    with np.errstate(over="ignore"):
        vectors = vectors.astype(dtype)
    np.save(tmp_path / "pool.npy", vectors)
    assert evenset("embed", write_config(tmp_path / "pool.npy", source={"format": "embeddings"})).code == 0
    half = dtype is np.float16
    assert rejects(run).keys() == ({"13"} if half else set())
    assert all("NaN or infinite" in reason for reason in rejects(run).values())
    table = run.read_table("embeddings/part-00000.parquet")
    left = [i for i in range(50) if not half or i != 13]
    assert table["id"].to_pylist() == [str(i) for i in left]
    kept = matrix(table["embedding"])
    assert kept.dtype == (np.float16 if half else np.float32)
    assert np.array_equal(kept, vectors[left].astype(kept.dtype))


def test_bad_embeddings_are_rejected_by_id(evenset, write_config, tmp_path, run):
    vectors = blobs(40)
    vectors[3, 2], vectors[5, 0], vectors[7, 1] = np.nan, np.inf, -np.inf
    vectors[11] = 0
    np.save(tmp_path / "pool.npy", vectors)
    config = write_config(tmp_path / "pool.npy", source={"format": "embeddings"})
    assert evenset("embed", config).code == 0
    assert rejects(run).keys() == {"3", "5", "7"}
    assert all("NaN or infinite" in reason for reason in rejects(run).values())
    # only a direction is needed for cosine, and only there a zero has none
    again = evenset("embed", config, "cluster.distance=cosine")
    assert again.code == 0, again
    assert "cluster.distance euclidean -> cosine" in again.text
    assert rejects(run).keys() == {"3", "5", "7", "11"}
    assert "all zero" in rejects(run)["11"]
    kept = rows_of(run, "embeddings")
    assert np.array_equal(np.float32(kept["0"]["embedding"]), normalize_rows(vectors[:1])[0])


@pytest.mark.parametrize("apart", [False, True])
def test_two_samples_with_one_id_are_both_named(evenset, write_config, tmp_path, run, apart):
    (tmp_path / "pool").mkdir()
    names = [f"n{i}" for i in range(30)]
    write_vectors(tmp_path / "pool" / "a.parquet", blobs(30), names)
    names = [f"m{i}" for i in range(30)]
    names[4] = "n7" if apart else "m9"
    write_vectors(tmp_path / "pool" / "b.parquet", blobs(30), names)
    done = evenset("embed", write_config(tmp_path / "pool", source={"format": "embeddings"}))
    assert done.code == 2
    assert f"'{names[4]}'" in done.text
    assert "b.parquet#4" in done.text
    assert ("a.parquet#7" if apart else "b.parquet#9") in done.text
    assert read_manifest(run, "embeddings") is None


def test_a_pool_of_nothing_but_rejects(evenset, write_config, tmp_path, run):
    np.save(tmp_path / "pool.npy", np.full((30, 4), np.nan, np.float32))
    done = evenset("embed", write_config(tmp_path / "pool.npy"))
    assert done.code == 1
    assert "all 30 samples were rejected" in done.text
    assert "30 x The embedding has NaN" in done.text
    assert read_manifest(run, "embeddings") is None


def test_too_many_rejects_fail_and_a_higher_limit_goes_on(evenset, write_config, tmp_path, run):
    vectors = blobs(40)
    vectors[:24] = np.inf
    np.save(tmp_path / "pool.npy", vectors)
    config = write_config(tmp_path / "pool.npy")
    done = evenset("embed", config)
    assert done.code == 1
    assert "24 of 40 samples" in done.text
    assert "limits.rejected=0.5" in done.text
    written = (run.local / "embeddings/part-00000.parquet").stat().st_mtime_ns
    assert evenset("embed", config, "limits.rejected=0.6").code == 0
    assert (run.local / "embeddings/part-00000.parquet").stat().st_mtime_ns == written


def test_a_pool_of_nothing_but_bad_images_says_why(evenset, write_config, tmp_path, run):
    (tmp_path / "pool").mkdir()
    for name in ("a", "b"):
        (tmp_path / "pool" / f"{name}.png").write_text("this is no image")
    (tmp_path / "pool/c.png").touch()
    done = evenset("embed", write_config(tmp_path / "pool"), "sample.size=1")
    assert done.code == 1, done
    assert "all 3 samples were rejected: 2 x The file is not an image" in done.text
    assert "1 x The file is empty" in done.text
    assert read_manifest(run, "embeddings") is None


def test_a_bad_table_among_others_is_one_reject_and_the_run_goes_on(
    evenset, write_config, tmp_path, run, digits
):
    pool = tmp_path / "pool"
    pool.mkdir()
    pq.write_table(pa.table({"image": digits[:30]}), pool / "b.parquet")
    pq.write_table(pa.table({"other": digits[:30]}), pool / "c.parquet")
    (pool / "a.parquet").write_bytes(b"<html>404 Not Found</html>")
    (pool / "d.parquet").symlink_to("nowhere")
    done = evenset("embed", write_config(pool, sample={"size": 3}))
    assert done.code == 0, done
    counts = read_manifest(run, "embeddings").counts
    assert (counts["samples"], counts["embedded"], counts["rejected"]) == (33, 30, 3)
    assert rejects(run) == {
        "a.parquet#0": "The file is no Parquet, or is damaged.",
        "c.parquet#0": "The file has no column 'image'.",
        "d.parquet#0": "The file is gone, or is no regular file.",
    }


@pytest.mark.slow
def test_samples_that_cannot_be_named_are_rejected_alone(evenset, write_config, tmp_path, run, digits):
    names = pa.array([b"\xff\xfe", None, *(b"digit %d" % i for i in range(20))], pa.binary())
    names = pa.Array.from_buffers(pa.string(), 22, names.buffers())
    pq.write_table(pa.table({"name": names, "image": digits[:22]}), tmp_path / "digits.parquet")
    source = {"format": "parquet", "column": "image", "id_column": "name"}
    done = evenset("embed", write_config(tmp_path / "digits.parquet", source=source))
    assert done.code == 0, done
    assert rows_of(run, "embeddings").keys() == {f"digit {i}" for i in range(20)}
    assert rejects(run).keys() == {"digits.parquet#0", "digits.parquet#1"}
    assert "not valid UTF-8" in rejects(run)["digits.parquet#0"]


def test_ragged_and_unnamed_embeddings_have_reasons_of_their_own(evenset, write_config, tmp_path, run):
    names = pa.array([b"\xff\xfe", b"a", b"b", b"c", b"d", b"e", b"f"], pa.binary())
    names = pa.Array.from_buffers(pa.string(), 7, names.buffers())
    rows = [[1.0, 2.0], [3.0], None, [np.nan, 1.0], [1.0, 4.0], [1.0, 5.0], [2.0, 6.0]]
    pq.write_table(pa.table({"id": names, "embedding": rows}), tmp_path / "pool.parquet")
    config = write_config(tmp_path / "pool.parquet", source={"format": "embeddings"})
    done = evenset("embed", config, "sample.size=1", "limits.rejected=0.6")
    assert done.code == 0, done
    assert rejects(run) == {
        "pool.parquet#0": "The id column 'id' is not valid UTF-8.",
        "a": "The embedding has 1 dimensions, not 2.",
        "b": "The embedding is null.",
        "c": "The embedding has NaN or infinite values.",
    }


def test_a_record_that_no_table_can_name_is_rejected():
    assert nameable(Record("a", "/a", b"x")) == Record("a", "/a", b"x")
    bad = nameable(Record("\ud800", "/b", b"x"))
    assert (bad.id, bad.payload) == ("\\ud800", None)
    assert "Unicode" in bad.reason


def test_a_part_that_does_not_add_up_is_read_anew(evenset, write_config, tmp_path, run):
    vectors = blobs(40)
    vectors[3] = np.nan
    np.save(tmp_path / "pool.npy", vectors)
    config = write_config(tmp_path / "pool.npy")
    assert evenset("embed", config).code == 0
    run.delete("embeddings/_manifest.json")
    run.delete("rejected")
    failed = evenset("embed", config)
    assert failed.code == 1
    assert "39 were embedded and 0 rejected" in failed.text
    assert "run the same command again" in failed.text
    assert evenset("embed", config).code == 0
    assert rejects(run).keys() == {"3"}


@pytest.mark.slow
def test_another_encoder_is_named_as_it_was_asked_for(evenset, write_config, tmp_path, digits):
    source = write_images(tmp_path / "digits.parquet", digits[:40], 40)
    config = write_config(tmp_path / "digits.parquet", source=source, cluster={"n_clusters": [4, 2]})
    assert evenset("embed", config).code == 0
    stale = evenset("cluster", config, "encoder.model=open_clip:ViT-B-32/laion2b_s34b_b79k")
    assert stale.code == 2
    assert "encoder.device cpu -> auto" in stale.text


def test_an_encoder_without_weights_is_a_bad_request(evenset, write_config, tmp_path, digits):
    source = write_images(tmp_path / "digits.parquet", digits[:10], 10)
    config = write_config(tmp_path / "digits.parquet", source=source)
    done = evenset(
        "embed", config, "encoder.model=open_clip:ViT-B-32/no_such_weights", "encoder.dtype=float32"
    )
    assert done.code == 2, done
    assert "no_such_weights" in done.text
    assert "Traceback" not in done.text


def test_a_packed_part_is_unpacked_as_it_was():
    table = pa.table(
        {"id": ["a", "b", None], "payload": pa.array([b"", None, b"x" * 1000], pa.large_binary())}
    )
    assert blocks.unpack(blocks.pack(7, table))[1].equals(table)
    assert blocks.unpack(blocks.pack(7, table.slice(0, 0)))[1].schema == table.schema
    part = Part(3, {"files": ["a/ü.png"], "start": 0})
    assert blocks.entered(blocks.enter(part)) == part


class Deadly:
    """Dies on part 2, the first time only if ``once`` names a file to remember it by."""

    def __init__(self, once):
        self._once = once

    def __call__(self, block):
        part = blocks.entered(block)
        if part.index == 2 and not (self._once and self._once.exists()):
            if self._once:
                self._once.touch()
            os._exit(1)
        return pa.table({"part": [part.index]})


def rows_after(once):
    attempts = Attempts()

    def build(parts):
        return stream.actors(parts, Deadly, size=ONE, attempts=attempts, once=once)

    try:
        rows = list(stream.rows_of([Part(i, {}) for i in range(5)], build))
        return sorted(rows, key=lambda row: row["part"]), attempts.restarts
    finally:
        attempts.close()


def test_a_part_whose_actor_died_once_is_tried_again(ray_cluster, tmp_path):
    rows, restarts = rows_after(tmp_path / "died")
    assert rows == [{"part": i} for i in range(5)]
    assert restarts == 1


def test_a_part_that_always_kills_its_actor_is_set_aside_alone(ray_cluster):
    rows, restarts = rows_after(None)
    assert rows == [{"part": i} | ({"lost": "deadly"} if i == 2 else {}) for i in range(5)]
    assert restarts == 2
