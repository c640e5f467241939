"""Pools whose files try to run code, or reach for what is not theirs: refused, or read as data."""

import base64
import json
import socket
import threading

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray.data  # noqa: F401 (it registers the types that unpickle)
from ray.data._internal.object_extensions.arrow import ArrowPythonObjectType

import modalities
from modalities import ModalityError
from modalities.sources import values
from modalities.sources.plain import unsafe_type

from .conftest import Canary


def records(path, form, name="image", **columns):
    pool = modalities.source(form, str(path), modality=modalities.modality(name), **columns)
    return [record for part in pool.parts() for record in pool.read(part)]


def pickled(canary, rows=1):
    storage = pa.array([canary.pickle] * rows, pa.large_binary())
    return pa.ExtensionArray.from_storage(ArrowPythonObjectType(), storage)


def test_the_type_really_runs_what_it_reads(tmp_path):
    canary = Canary(tmp_path / "canary")
    with pytest.raises(TypeError):  # what Path.touch returns is no value for Arrow's `is_valid`
        len(pickled(canary)[0].as_py())
    assert canary.sang


@pytest.mark.parametrize("name", ["x.npy", "x.bin"])
def test_an_array_of_objects(canary, tmp_path, name):
    with (tmp_path / name).open("wb") as file:
        np.save(file, np.array([[canary.object]], dtype=object), allow_pickle=True)
    with pytest.raises(ModalityError, match="embeddings are float16, float32 or float64"):
        modalities.source("embeddings", str(tmp_path / name), modality=modalities.modality("image"))


def test_an_array_whose_header_is_a_program(canary, tmp_path):
    program = f"__import__('pathlib').Path({str(canary.path)!r}).touch()".encode().ljust(117) + b"\n"
    (tmp_path / "x.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(program).to_bytes(2, "little") + program)
    with pytest.raises(ModalityError, match=r"cannot be read as \.npy"):
        modalities.source("embeddings", str(tmp_path), modality=modalities.modality("image"))


@pytest.mark.parametrize("form", ["parquet", "embeddings"])
def test_a_column_of_pickled_objects(canary, tmp_path, form):
    vectors = pa.array([[1.0, 2.0]], pa.list_(pa.float32()))
    table = {"id": pickled(canary), "embedding": vectors, "image": pickled(canary)}
    pq.write_table(pa.table(table), tmp_path / "x.parquet")
    with pytest.raises(ModalityError, match=r"image|id"):
        records(tmp_path, form)
    with pytest.raises(ModalityError, match=r"pickled_object"):
        records(tmp_path, "parquet", column="image")
    pq.write_table(pa.table(table | {"image": [b"x"]}), tmp_path / "x.parquet")
    with pytest.raises(ModalityError, match="source.id_column"):
        records(tmp_path, "parquet", id_column="id")


def test_pickled_objects_deep_in_a_column(canary, tmp_path):
    inside = pa.StructArray.from_arrays([pickled(canary), pa.array(["a.png"])], names=["bytes", "path"])
    for name in ("image", "text"):
        pq.write_table(pa.table({name: inside}), tmp_path / "x.parquet")
        with pytest.raises(ModalityError, match="pickled_object"):
            records(tmp_path, "parquet", name, column=name)


def test_a_file_that_is_exchanged_after_it_was_listed(canary, tmp_path):
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"image": [b"one"]}), path)
    pool = modalities.source("parquet", str(path), modality=modalities.modality("image"))
    (part,) = pool.parts()
    inside = pa.StructArray.from_arrays([pickled(canary), pa.array(["a.png"])], names=["bytes", "path"])
    pq.write_table(pa.table({"image": inside}), path)
    (record,) = pool.read(part)
    assert record.payload is None
    assert record.reason


WRAPS = [
    pa.list_,
    pa.large_list,
    lambda kind: pa.list_(kind, 2),
    lambda kind: pa.struct([("a", kind)]),
    lambda kind: pa.map_(pa.string(), kind),
]


@pytest.mark.parametrize("wrap", WRAPS)
def test_the_type_is_found_however_deep_it_sits(wrap):
    kind = ArrowPythonObjectType()
    assert unsafe_type(wrap(kind)) == kind.extension_name
    assert unsafe_type(wrap(pa.struct([("b", wrap(kind))]))) == kind.extension_name
    assert unsafe_type(wrap(pa.binary())) is None


