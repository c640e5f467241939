import os
import pickle
import sys
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import _registry
from hypothesis import given
from hypothesis import strategies as st

import modalities
from modalities.base import ModalityError, Part
from modalities.image import Image
from modalities.sources import FilesSource, open_source
from modalities.sources.files import PART_BYTES
from modalities.sources.paths import expand_braces, list_files
from modalities.text import Text


def write(root, **files):
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def names(path):
    return [file.name for file in list_files(path).files]


def everything(source):
    return [record for part in source.parts() for record in source.read(part)]


@pytest.fixture
def tree(tmp_path):
    write(
        tmp_path,
        **{
            "b/2.png": b"2",
            "a.PNG": b"a",
            "b/1.jpg": b"1",
            ".hidden/x.png": b"x",
            "b/.y.png": b"y",
            "c.csv": b"c",
        },
    )
    return tmp_path


def test_a_folder_is_listed_sorted_without_hidden_files(tree):
    assert names(str(tree)) == ["a.PNG", "b/1.jpg", "b/2.png", "c.csv"]


def test_suffixes_are_case_insensitive_and_others_are_no_samples(tree):
    records = everything(open_source("files", str(tree), column=None, id_column=None, modality=Image()))
    assert [(r.id, r.payload) for r in records] == [("a.PNG", b"a"), ("b/1.jpg", b"1"), ("b/2.png", b"2")]
    assert records[0].uri == str(tree / "a.PNG")


def test_globs_lists_and_single_files(tree, tmp_path_factory):
    assert names(f"{tree}/b/*.png") == ["2.png"]
    assert names(f"{tree}/**/*.jpg") == ["b/1.jpg"]
    assert names([f"{tree}/b", f"{tree}/a.PNG"]) == ["a.PNG", "b/1.jpg", "b/2.png"]
    assert names([f"{tree}/b", f"{tree}/b/1.jpg"]) == ["1.jpg", "2.png"]
    assert names(f"{tree}/c.csv") == ["c.csv"]
    assert list_files(f"{tree}/c.csv").single
    other = tmp_path_factory.mktemp("brackets[1]")
    write(other, **{"x.png": b"x"})
    assert names(str(other)) == ["x.png"]


def test_a_named_file_is_a_sample_whatever_its_suffix(tree):
    records = everything(open_source("files", f"{tree}/c.csv", column=None, id_column=None, modality=Text()))
    assert [r.id for r in records] == ["c.csv"]


@pytest.mark.parametrize("path", ["nowhere", "nowhere/*.png", "*.nothing", "", []])
def test_what_is_not_there_is_named(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModalityError, match=r"source\.path"):
        list_files(path)


def test_an_unknown_filesystem_is_named():
    with pytest.raises(ModalityError, match="nosuch://"):
        list_files("nosuch://bucket/pool")


class Bucket(MemoryFileSystem):
    """As clients of object stores are: a path begins with its bucket, and not with a slash."""

    root_marker = ""

    @classmethod
    def _strip_protocol(cls, path):
        return super(MemoryFileSystem, cls)._strip_protocol(path)


@pytest.mark.parametrize(("protocol", "place"), [("gs", "bucket"), ("hf", "datasets/me/birds")])
def test_a_pool_under_the_address_of_a_store(protocol, place, tree, monkeypatch):
    """By a stand-in for the client of the store, which alone knows its network."""
    client = type("Client", (Bucket,), {"protocol": protocol, "store": {}, "pseudo_dirs": [""]})
    monkeypatch.setitem(_registry, protocol, client)  # fsspec.register_implementation cannot be undone
    url = f"{protocol}://{place}/pool"
    client().pipe({f"{url}/{name}": (tree / name).read_bytes() for name in names(str(tree))})
    client().pipe(f"{url}/.hidden/x.png", b"x")
    for path, ids in {url: ["a.PNG", "b/1.jpg", "b/2.png"], f"{url}/b/*.png": ["2.png"]}.items():
        records = everything(modalities.source("auto", path, modality=Image()))
        assert [r.id for r in records] == ids
        folder = path.removesuffix("/*.png")
        assert [r.uri for r in records] == [f"{folder}/{id}" for id in ids]
        assert all(r.payload == client().cat(r.uri) for r in records)
    table = tree / "table"
    table.mkdir()
    (table / "x.jsonl").write_text(f'{{"url": "{url}/b/2.png"}}\n{{"url": "{url}/b/3.png"}}\n')
    found = everything(modalities.source("jsonl", str(table), column="url", modality=Image()))
    assert [(r.payload, r.reason) for r in found] == [
        (b"2", None), (None, "The file is gone, or is no regular file."),
    ]  # fmt: skip


