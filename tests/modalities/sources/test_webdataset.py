import gzip
import json
import pickle
import tarfile
import tracemalloc

import numpy as np
import pyarrow as pa
import pytest
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st

from modalities.base import ModalityError
from modalities.image import Image
from modalities.sources import WebDatasetSource
from modalities.sources.paths import list_files
from modalities.text import Text

from .tars import special, tar_of


def source(path, modality=None, column=None, id_column=None, **options):
    return WebDatasetSource(list_files(str(path)), modality or Image(), column, id_column, **options)


def everything(pool):
    return [record for part in pool.parts() for record in pool.read(part)]


def zstd(data):
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


PACKINGS = {".tar": bytes, ".tar.gz": gzip.compress, ".tgz": gzip.compress, ".tar.zst": zstd}


@settings(max_examples=60)
@given(
    sizes=st.lists(st.integers(0, 1500), min_size=1, max_size=30),
    form=st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
    packing=st.sampled_from(sorted(PACKINGS)),
    part_rows=st.integers(1, 12),
    long=st.booleans(),
    data=st.data(),
)
def test_every_sample_comes_once_in_whatever_order_parts_are_read(
    sizes, form, packing, part_rows, long, data, tmp_path_factory
):
    folder = ("very long/" * 12 if long else "") + "train/"
    found = []
    for row, size in enumerate(sizes):
        found += [(f"{folder}{row:04}.json", b"{}"), (f"{folder}{row:04}.PNG", bytes([row]) * size)]
    path = tmp_path_factory.mktemp("pool") / f"x{packing}"
    path.write_bytes(PACKINGS[packing](tar_of(found, form)))
    pool = source(path, part_rows=part_rows)
    parts = pool.parts()
    read = {part.index: list(pool.read(part)) for part in data.draw(st.permutations(parts))}
    records = [record for part in parts for record in read[part.index]]
    assert [r.payload for r in records] == [bytes([row]) * size for row, size in enumerate(sizes)]
    assert [r.id for r in records] == [f"x{packing}#{folder}{row:04}" for row in range(len(sizes))]
    assert all(len(found) <= part_rows for found in read.values())
    assert len({r.id for part in parts for r in pool.unread(part, "No.")}) == len(sizes)


def test_the_member_that_is_the_sample(tmp_path):
    about = json.dumps({"text": "from json", "n": 7, "caption": "other"}).encode()
    members = [
        *(("a/1.left.jpg", b"left"), ("a/1.jpg", b"whole"), ("a/1.txt", b"caption"), ("a/1.json", about)),
        *(("./2.seg.png", b"seg"), ("2.json", about)),
        *(("README", b"no sample"), ("a/.hidden.jpg", b"x"), ("__meta__", b"x"), ("3.cls", b"0")),
    ]
    (tmp_path / "x.tar").write_bytes(tar_of(members))
    images = everything(source(tmp_path))
    assert [(r.id, r.payload) for r in images] == [
        ("x.tar#a/1", b"whole"), ("x.tar#2", b"seg"), ("x.tar#3", None),
    ]  # fmt: skip
    assert ".cls" in images[2].reason
    assert images[0].uri == f"{tmp_path}/x.tar#a/1"
    left = everything(source(tmp_path, column="left.jpg"))
    assert [r.payload for r in left] == [b"left", None, None]
    texts = everything(source(tmp_path, Text()))
    assert [r.payload for r in texts] == [b"caption", b"from json", None]
    chosen = everything(source(tmp_path, Text(), column="caption", id_column="n"))
    assert [(r.id, r.payload) for r in chosen[:2]] == [("7", b"other"), ("7", b"other")]
    assert chosen[2].payload is None
    assert [r.id for r in everything(source(tmp_path, id_column="__key__"))] == ["a/1", "2", "3"]


