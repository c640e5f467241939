import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modalities.base import ModalityError
from modalities.image import Image
from modalities.sources import ParquetSource
from modalities.sources.paths import list_files
from modalities.text import Text
from tests.modalities.memory import far_away, grown


def source(path, modality=None, column=None, id_column=None, **options):
    return ParquetSource(list_files(str(path)), modality or Text(), column, id_column, **options)


def everything(pool):
    return [record for part in pool.parts() for record in pool.read(part)]


@settings(max_examples=40)
@given(rows=st.integers(1, 70), group=st.integers(1, 40), part_rows=st.integers(1, 30), data=st.data())
def test_every_row_comes_once_in_whatever_order_parts_are_read(
    rows, group, part_rows, data, tmp_path_factory
):
    path = tmp_path_factory.mktemp("pool") / "x.parquet"
    texts = [f"text {row}" for row in range(rows)]
    pq.write_table(pa.table({"text": texts}), path, row_group_size=group)
    pool = source(path, part_rows=part_rows)
    parts = pool.parts()
    read = {part.index: list(pool.read(part)) for part in data.draw(st.permutations(parts))}
    records = [record for part in parts for record in read[part.index]]
    assert [r.payload.decode() for r in records] == texts
    assert [r.id for r in records] == [f"x.parquet#{row}" for row in range(rows)]
    assert all(len(found) <= part_rows for found in read.values())


@pytest.mark.parametrize(
    "kind", [pa.binary(), pa.large_binary(), pa.struct({"bytes": pa.binary(), "path": pa.string()})]
)
def test_images_as_bytes_or_structs(tmp_path, kind):
    values = [b"one", None, b"three"]
    if pa.types.is_struct(kind):
        values = [{"bytes": value, "path": None} for value in values]
    table = pa.table({"label": [1, 2, 3], "image": pa.array(values, kind), "name": ["a", None, "c"]})
    pq.write_table(table, tmp_path / "x.parquet")
    records = everything(source(tmp_path, Image(), id_column="name"))
    assert [(r.id, r.payload) for r in records] == [("a", b"one"), ("x.parquet#1", None), ("c", b"three")]
    assert "name" in records[1].reason


def test_an_id_that_is_not_unicode_costs_only_its_row(tmp_path):
    column = pa.array([b"\xff\xfe", b"b", b"c"], pa.binary())
    names = pa.Array.from_buffers(pa.string(), 3, column.buffers())
    pq.write_table(pa.table({"text": ["one", "two", "three"], "name": names}), tmp_path / "x.parquet")
    records = everything(source(tmp_path, id_column="name"))
    assert [(r.id, r.payload) for r in records] == [("x.parquet#0", None), ("b", b"two"), ("c", b"three")]
    assert "not valid UTF-8" in records[0].reason


def test_addresses_are_fetched_but_stay_in_the_pool(tmp_path):
    secret = tmp_path / "secret.png"
    secret.write_bytes(b"secret")
    pool = tmp_path / "pool"
    (pool / "img").mkdir(parents=True)
    (pool / "img" / "a.png").write_bytes(b"a")
    (pool / "img" / "link.png").symlink_to(secret)
    addresses = [
        *("img/a.png", "img/gone.png", "../secret.png", str(secret), f"file://{secret}", "img/link.png"),
        *(f"simplecache::file://{secret}", "img/../img/a.png", None),
    ]
    pq.write_table(pa.table({"url": addresses}), pool / "x.parquet")
    records = everything(source(pool / "x.parquet", Image(), column="url"))
    assert [r.payload for r in records] == [b"a", None, None, None, None, None, None, b"a", None]
    assert all(r.payload is not None or r.reason.endswith(".") for r in records)


def test_addresses_are_never_guessed(tmp_path):
    pq.write_table(pa.table({"url": ["https://example.org/a.png"]}), tmp_path / "x.parquet")
    with pytest.raises(ModalityError, match=r"source\.column"):
        source(tmp_path, Image())


