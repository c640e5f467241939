import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modalities.base import ModalityError
from modalities.sources import EmbeddingsSource
from modalities.sources.paths import list_files


def source(path, **options):
    return EmbeddingsSource(list_files(str(path)), **options)


def everything(pool):
    ids, uris, vectors, _ = zip(*(pool.read_vectors(part) for part in pool.parts()), strict=True)
    return [i for part in ids for i in part], [u for part in uris for u in part], np.concatenate(vectors)


def reasons(pool):
    return [reason for part in pool.parts() for reason in pool.read_vectors(part)[3]]


@given(
    n=st.integers(1, 50), d=st.integers(1, 9), part_rows=st.integers(1, 20),
    dtype=st.sampled_from([">f4", "<f2", "<f4", "<f8"]),
)  # fmt: skip
def test_npy_rows_are_named_by_their_index(n, d, part_rows, dtype, tmp_path_factory):
    rows = np.arange(n * d).reshape(n, d).astype(dtype)
    path = tmp_path_factory.mktemp("pool") / "x.npy"
    np.save(path, rows)
    pool = source(path, part_rows=part_rows)
    ids, uris, vectors = everything(pool)
    assert ids == [str(row) for row in range(n)]
    assert uris[-1] == f"{path}#{n - 1}"
    assert (pool.dim, pool.dtype) == (d, np.float16 if dtype == "<f2" else np.float32)
    assert vectors.dtype == pool.dtype
    np.testing.assert_array_equal(vectors, rows)


def test_several_npy_files_keep_their_names(tmp_path):
    np.save(tmp_path / "a.npy", np.ones((2, 3), np.float16))
    np.save(tmp_path / "b.npy", np.zeros((1, 3), np.float32))
    pool = source(tmp_path)
    ids, _, vectors = everything(pool)
    assert ids == ["a.npy#0", "a.npy#1", "b.npy#0"]
    assert vectors.dtype == pool.dtype == np.float32


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.ones(4, np.float32), "shape"),
        (np.ones((2, 2, 2), np.float32), "shape"),
        (np.ones((2, 2), np.int64), "int64"),
        (np.asfortranarray(np.ones((3, 2), np.float32)), "column by column"),
        (np.array([[{}]], dtype=object), "object"),
        (np.ones((0, 3), np.float32), "empty"),
    ],
)
def test_other_arrays_are_refused(array, reason, tmp_path):
    np.save(tmp_path / "x.npy", array, allow_pickle=True)
    with pytest.raises(ModalityError, match=reason):
        source(tmp_path)


def test_a_cut_file_is_refused(tmp_path):
    np.save(tmp_path / "x.npy", np.ones((10, 4), np.float32))
    content = (tmp_path / "x.npy").read_bytes()
    (tmp_path / "x.npy").write_bytes(content[:-8])
    with pytest.raises(ModalityError, match="shorter"):
        source(tmp_path)


def test_a_file_without_a_byte_is_refused_and_not_passed_over(tmp_path):
    np.save(tmp_path / "a.npy", np.ones((10, 4), np.float32))
    (tmp_path / "b.npy").touch()
    for path in (tmp_path, tmp_path / "b.npy"):
        with pytest.raises(ModalityError, match=r"b\.npy is empty: it has 0 bytes"):
            source(path)


