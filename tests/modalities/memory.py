"""How much memory does a piece of a test take?"""

import gc
from contextlib import contextmanager
from pathlib import Path


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