def test_columns_are_found_or_asked_for(tmp_path):
    pq.write_table(pa.table({"a": ["x"], "b": ["y"]}), tmp_path / "x.parquet")
    with pytest.raises(ModalityError, match=r"several.*a, b"):
        source(tmp_path)
    assert everything(source(tmp_path, id_column="b"))[0].payload == b"x"
    with pytest.raises(ModalityError, match="no column 'z'"):
        source(tmp_path, column="z").parts()
    with pytest.raises(ModalityError, match="no column 'z'"):
        source(tmp_path, column="a", id_column="z").parts()
    pq.write_table(pa.table({"a": [1.5]}), tmp_path / "x.parquet")
    with pytest.raises(ModalityError, match="double"):
        source(tmp_path, column="a").parts()
    pq.write_table(pa.table({"a": ["x"], "b": [1.5]}), tmp_path / "x.parquet")
    with pytest.raises(ModalityError, match="strings or integers"):
        source(tmp_path, column="a", id_column="b").parts()


def test_integer_ids(tmp_path):
    pq.write_table(pa.table({"text": ["x", "y"], "n": [7, 8]}), tmp_path / "x.parquet")
    assert [r.id for r in everything(source(tmp_path, column="text", id_column="n"))] == ["7", "8"]


def test_a_string_that_is_not_utf8_costs_only_itself(tmp_path):
    raw = pa.array([b"good", b"caf\xe9", b"fine"], pa.binary())
    column = pa.StringArray.from_buffers(3, *raw.buffers()[1:])
    pq.write_table(pa.table({"text": column}), tmp_path / "x.parquet")
    assert [r.payload for r in everything(source(tmp_path))] == [b"good", b"caf\xe9", b"fine"]


def test_a_damaged_page_costs_its_part(tmp_path):
    path = tmp_path / "x.parquet"
    texts = [f"{row} " * 50 for row in range(200)]
    pq.write_table(
        pa.table({"text": texts}), path, row_group_size=100, compression="snappy", use_dictionary=False
    )
    pool = source(path)
    parts = pool.parts()
    start = pq.ParquetFile(path).metadata.row_group(0).column(0).data_page_offset
    content = bytearray(path.read_bytes())
    content[start + 30 : start + 400] = b"\xff" * 370
    path.write_bytes(content)
    records = [record for part in parts for record in pool.read(part)]
    assert len(records) == 200
    assert all(r.payload is None and "damaged" in r.reason for r in records[:100])
    assert [r.payload.decode() for r in records[100:]] == texts[100:]


def test_a_pool_without_rows(tmp_path):
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "x.parquet")
    with pytest.raises(ModalityError, match="empty"):
        source(tmp_path).parts()


def test_it_travels(tmp_path):
    pq.write_table(pa.table({"text": ["x"] * 10}), tmp_path / "a.parquet")
    pool = source(tmp_path)
    copy = pickle.loads(pickle.dumps(pool))
    assert copy.parts() == pool.parts()
    assert everything(copy) == everything(pool)


@pytest.mark.parametrize("modality", [Image(), Text()])
def test_structs_without_bytes_name_a_file(tmp_path, modality):
    """As the datasets of Hugging Face have them: a path where the bytes are not in the table."""
    (tmp_path / "img").mkdir()
    (tmp_path / "img" / "a.png").write_bytes(b"of the file")
    values = [
        {"bytes": None, "path": "img/a.png"}, {"bytes": b"of the table", "path": "img/a.png"},
        {"bytes": None, "path": "img/gone.png"}, {"bytes": None, "path": "../x.png"},
        {"bytes": None, "path": "a\0.png"}, {"bytes": None, "path": None}, None,
    ]  # fmt: skip
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    pq.write_table(pa.table({"image": pa.array(values, kind)}), tmp_path / "x.parquet")
    records = everything(source(tmp_path / "x.parquet", modality, column="image"))
    assert [r.payload for r in records] == [b"of the file", b"of the table", *[None] * 5]
    assert [r.reason for r in records[2:]] == [
        "The file is gone, or is no regular file.", "The address leaves the folder of the pool.",
        "The address is no name of a file: it holds NUL, or is not valid Unicode.",
        "The value is missing.", "The value is missing.",
    ]  # fmt: skip


