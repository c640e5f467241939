"""Exact sums added up between the point shards themselves, over NCCL between GPUs or gloo between CPUs.

Without it every shard puts its sums into the object store and a centroid shard adds them up: w k d 8 bytes
written and read for w shards. A reduction sends them once around, from GPU to GPU. They are integers, so the
result is the same.

Shards must meet in the same reduction. Each call carries a ticket (which group, which call); a shard that has
another one, because it was restarted or tried again, leaves the group. Its connections close, which the
others notice, and a group of all is formed again.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from curation.errors import WorkerRestartedError
from curation.points import Partial

if TYPE_CHECKING:
    from curation.actors import Ticket

Backend = Literal["nccl", "gloo"]

_TIMEOUT = timedelta(minutes=10)
"""A shard that is silent for so long is given up: more than a pass over its points takes."""
_MEETING = timedelta(minutes=1)
"""For so long the others knock where rank 0 has said that it listens."""


class Group:
    """A shard's place in a group of shards that add up their sums.

    Args:
        number: Of the group.
        rank: Of this shard.
        size: Shards in the group.
        backend: Who carries the sums.
        address: Where rank 0 listens: host and port.
        store: What rank 0 listens with; None for the others.
    """

    def __init__(
        self,
        number: int,
        rank: int,
        size: int,
        backend: Backend,
        address: tuple[str, int],
        store: TCPStore | None,
    ) -> None:
        self.number, self.rank, self.size, self.done = number, rank, size, 0
        self.device = torch.device("cuda", torch.cuda.current_device()) if backend == "nccl" else "cpu"
        self._open = True
        try:
            here = store or TCPStore(*address, is_master=False, timeout=_MEETING)
            here.set_timeout(_TIMEOUT)  # NCCL's shards meet in it once more, after their first pass
            dist.init_process_group(backend, store=here, rank=rank, world_size=size, timeout=_TIMEOUT)
        except (RuntimeError, ValueError) as error:
            raise WorkerRestartedError(f"the shards could not meet: {error}") from error

    def reduced(self, ticket: Ticket, answer: Any) -> Any:
        """An answer whose `Partial`s are sums over all shards, at one shard each, and None at the others.

        Args:
            ticket: Of the call.
            answer: What a method of a block returned: a `Partial`, or a tuple with some.

        Raises:
            WorkerRestartedError: Another shard was lost, or this one was.
        """
        if ticket != (self.number, self.done) or not self._open:
            self.leave()
            raise WorkerRestartedError(
                f"this shard has made {self.done} reductions, and {ticket} is asked for"
            )
        self.done += 1
        try:
            if isinstance(answer, Partial):
                return self._at(0, answer)
            index = [i for i, part in enumerate(answer) if isinstance(part, Partial)]
            added = {i: self._at(place % self.size, answer[i]) for place, i in enumerate(index)}
            return tuple(added.get(i, part) for i, part in enumerate(answer))
        except RuntimeError as error:
            self.leave()
            raise WorkerRestartedError(f"a shard was lost while sums were added up: {error}") from error

    def _at(self, rank: int, part: Partial) -> Partial | None:
        added = [None if column is None else self._added(rank, column) for column in part]
        return Partial(*added) if self.rank == rank else None  # type: ignore[arg-type]

    def _added(self, rank: int, column: NDArray[np.int64]) -> NDArray[np.int64]:
        values = torch.from_numpy(np.ascontiguousarray(column)).to(self.device)
        dist.reduce(values, dst=rank, op=dist.ReduceOp.SUM)
        total: NDArray[np.int64] = values.cpu().numpy()
        return total

    def leave(self) -> None:
        """Closes this shard's connections; the others' next reduction fails."""
        if self._open:
            self._open = False
            dist.destroy_process_group()


def listen(host: str) -> TCPStore:
    """Has this process be where a group meets, at an address of this machine; the port is its choice."""
    return TCPStore(host, 0, is_master=True, timeout=_TIMEOUT, wait_for_workers=False)
