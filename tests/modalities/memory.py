"""How much memory does a piece of a test take, and how much does it read of a file that is far away?"""

import gc
from contextlib import contextmanager
from pathlib import Path

import fsspec


def memory(key):
    """Bytes of this process: VmRSS is what it has, VmHWM the most since it was told to forget."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key)]
    return int(line.split()[1]) * 1024


@contextmanager
def grown():
    """Yields what tells, inside and afterwards, how many bytes this process had more at most than before."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    before = memory("VmRSS")
    yield lambda: memory("VmHWM") - before


@contextmanager
def far_away(url, file):
    """Puts a file to a ``memory://`` address; yields the bytes that each read there got, as they come."""
    fs = fsspec.filesystem("memory")
    fs.pipe(url, Path(file).read_bytes())
    read = []
    cls = type(fs.open(url))
    original = cls.read
    try:
        cls.read = lambda self, *a: read.append(len(got := original(self, *a))) or got
        yield read
    finally:
        cls.read = original
        fs.rm(url)
