"""How much memory is there for this process?"""

from __future__ import annotations

import os
from pathlib import Path


def memory_here() -> int:
    """Bytes of memory of this machine, or of the container in which this process runs."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    told = limit.read_text().strip() if limit.exists() else ""
    return min(memory, int(told)) if told.isdigit() else memory
