"""A tree is walked in the order of its names, on a disk as in a store."""

import os
import posixpath
import subprocess
import tempfile
import time

import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given
from hypothesis import strategies as st

from modalities import packed
from modalities.base import ModalityError
from modalities.mapper import AT_ONCE
from modalities.sources.globs import Glob
from modalities.sources.paths import list_files
from modalities.sources.walk import order, walk

COMPONENT = st.text("ab.-0é/", min_size=1, max_size=3).filter(
    lambda name: "/" not in name and not name.startswith(".")
)
"""Bytes before and after the slash, which is what makes the order of paths unlike that of folders."""

TREES = st.sets(st.lists(COMPONENT, min_size=1, max_size=4).map("/".join), max_size=20).map(
    lambda names: {name for name in names if not any(other.startswith(f"{name}/") for other in names)}
)


def written(fs, root, names):
    for name in names:
        fs.makedirs(posixpath.dirname(f"{root}/{name}"), exist_ok=True)
        fs.pipe_file(f"{root}/{name}", name.encode())


@given(names=TREES, run=st.sampled_from([1, 3, 1000]))
def test_names_come_sorted_by_their_bytes(names, run):
    memory = MemoryFileSystem()
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr(packed, "RUN", run)
        written(LocalFileSystem(), folder, names)
        memory.mkdirs("/walked", exist_ok=True)
        written(memory, "/walked", names)
        expected = [(name, len(name.encode())) for name in sorted(names, key=order)]
        assert list(walk(LocalFileSystem(), folder)) == expected
        assert list(walk(memory, "/walked")) == expected
        memory.rm("/walked", recursive=True)


PATTERNS = (
    "*",
    "*/*",
    "**/*.a",
    "**",
    "a/**",
    "a*/**/b",
    "[ab]/?",
    "[!a]*",
    "a/*",
    "*/**/*-*",
    "a*",
    "*/a.*",
)


@given(names=TREES, pattern=st.sampled_from(PATTERNS))
def test_a_glob_is_that_of_fsspec(names, pattern):
    with tempfile.TemporaryDirectory() as folder:
        disk = LocalFileSystem()
        written(disk, folder, names)
        found = disk.glob(f"{folder}/{pattern}", detail=True)
        expected = {full for full, info in found.items() if info["type"] == "file"}
        glob = Glob(f"{folder}/{pattern}")
        walked = walk(disk, glob.root, glob) if disk.isdir(glob.root) else []
        assert {f"{glob.root}/{name}" for name, _ in walked} == expected


class Slow(MemoryFileSystem):
    """A store far away, which counts how it is asked and keeps what it was told, as s3fs does."""

    cachable = False

    def ls(self, path, detail=True, **kwargs):
        self.listed.append(path)
        time.sleep(0.05)
        self.kept[path] = found = super().ls(path, detail, **kwargs)
        return found

    def invalidate_cache(self, path=None):
        self.kept.pop(path, None)


@pytest.fixture
def slow(monkeypatch):
    monkeypatch.setattr(Slow, "listed", [], raising=False)
    monkeypatch.setattr(Slow, "kept", {}, raising=False)
    fs = Slow()
    yield fs
    MemoryFileSystem().rm("/far", recursive=True)


def test_folders_of_a_store_are_listed_many_at_a_time_and_forgotten(slow):
    names = [f"{i:03}/{j}.png" for i in range(4 * AT_ONCE) for j in range(3)]
    written(slow, "/far", names)
    slow.listed.clear()
    began = time.monotonic()
    assert [name for name, _ in walk(slow, "/far")] == names
    assert time.monotonic() - began < 0.05 * len(slow.listed) / 2
    assert len(slow.listed) == 1 + 4 * AT_ONCE
    assert slow.kept == {}


def test_only_folders_that_lead_to_what_is_meant_are_listed(slow):
    written(slow, "/far", [f"{year}/{month:02}/x.png" for year in (2023, 2024) for month in range(1, 13)])
    slow.listed.clear()
    glob = Glob("/far/2024/0*/*.png")
    assert len(list(walk(slow, glob.root, glob))) == 9
    assert len(slow.listed) == 10
    assert not any("2023" in path or "/1" in path for path in slow.listed)


def test_what_was_listed_ahead_is_bounded(slow):
    written(slow, "/far", [f"{i:03}/x.png" for i in range(8 * AT_ONCE)])
    slow.listed.clear()
    found = walk(slow, "/far")
    assert next(found)[0] == "000/x.png"
    time.sleep(0.3)
    assert len(slow.listed) <= 1 + 2 * AT_ONCE + 1
    found.close()


def test_objects_that_stand_for_folders_are_none_of_the_pool():
    class Store(MemoryFileSystem):
        cachable = False

        def ls(self, path, detail=True, **kwargs):
            marker = {"name": f"{path}/", "size": 0, "type": "file"}
            other = {"name": f"{path}/old/", "size": 0, "type": "file"}
            return [marker, other, *super().ls(path, detail, **kwargs)]

    fs = Store()
    written(fs, "/marked", ["a/1.png", "2.png"])
    assert [name for name, _ in walk(fs, "/marked")] == ["2.png", "a/1.png"]
    MemoryFileSystem().rm("/marked", recursive=True)


def test_a_deep_tree_is_no_recursion(tmp_path, request):
    deep, here = 1200, os.open(tmp_path, os.O_RDONLY)
    request.addfinalizer(lambda: subprocess.run(["rm", "-rf", f"{tmp_path}/d"], check=True))  # pytest cannot
    for _ in range(deep):  # one after the other: as one path it would be too long for some calls
        os.mkdir("d", dir_fd=here)
        inner = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(os.open("x.png", os.O_CREAT | os.O_WRONLY, dir_fd=here))
    os.close(here)
    assert [name for name, _ in walk(LocalFileSystem(), str(tmp_path))] == ["d/" * deep + "x.png"]


def test_a_pattern_that_means_nothing_is_named(tmp_path):
    with pytest.raises(ModalityError, match=r"a\*\*b.*is no pattern.*entire path component"):
        list_files(f"{tmp_path}/a**b/*.png")


def test_several_paths_are_one_sorted_pool_and_a_file_in_two_of_them_is_one(tmp_path):
    names = ["a/1.png", "a-/2.png", "b/x/3.png", "b/4.txt"]
    written(LocalFileSystem(), str(tmp_path), names)
    paths = [
        f"{tmp_path}/b",
        f"{tmp_path}/b/x/*.png",
        f"{tmp_path}/a",
        f"{tmp_path}/a-",
        f"{tmp_path}/b/4.txt",
    ]
    found = list_files(paths).files
    assert [file.name for file in found] == sorted(names, key=order)
    assert [file.name for file in found if file.named] == ["b/4.txt", "b/x/3.png"]