def test_fields_of_structs_that_are_not_read_or_not_utf8_cost_nothing_else(tmp_path):
    """Found by `tests.modalities.sources.atheris_fuzz`: a path that is no UTF-8 ended the run."""
    odd = pa.Array.from_buffers(pa.string(), 1, [None, *pa.array([b"\xff.png"], pa.binary()).buffers()[1:]])
    paths = pa.concat_arrays([odd, odd, pa.array(["gone.png"])])
    held = pa.array([b"x", None, b"y"], pa.binary())
    twice = pa.array([0, 0, 0]), pa.array([10**18] * 3, pa.timestamp("us"))
    rows = pa.StructArray.from_arrays([held, paths, *twice], ["bytes", "path", "n", "n"])
    first = pq.ParquetWriter(tmp_path / "x.parquet", pa.schema({"image": rows.type}))
    with first:
        first.write_table(pa.table({"image": rows}))
    records = everything(source(tmp_path / "x.parquet", Image()))
    assert [r.payload for r in records] == [b"x", None, b"y"]
    assert "not valid Unicode" in records[1].reason


def test_structs_of_other_things_hold_no_samples(tmp_path):
    pq.write_table(pa.table({"image": [{"bytes": 7, "path": "a.png"}]}), tmp_path / "x.parquet")
    with pytest.raises(
        ModalityError, match=r"'image' is of type struct<bytes: int64.*structs with the fields"
    ):
        everything(source(tmp_path / "x.parquet", Image(), "image"))


def test_a_null_costs_only_its_row(tmp_path):
    pq.write_table(pa.table({"text": ["one", None, "", "four"]}), tmp_path / "a.parquet")
    records = everything(source(tmp_path))
    assert [(r.payload, r.reason) for r in records] == [
        (b"one", None), (None, "The value is missing."), (b"", None), (b"four", None),
    ]  # fmt: skip


@pytest.mark.slow
def test_a_row_group_that_inflates_to_a_gigabyte_is_never_in_memory_as_a_whole(tmp_path):
    """What is held is some of its parts, of 64 MiB each: no more than of a group a third as long."""
    one = pa.array([bytes(2**20)])
    table = pa.table({"image": pa.chunked_array([one] * 1024)})
    pq.write_table(table, tmp_path / "x.parquet", use_dictionary=False, row_group_size=1024)
    assert pq.ParquetFile(tmp_path / "x.parquet").num_row_groups == 1
    pool = source(tmp_path, Image())
    with grown() as most:
        lengths = [len(record.payload) for part in pool.parts() for record in pool.read(part)]
    assert lengths == [2**20] * 1024
    assert most() < 320 * 2**20


def test_of_a_large_row_group_only_the_beginning_is_looked_at_before_the_work_starts(tmp_path):
    random = np.random.default_rng(0)
    texts = [random.bytes(50_000).hex() for _ in range(200)]
    pages = {"use_dictionary": False, "data_page_size": 2**20, "write_batch_size": 4}
    pq.write_table(pa.table({"text": texts}), tmp_path / "x.parquet", **pages)
    with far_away("memory://tables/x.parquet", tmp_path / "x.parquet") as read:
        assert source("memory://tables").parts()
    assert 0 < sum(read) < (tmp_path / "x.parquet").stat().st_size / 2


def test_a_footer_whose_names_are_no_text_is_damaged(tmp_path):
    pq.write_table(pa.table({"text": ["x"] * 10}), tmp_path / "x.parquet", store_schema=False)
    content = (tmp_path / "x.parquet").read_bytes()
    (tmp_path / "x.parquet").write_bytes(content.replace(b"text", b"t\xe9xt"))
    with pytest.raises(ModalityError, match=r"x\.parquet cannot be read as Parquet.*take it out"):
        source(tmp_path)