def test_the_folder_of_a_tar_is_in_its_ids(tmp_path):
    for name in ("a/b/x.tar", "a/x.tar", "x.tar"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(tar_of([("c/1.jpg", name.encode())]))
    records = everything(source(tmp_path))
    assert {r.id: r.payload.decode() for r in records} == {
        "a/b/x.tar#c/1": "a/b/x.tar", "a/x.tar#c/1": "a/x.tar", "x.tar#c/1": "x.tar",
    }  # fmt: skip
    assert [r.uri for r in records] == [f"{tmp_path}/{r.id}" for r in records]


def test_names_are_only_names(tmp_path):
    outside = tmp_path / "out.jpg"
    outside.write_bytes(b"secret")
    pool = tmp_path / "pool"
    pool.mkdir()
    names = ["../out.jpg", "/etc/passwd.jpg", "a/../../out.jpg", str(outside)]
    (pool / "x.tar").write_bytes(tar_of([(name, name.encode()) for name in names]))
    records = everything(source(pool))
    assert [r.payload for r in records] == [name.encode() for name in names]
    assert [r.id for r in records] == [f"x.tar#{name.removesuffix('.jpg')}" for name in names]
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["out.jpg", "pool", "x.tar"]


def test_what_is_no_regular_file_is_rejected_by_name(tmp_path):
    sparse = tarfile.TarInfo("sparse.jpg")
    sparse.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "9" * 12}
    members = [
        (special("folder", tarfile.DIRTYPE), None),
        (special("link.jpg", tarfile.SYMTYPE, "/etc/passwd"), None),
        (special("hard.jpg", tarfile.LNKTYPE, "link.jpg"), None),
        (special("device.jpg", tarfile.CHRTYPE), None),
        (special("pipe.jpg", tarfile.FIFOTYPE), None),
        (sparse, b"0\n" + bytes(600)),
        ("good.jpg", b"good"),
        (special("both.json", tarfile.SYMTYPE, "x"), None),
        ("both.jpg", b"both"),
        ("twice.jpg", b"1"),
        ("twice.JPG", b"2"),
    ]
    (tmp_path / "x.tar").write_bytes(tar_of(members))
    records = {r.id.partition("#")[2]: r for r in everything(source(tmp_path))}
    assert {key: r.payload for key, r in records.items() if r.payload} == {"good": b"good", "both": b"both"}
    reasons = {key: r.reason for key, r in records.items() if not r.payload}
    assert {"link", "hard"} <= {key for key, reason in reasons.items() if "link" in reason}
    assert {"device", "pipe"} == {key for key, reason in reasons.items() if "device" in reason}
    assert "sparse" in reasons["sparse"]
    assert "two members" in reasons["twice"]
    assert "link" in {r.id: r.reason for r in everything(source(tmp_path, id_column="n"))}["x.tar#both"]


def test_a_sparse_file_of_gnu_tar_is_passed_over(tmp_path):
    block = bytearray(tarfile.TarInfo("holes.jpg").tobuf(tarfile.GNU_FORMAT))
    block[156:157] = tarfile.GNUTYPE_SPARSE
    block[482] = 1
    block[148:156] = b"        "
    block[148:156] = b"%06o\0 " % sum(block)
    more = bytearray(512)
    more[504] = 1
    content = bytes(block) + bytes(more) + bytes(512) + tar_of([("good.jpg", b"good")])
    (tmp_path / "x.tar").write_bytes(content)
    records = everything(source(tmp_path))
    assert [(r.id, r.payload) for r in records] == [("x.tar#holes", None), ("x.tar#good", b"good")]