def test_a_store_whose_client_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    monkeypatch.delitem(_registry, "gs", raising=False)
    with pytest.raises(
        ModalityError, match=r"source\.path 'gs://bucket/pool' cannot be opened: .*install gcsfs"
    ):
        list_files("gs://bucket/pool")


def test_an_empty_pool_is_an_error(tmp_path):
    for fmt in ("auto", "files", "parquet", "jsonl", "embeddings"):
        with pytest.raises(ModalityError, match=r"pool is empty|neither a \.npy nor"):
            open_source(fmt, str(tmp_path), column=None, id_column=None, modality=Image()).parts()


def test_ids_do_not_depend_on_where_the_pool_lies(tree):
    memory = fsspec.filesystem("memory")
    memory.pipe({f"/pool/{name}": (tree / name).read_bytes() for name in names(str(tree))})
    memory.pipe("/pool/.hidden/x.png", b"x")
    here = open_source("files", str(tree), column=None, id_column=None, modality=Image())
    there = open_source("files", "memory://pool", column=None, id_column=None, modality=Image())
    assert here.parts() == there.parts()
    assert [(r.id, r.payload) for r in everything(here)] == [(r.id, r.payload) for r in everything(there)]
    memory.rm("/pool", recursive=True)


@given(
    sizes=st.lists(st.integers(0, PART_BYTES * 3 // 2), min_size=1, max_size=60), part_rows=st.integers(1, 20)
)
def test_parts_keep_order_and_bounds(sizes, part_rows, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sparse")
    for row, size in enumerate(sizes):
        with (folder / f"{row:03}.png").open("wb") as file:
            file.truncate(size)
    parts = FilesSource(list_files(str(folder)), [".png"], part_rows).parts()
    assert [name for part in parts for name in part.spec["files"]] == [
        f"{r:03}.png" for r in range(len(sizes))
    ]
    assert [part.index for part in parts] == list(range(len(parts)))
    for part in parts:
        rows = [int(name[:3]) for name in part.spec["files"]]
        assert 1 <= len(rows) <= part_rows
        assert len(rows) == 1 or sum(sizes[row] for row in rows) <= PART_BYTES


def test_a_file_that_vanished_or_may_not_be_read_costs_only_itself(tree):
    source = open_source("files", str(tree), column=None, id_column=None, modality=Image())
    parts = source.parts()
    (tree / "b" / "1.jpg").unlink()
    os.mkfifo(tree / "b" / "1.jpg")  # opening a pipe would wait for ever
    (tree / "a.PNG").unlink()
    reasons = [record.reason for record in source.read(parts[0])]
    assert [bool(reason) for reason in reasons] == [True, True, False]
    assert all(reason.endswith(".") for reason in reasons[:2])


def test_a_pipe_and_a_link_in_a_circle_are_no_samples(tree):
    os.mkfifo(tree / "pipe.png")
    (tree / "b" / "circle").symlink_to(tree)
    (tree / "link.png").symlink_to(tree / "a.PNG")
    assert "pipe.png" not in names(str(tree))
    assert "link.png" in names(str(tree))
    assert len(names(str(tree))) == 5


def test_a_name_that_is_not_utf8_is_rejected_by_an_escaped_id(tmp_path):
    with open(os.fsencode(tmp_path) + b"/caf\xe9.png", "wb") as file:  # noqa: PTH123 - bytes
        file.write(b"x")
    (record,) = everything(open_source("files", str(tmp_path), column=None, id_column=None, modality=Image()))
    assert record.payload is None
    assert "UTF-8" in record.reason
    record.id.encode()
    record.uri.encode()


def test_a_source_travels_without_its_listing(tree):
    source = open_source("files", str(tree), column=None, id_column=None, modality=Image())
    copy = pickle.loads(pickle.dumps(source))
    assert b"a.PNG" not in pickle.dumps(source)
    assert copy.parts() == source.parts()
    part = Part(0, {"files": ["b/2.png"]})
    assert next(iter(copy.read(part))).payload == b"2"


@pytest.mark.parametrize(
    ("path", "made"),
    [
        ("a{1..3}", ["a1", "a2", "a3"]),
        ("a{08..10}.tar", ["a08.tar", "a09.tar", "a10.tar"]),
        ("{2..0}", ["2", "1", "0"]),
        ("{a,b}/{0..1}", ["a/0", "a/1", "b/0", "b/1"]),
        ("x{a,}", ["xa", "x"]),
        ("{a}", ["{a}"]),
        ("{}{a}{1..2}", ["{}{a}1", "{}{a}2"]),
        ("plain", ["plain"]),
    ],
)
def test_braces_are_those_of_a_shell(path, made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert expand_braces(path) == made


def test_braces_stand_for_a_bounded_number_of_paths():
    with pytest.raises(ModalityError, match="more than"):
        expand_braces("{0..999999999}")
    with pytest.raises(ModalityError, match="more than"):
        expand_braces("{0..9999}{0..9999}")


def test_a_folder_that_has_braces_in_its_name_is_that_folder(tmp_path):
    write(tmp_path, **{"{a,b}/1.png": b"x"})
    assert names(f"{tmp_path}/{{a,b}}") == ["1.png"]


def test_files_by_key(tree):
    write(tree, **{"b/3.tar.png": b"3"})
    source = open_source("files", str(tree), column=None, id_column="__key__", modality=Image())
    assert [r.id for r in everything(source)] == ["a", "b/1", "b/2", "b/3"]


def test_links_that_lead_nowhere_are_rejected_by_name(tree):
    (tree / "circle.png").symlink_to("circle.png")
    (tree / "x.png").symlink_to("y.png")
    (tree / "y.png").symlink_to("x.png")
    (tree / "dangling.png").symlink_to("nothing")
    (tree / "good.png").symlink_to("b/2.png")
    (tree / "folder.png").symlink_to("b")
    for path, others in [(tree, {"a.PNG", "b/1.jpg", "b/2.png"}), (f"{tree}/*.png", set())]:
        source = open_source("files", str(path), column=None, id_column=None, modality=Image())
        records = {record.id: record for record in everything(source)}
        assert {id for id, record in records.items() if record.payload} == {"good.png", *others}
        rejected = {id: record.reason for id, record in records.items() if not record.payload}
        assert rejected.keys() == {"circle.png", "x.png", "y.png", "dangling.png"}
        assert set(rejected.values()) == {"The file is gone, or is no regular file."}


@contextmanager
def somebody():
    """Where this process is root's, nobody: root may read everything."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_what_may_not_be_read_is_rejected_by_name():
    with TemporaryDirectory() as folder:  # nobody may look into a folder of pytest
        Path(folder).chmod(0o755)
        write(Path(folder), **{"a.png": b"a", "b.png": b"b", "c.png": b"c"})
        (Path(folder) / "b.png").chmod(0)
        with somebody():
            source = open_source("files", folder, column=None, id_column=None, modality=Image())
            records = everything(source)
    assert [record.payload for record in records] == [b"a", None, b"c"]
    assert records[1].reason == "The file may not be read (permission denied)."


def test_a_folder_that_may_not_be_listed_is_named():
    with TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        write(Path(folder), **{"a.png": b"a", "b/c.png": b"c"})
        (Path(folder) / "b").chmod(0)
        with somebody(), pytest.raises(ModalityError, match=rf"{folder}/b.*"):
            list_files(folder)
        (Path(folder) / "b").chmod(0o755)
