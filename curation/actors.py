"""What runs in the actors of `curation.shards`: blocks of points, slices of centroids, readers of points."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import ray
from numpy.typing import NDArray

from curation import centroids as centroid_slices
from curation.assign import Assigner
from curation.chance import centroid_keys
from curation.checkpoint import Checkpoint
from curation.errors import WorkerRestartedError
from curation.kept import KeptBlock
from curation.rows import StoredRows
from curation.workers import Handle, LocalWorkers

if TYPE_CHECKING:
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    from curation.collective import Backend, Group


class Ticket(NamedTuple):
    """Names a reduction.

    Attributes:
        group: Number of the group, which is a new one after a shard was lost.
        call: Number of the call in that group, from 0.
    """

    group: int
    call: int


class PointShard:
    """A `KeptBlock` in an actor of its own; a restart reads its points again."""

    def __init__(self, reader: Sequence[Handle], assigner: Assigner) -> None:
        rows, keys = ray.get(reader[0])()
        self.block = KeptBlock(rows, keys, assigner)
        self.group: Group | None = None
        self.meeting: TCPStore | None = None

    def place(self) -> str:
        """The machine that it is on."""
        return str(ray.get_runtime_context().get_node_id())

    def call(self, method: str, *args: Any) -> Any:
        """Calls a method of the block."""
        return getattr(self.block, method)(*args)

    def call_together(self, ticket: Ticket, method: str, *args: Any) -> Any:
        """Calls a method of the block and adds up its sums with those of the other shards."""
        if self.group is None:
            raise WorkerRestartedError("this shard is in no group")
        return self.group.reduced(ticket, self.call(method, *args))

    def listen(self) -> tuple[str, int]:
        """Leaves its group, and is where the next one meets: the address."""
        from curation.collective import listen  # torch takes a while

        self.leave()
        self.meeting = listen(ray.util.get_node_ip_address())
        return self.meeting.host, self.meeting.port

    def join(self, number: int, rank: int, size: int, backend: Backend, address: tuple[str, int]) -> None:
        """Joins a group; all shards do at a time."""
        from curation.collective import Group

        self.leave()
        if rank == 0 and self.meeting is None:
            raise WorkerRestartedError("the shard where the others meet was lost before they met")
        store = self.meeting if rank == 0 else None
        self.group = Group(number, rank, size, backend, address, store)

    def leave(self) -> None:
        """Leaves its group, if it is in one."""
        if self.group is not None:
            self.group.leave()
            self.group = None

    def discard(self) -> None:
        """Deletes the file of its rows, if that is where they are; no call may follow."""
        rows = self.block.everything.rows
        if isinstance(rows, StoredRows):
            shutil.rmtree(rows.path.parent, ignore_errors=True)

    def conduct(self, conductor: Callable[..., Any], *args: Any) -> Any:
        """Runs a level's conductor right here, over this block alone; its centroids come back apart."""
        workers = LocalWorkers([self.block])
        for arg in args:
            if isinstance(arg, Checkpoint):
                arg.rejoin(workers)
        grown, labels = conductor(workers, *args)
        centroids = np.concatenate(grown.slices)
        grown.slices = []
        return centroids, (grown, labels)


class CentroidShard:
    """The functions of `curation.centroids` in an actor of their own."""

    def call(self, function: str, *args: Any) -> Any:
        """Calls a function on a slice."""
        return getattr(centroid_slices, function)(*args)


class CentroidRows:
    """Reads rows low..high-1 of the centroids of a level as the points of the level above.

    Args:
        slices: The centroids.
        sizes: How many are in each slice.
        level: Their level.
        low: The first.
        high: The one after the last.
    """

    def __init__(
        self, slices: Sequence[Handle], sizes: Sequence[int], level: int, low: int, high: int
    ) -> None:
        edges = itertools.pairwise(np.cumsum([0, *sizes]).tolist())
        # references inside of a list: Ray passes them on as they are
        self.parts = [
            (part, max(0, low - start), high - start)
            for part, (start, end) in zip(slices, edges, strict=True)
            if start < high and low < end
        ]
        self.level, self.count, self.low, self.high = level, sum(sizes), low, high

    def __call__(self) -> tuple[NDArray[np.float32], NDArray[np.uint64]]:
        """The rows (m, d) and their keys (m, 2); of slices that others read as well, no more than that."""
        rows = np.concatenate([ray.get(part)[low:high] for part, low, high in self.parts])
        return rows, centroid_keys(self.level, self.count)[self.low : self.high].copy()