@pytest.mark.parametrize("packing", sorted(PACKINGS))
def test_of_a_tar_that_is_cut_what_is_whole_is_kept(tmp_path, packing):
    random = np.random.default_rng(0).bytes(3000)
    found = [(f"{row:03}.{kind}", random[row:]) for row in range(200) for kind in ("jpg", "json")]
    whole = PACKINGS[packing](tar_of(found))
    (tmp_path / f"x{packing}").write_bytes(whole[: len(whole) // 2])
    records = everything(source(tmp_path, part_rows=20))
    *kept, last = records
    assert len(kept) > (50 if packing == ".tar" else 5)
    assert [r.payload for r in kept] == [random[row:] for row in range(len(kept))]
    assert last.payload is None
    assert "cut off" in last.reason
    assert last.id == f"x{packing}#{len(kept)}"


def test_a_tar_cut_anywhere_loses_nothing_silently(tmp_path):
    found = [(f"{row}.{kind}", b"%d" % row * 99) for row in range(4) for kind in ("jpg", "json")]
    whole = tar_of(found, end=False)
    for cut in range(1, len(whole), 97):
        (tmp_path / "x.tar").write_bytes(whole[:cut])
        *kept, last = everything(source(tmp_path))
        assert [r.payload for r in kept] == [b"%d" % row * 99 for row in range(len(kept))]
        assert len(kept) >= cut // 2048 - 1
        assert last.payload is None
        assert last.reason


def test_a_tar_without_its_end_mark_is_told(tmp_path):
    (tmp_path / "x.tar").write_bytes(tar_of([("a.jpg", b"a")], end=False))
    assert [bool(r.payload) for r in everything(source(tmp_path))] == [True, False]


def header(name=b"b.jpg", size=b"00000000000", kind=b"0"):
    block = bytearray(512)
    block[: len(name)], block[124 : 124 + len(size)], block[156:157] = name, size, kind
    block[148:156] = b"        "
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


@pytest.mark.parametrize(
    "middle",
    [
        b"\xff" * 512,
        header(size=b"\xff" * 11 + b"\x00"),  # below zero: it would be read again and again
        header(size=b"\x80" + b"\x7f" * 11),
        header(kind=b"x", size=b"77777777777"),
        header(kind=b"L", size=b"77777777777"),
        header(kind=b"x", size=b"00000000010") + b"0 a=bcd\n".ljust(512, b"\0"),
        header(kind=b"x", size=b"00000000010") + b"9 a=bcd\n".ljust(512, b"\0"),
        header(kind=b"x", size=b"00000000014") + b"12 size=-99\n".ljust(512, b"\0"),
        header(kind=b"x", size=b"00000000000"),
    ],
)
def test_a_damaged_header_costs_the_rest(tmp_path, middle):
    content = tar_of([("a.jpg", b"a")], end=False) + middle + bytes(1024)
    (tmp_path / "x.tar").write_bytes(content)
    records = everything(source(tmp_path))
    assert [r.payload for r in records] == [b"a", None]
    assert records[1].reason.endswith(".")


def test_names_that_are_not_utf8(tmp_path):
    name = b"caf\xe9.jpg".decode("utf-8", "surrogateescape")
    (tmp_path / "x.tar").write_bytes(tar_of([(name, b"x"), ("b.jpg", b"b")], tarfile.GNU_FORMAT))
    records = everything(source(tmp_path))
    assert [(r.id, r.payload) for r in records] == [("x.tar#0", None), ("x.tar#b", b"b")]
    assert "UTF-8" in records[0].reason


def test_ids_from_the_json_member(tmp_path):
    bad = ["{", '{"n": null}', '{"n": true}', '{"n": "\\ud800"}', "[1]", "", '{"m": 1}', '{"n": "ok"}']
    members = [
        pair for i, text in enumerate(bad) for pair in ((f"{i}.jpg", b"x"), (f"{i}.json", text.encode()))
    ]
    (tmp_path / "x.tar").write_bytes(tar_of([*members, ("9.jpg", b"x")]))
    records = everything(source(tmp_path, id_column="n"))
    assert [r.id for r in records if r.payload] == ["ok"]
    assert len(records) == len(bad) + 1
    assert all(r.reason.endswith(".") for r in records if not r.payload)


def test_a_sample_above_the_limit_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(WebDatasetSource, "sample_bytes", 4096)
    monkeypatch.setattr("modalities.sources.runs.PART_BYTES", 2048)
    sizes = [10, 10, 9000, 10, 3000]
    (tmp_path / "x.tar").write_bytes(tar_of([(f"{i}.jpg", bytes(n)) for i, n in enumerate(sizes)]))
    records = everything(source(tmp_path))
    assert [r.payload is not None for r in records] == [True, True, False, True, True]
    assert "more than 4,096 bytes" in records[2].reason


def test_a_bomb_is_inflated_a_block_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(WebDatasetSource, "sample_bytes", 64 * 2**20)
    big = tarfile.TarInfo("big.jpg")
    big.size = 100 * 2**20
    content = big.tobuf() + bytes(big.size) + tar_of([("a.jpg", b"a")])
    (tmp_path / "x.tgz").write_bytes(gzip.compress(content, 1))
    tracemalloc.start()
    records = everything(source(tmp_path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [r.payload for r in records] == [None, b"a"]
    assert "more than" in records[0].reason
    assert peak < 8 * 2**20


def test_a_file_that_shrank_or_went_is_rejected_sample_by_sample(tmp_path):
    path = tmp_path / "x.tar"
    path.write_bytes(tar_of([(f"{i}.jpg", b"x") for i in range(3)]))
    pool = source(path)
    (part,) = pool.parts()
    path.write_bytes(tar_of([("0.jpg", b"x")], end=False))
    assert [bool(r.reason) for r in pool.read(part)] == [True] * 3
    path.write_bytes(tar_of([("0.jpg", b"x" * 2000), ("1.jpg", b"x" * 2000)]))
    assert [bool(r.reason) for r in pool.read(part)] == [True] * 3
    path.unlink()
    assert [bool(r.reason) for r in pool.read(part)] == [True] * 3


def test_an_empty_tar_is_no_pool(tmp_path):
    (tmp_path / "x.tar").write_bytes(tar_of([]))
    with pytest.raises(ModalityError, match="pool is empty"):
        source(tmp_path).parts()


def test_braces_name_shards(tmp_path):
    for i in range(12):
        (tmp_path / f"s-{i:03}.tar").write_bytes(tar_of([("a.jpg", b"%d" % i)]))
    found = everything(source(tmp_path / "s-{009..011}.tar"))
    assert [(r.id, r.payload) for r in found] == [
        ("s-009.tar#a", b"9"), ("s-010.tar#a", b"10"), ("s-011.tar#a", b"11"),
    ]  # fmt: skip
    with pytest.raises(ModalityError, match=r"s-012\.tar.*not there"):
        source(tmp_path / "s-{009..012}.tar")


def test_it_travels(tmp_path):
    (tmp_path / "x.tgz").write_bytes(gzip.compress(tar_of([(f"{i}.jpg", b"x") for i in range(5)])))
    pool = source(tmp_path, part_rows=2)
    copy = pickle.loads(pickle.dumps(pool))
    assert copy.parts() == pool.parts()
    assert everything(copy) == everything(pool)


def test_webdataset_itself_reads_the_same(tmp_path):
    content = tar_of([(f"d/{i}.{kind}", b"%d" % i) for i in range(9) for kind in ("jpg", "cls")])
    (tmp_path / "x.tar").write_bytes(content)
    theirs = webdataset.WebDataset(str(tmp_path / "x.tar"), shardshuffle=False)
    ours = everything(source(tmp_path, id_column="__key__"))
    assert [(s["__key__"], s["jpg"]) for s in theirs] == [(r.id, r.payload) for r in ours]