def with_schema(path, table, schema):
    """Write `table` as if Arrow had stored it with `schema`, as a hostile writer could."""
    metadata = {b"ARROW:schema": base64.b64encode(schema.serialize().to_pybytes())}
    with pq.ParquetWriter(path, table.schema.with_metadata(metadata), store_schema=False) as writer:
        writer.write_table(table.replace_schema_metadata(metadata))


TENSORS = ("ray.data.arrow_tensor", "ray.data.arrow_tensor_v2", "ray.data.arrow_variable_shaped_tensor")


@pytest.mark.parametrize("kind", [*TENSORS, "arrow.py_extension_type"])
def test_a_type_whose_description_is_a_pickle(canary, tmp_path, kind):
    """Refused by Ray, or (where nobody has registered it) ignored."""
    storage = pa.list_(pa.field("item", pa.float32()))
    table = pa.table({"id": ["a"], "embedding": pa.array([[1.0, 2.0]], storage)})
    about = {b"ARROW:extension:name": kind.encode(), b"ARROW:extension:metadata": canary.pickle}
    schema = pa.schema([table.schema.field("id"), pa.field("embedding", storage, metadata=about)])
    with_schema(tmp_path / "x.parquet", table, schema)
    try:
        pool = modalities.source("embeddings", str(tmp_path), modality=modalities.modality("image"))
        said, vectors = "", pool.read_vectors(pool.parts()[0])[2].tolist()
    except ModalityError as error:
        said, vectors = str(error), [[1, 2]]
    assert vectors == [[1, 2]]
    assert not said or "x.parquet" in said


def test_metadata_for_pandas_that_is_a_program(canary, tmp_path):
    metadata = {b"pandas": canary.pickle, b"evil": f"__import__('os').mkdir({str(canary.path)!r})".encode()}
    table = pa.table({"image": [b"one"]}).replace_schema_metadata(metadata)
    pq.write_table(table, tmp_path / "x.parquet")
    assert [r.payload for r in records(tmp_path, "parquet")] == [b"one"]


@pytest.fixture
def listener():
    """A server on loopback, as a machine's metadata service is; counts who comes."""
    came = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            while True:
                try:
                    client, _ = server.accept()
                except OSError:
                    return
                came.append(client.recv(4096))
                client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
                client.close()

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}/latest/meta-data", came
        server.shutdown(socket.SHUT_RDWR)


def test_a_table_sends_nobody_to_an_address_that_no_one_named(listener, tmp_path, monkeypatch):
    address, came = listener
    for path in (address, address.replace("http", "HTTP"), "s3://bucket/a.png"):
        said = "img2dataset" if path != "s3://bucket/a.png" else "source.column"
        pq.write_table(pa.table({"image": [{"bytes": None, "path": path}]}), tmp_path / "x.parquet")
        (record,) = records(tmp_path / "x.parquet", "parquet")
        assert said in record.reason
        lines = [json.dumps({"image": value}) for value in ("a.png", path)]
        (tmp_path / "x.jsonl").write_text("\n".join(lines))
        _, record = records(tmp_path / "x.jsonl", "jsonl")
        assert said in record.reason
    asked = []

    def read(root, name):
        asked.append((root.url, name))
        return b"ok", None

    monkeypatch.setattr(values, "read_file", read)
    _, record = records(tmp_path / "x.jsonl", "jsonl", column="image")
    assert record.payload == b"ok"
    assert asked == [(str(tmp_path), "a.png"), ("s3://bucket", "a.png")]
    (tmp_path / "x.jsonl").write_text(json.dumps({"image": address}))
    for column in (None, "image"):
        with pytest.raises(ModalityError, match="addresses of the web"):
            records(tmp_path / "x.jsonl", "jsonl", column=column)
    assert came == []


def test_a_config_that_names_an_object(refused, canary, tmp_path):
    import yaml

    from pipelines.configfile import _Loader

    assert issubclass(_Loader, yaml.SafeLoader)
    for tag in ("!!python/object/apply:os.mkdir", "!!python/name:os.system", "!!python/object/new:os.mkdir"):
        (tmp_path / "job.yaml").write_text(f"modality: image\nsource:\n  path: {tag} [{canary.path}]\n")
        said = refused("run", tmp_path / "job.yaml")
        assert "line 3" in said
        assert "python/" in said
    (tmp_path / "job.yaml").write_text("modality: image\nsource: {path: x}\n")
    assert "python/" in refused(
        "run", tmp_path / "job.yaml", f"seed=!!python/object/apply:os.mkdir [{canary.path}]"
    )