@pytest.mark.parametrize(
    "kind",
    [
        pa.list_(pa.float16()),
        pa.list_(pa.float32()),
        pa.large_list(pa.float64()),
        pa.list_(pa.float32(), 3),
        pa.fixed_shape_tensor(pa.float32(), [3]),
    ],
)
def test_parquet_lists(kind, tmp_path):
    rows = [[0.5, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]
    if isinstance(kind, pa.BaseExtensionType):
        column = pa.ExtensionArray.from_storage(kind, pa.array(rows, kind.storage_type))
    else:
        column = pa.array([np.array(row, kind.value_type.to_pandas_dtype()) for row in rows], kind)
    pq.write_table(
        pa.table({"id": ["a", "b", "c", "d"], "embedding": column}), tmp_path / "x.parquet", row_group_size=3
    )
    pool = source(tmp_path, part_rows=2)
    ids, _, vectors = everything(pool)
    assert ids == ["a", "b", "c", "d"]
    assert vectors.dtype == (np.float16 if kind == pa.list_(pa.float16()) else np.float32)
    np.testing.assert_array_equal(vectors, rows)


@pytest.mark.parametrize("kind", [pa.list_(pa.float32()), pa.list_(pa.float32(), 2)])
def test_null_and_ragged_rows_are_nan_and_say_so(kind, tmp_path):
    fixed = pa.types.is_fixed_size_list(kind)
    rows = [[1, 2], None, [3, 4] if fixed else [3], [5, 6]]
    pq.write_table(pa.table({"id": range(4), "embedding": pa.array(rows, kind)}), tmp_path / "x.parquet")
    vectors = everything(source(tmp_path))[2]
    good = [0, 2, 3] if fixed else [0, 3]
    np.testing.assert_array_equal(np.flatnonzero(np.isfinite(vectors).all(axis=1)), good)
    np.testing.assert_array_equal(vectors[good], [rows[row] for row in good])
    ragged = None if fixed else "The embedding has 1 dimensions, not 2."
    assert reasons(source(tmp_path)) == [None, "The embedding is null.", ragged, None]


def test_rows_that_cannot_be_named_are_rejected_alone(tmp_path):
    bad = not_utf8([b"\xff\xfe", b"a", None])
    pq.write_table(pa.table({"id": bad, "embedding": [[1.0], [2.0], [3.0]]}), tmp_path / "x.parquet")
    assert everything(source(tmp_path))[0] == ["x.parquet#0", "a", "x.parquet#2"]
    found = reasons(source(tmp_path))
    assert found[1] is None
    assert "not valid UTF-8" in found[0]
    assert "'id' is null" in found[2]


def not_utf8(values):
    """A column of strings with these bytes, valid or not."""
    column = pa.array(values, pa.binary())
    return pa.Array.from_buffers(pa.string(), len(column), column.buffers())


def test_bad_requests_are_named(tmp_path):
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"id": ["a"], "vector": [[1.0]]}), path)
    with pytest.raises(ModalityError, match="'embedding'"):
        source(path)
    with pytest.raises(ModalityError, match="'key'"):
        source(path, column="vector", id_column="key")
    pq.write_table(pa.table({"id": ["a"], "embedding": [[1]]}), path)
    with pytest.raises(ModalityError, match="not a list of floats"):
        source(path)
    np.save(tmp_path / "y.npy", np.ones((1, 1), np.float32))
    with pytest.raises(ModalityError, match="both"):
        source(tmp_path)


def test_dimensions_must_agree(tmp_path):
    np.save(tmp_path / "a.npy", np.ones((2, 3), np.float32))
    np.save(tmp_path / "b.npy", np.ones((2, 4), np.float32))
    with pytest.raises(ModalityError, match="4 dimensions"):
        source(tmp_path)


def test_it_travels_and_holds_no_samples(tmp_path):
    np.save(tmp_path / "a.npy", np.ones((2, 3), np.float32))
    pool = pickle.loads(pickle.dumps(source(tmp_path)))
    assert everything(pool)[0] == ["0", "1"]
    with pytest.raises(ModalityError, match="no samples"):
        pool.read(pool.parts()[0])


def test_a_header_that_does_not_end_and_a_page_that_is_none(tmp_path):
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4".ljust(117) + b"\n"
    (tmp_path / "x.npy").write_bytes(b"\x93NUMPY\x01\x00v\x00" + header + bytes(48))
    with pytest.raises(ModalityError, match=r"x\.npy cannot be read as \.npy"):
        EmbeddingsSource(list_files(str(tmp_path / "x.npy")))
    rows = [[float(row)] * 4 for row in range(50)]
    pq.write_table(
        pa.table({"embedding": rows, "id": [str(row) for row in range(50)]}), tmp_path / "x.parquet"
    )
    content = bytearray((tmp_path / "x.parquet").read_bytes())
    content[4:60] = b"\xff" * 56
    (tmp_path / "x.parquet").write_bytes(content)
    with pytest.raises(ModalityError, match=r"x\.parquet cannot be read as Parquet"):
        EmbeddingsSource(list_files(str(tmp_path / "x.parquet")))
