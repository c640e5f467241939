"""Who holds the points and the centroids of a fit: one process here, Ray actors in `shards`.

The algorithms (`seeding`, `batches`, `fit`, `swaps`, `splitting`, `hierarchy`) are written once against
`Workers`. What they pass around are handles: arrays here, object references on Ray; they look into
nothing but scalars and short lists.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from curation import centroids as centroid_slices
from curation.assign import Assigner
from curation.block import PointBlock
from curation.chance import centroid_keys, smallest
from curation.errors import CurationError, WorkerRestartedError

if TYPE_CHECKING:
    from curation.hierarchy import Grown

Handle = Any
T = TypeVar("T")
Monitor = Callable[[str, int, int], None]

FIT_DONE = "fit done"
"""The phase that is told after each k-means fit of a level."""

_ATTEMPTS = 20


class Workers(ABC):
    """Point workers that each hold a block, and centroid workers that each own a slice of the centroids.

    Attributes:
        n_slices: Number of centroid workers.
        monitor: Called with (phase, done, total) as a fit goes on.
    """

    n_slices: int = 1
    monitor: Monitor | None = None
    _entered: tuple[Any, ...] = ()
    _entered_by: Sequence[Handle] = ()

    @abstractmethod
    def points(
        self, method: str, *args: Any, own: Sequence[Handle] | None = None, returns: int = 1
    ) -> list[Any]:
        """Calls a method of `PointBlock` on every block; a handle (or `returns` handles) for each.

        Args:
            method: Name of the method.
            args: What all blocks get.
            own: What each block gets before that.
            returns: Handles that a call returns.
        """

    @abstractmethod
    def nobody(self) -> list[None]:
        """None for every block: an `own` for those that have nothing yet."""

    @abstractmethod
    def slice(self, index: int, function: str, *args: Any, returns: int = 1) -> Any:
        """Calls a function of `curation.centroids` on centroid worker `index`; handles as above."""

    @property
    def device(self) -> str:
        """Where centroid workers compute, see `curation.assign.Assigner`."""
        return "cpu"

    @abstractmethod
    def get(self, handles: Sequence[Handle]) -> list[Any]:
        """Values of handles.

        Raises:
            WorkerRestartedError: A worker lost its state on the way.
        """

    @abstractmethod
    def above(self, slices: list[Handle], level: int, count: int) -> Workers:
        """Workers whose points are the `count` centroids of a level; these let their own points go."""

    @abstractmethod
    def close(self) -> None:
        """Releases the workers."""

    def conduct(
        self, conductor: Callable[..., tuple[Grown, list[NDArray[np.int64]]]], *args: Any
    ) -> tuple[Grown, list[NDArray[np.int64]]]:
        """Runs the conductor of a level over these workers: here, or where one holds all points."""
        return conductor(self, *args)

    def enter(self, own: Sequence[Handle], view: str, *selection: Any) -> int:
        """Selects a view on every block (`PointBlock.select`) and remembers how; returns its points."""
        self._entered, self._entered_by = (view, *selection), own
        return self.attempt(self._select, lambda: None)

    def _select(self) -> int:
        told = self.points("select", *self._entered, own=self._entered_by)
        return sum(int(count) for count in self.get(told))

    def outgrown(self) -> str:
        """Why other workers should go on from here; empty if they need not."""
        return ""

    def leave(self) -> None:
        """Forgets the view entered last."""
        self._entered = self._entered_by = ()

    def gather(self, keys: NDArray[np.uint64]) -> list[Handle]:
        """Centroid slices made of the points with these keys (m, 2), in that order."""
        found = self.points("rows_of", keys)
        edges = slice_edges(len(keys), self.n_slices)
        return [
            self.slice(i, "gather", low, high, *found)
            for i, (low, high) in enumerate(itertools.pairwise(edges))
            if high > low
        ]

    def attempt(self, action: Callable[[], T], restore: Callable[[], Any]) -> T:
        """Does an action; when a worker has lost its state, restores it and does the action again."""
        lost: WorkerRestartedError | None = None
        for _ in range(_ATTEMPTS):
            try:
                if lost is not None:
                    self.recover()
                    restore()
                return action()
            except WorkerRestartedError as error:
                lost = error
        raise self.given_up(
            f"workers were lost {_ATTEMPTS} times during one step, the last time: {lost}; their logs say "
            "why; most often it is memory: give each of them less to hold, and run again"
        )

    def given_up(self, why: str) -> Exception:
        """What to raise where an action has failed again and again."""
        return CurationError(why)

    def ask(self, method: str, *args: Any, own: Sequence[Handle] | None = None) -> list[Any]:
        """What a method of `PointBlock` returns for every block; asks again where a worker was lost."""
        return self.attempt(lambda: self.get(self.points(method, *args, own=own)), lambda: None)

    def sizes(self, slices: Sequence[Handle]) -> list[int]:
        """Centroids in each slice."""
        return self.attempt(
            lambda: self.get([self.slice(i, "size", part) for i, part in enumerate(slices)]), lambda: None
        )

    def sample(self, word: int, count: int) -> NDArray[np.uint64]:
        """Keys (m, 2) of so many of all points, or of all there are, drawn by a salt."""
        told = self.get(self.points("sample", word, count))
        values, keys = (np.concatenate(column) for column in zip(*told, strict=True))
        chosen: NDArray[np.uint64] = keys[smallest(values, keys, count)]
        return chosen

    def known(self, method: str, *args: Any, own: Sequence[Handle]) -> list[Handle]:
        """Handles of what a method returns first, once all blocks have it: it returns a small thing second.

        An answer that nobody has waited for may be a worker's loss, which to ask again with is of no use.
        """
        told = self.points(method, *args, own=own, returns=2)
        self.get([small for _, small in told])
        return [handle for handle, _ in told]

    def recover(self) -> None:
        """Puts right what a lost worker has left: its view, for one."""
        if self._entered:
            self._select()

    def tick(self, phase: str, done: int, total: int) -> None:
        """Tells the monitor how far a phase has come."""
        if self.monitor is not None:
            self.monitor(phase, done, total)


class LocalWorkers(Workers):
    """One process: blocks of points as plain arrays, handles that are the values themselves.

    Args:
        blocks: The points.
        n_slices: Slices of the centroids; more than one only shows that it does not matter.
    """

    def __init__(self, blocks: Sequence[PointBlock], n_slices: int = 1) -> None:
        self.blocks = list(blocks)
        self.n_slices = n_slices

    def points(
        self, method: str, *args: Any, own: Sequence[Handle] | None = None, returns: int = 1
    ) -> list[Any]:
        """See `Workers.points`."""
        if own is None:
            return [getattr(block, method)(*args) for block in self.blocks]
        return [getattr(block, method)(mine, *args) for block, mine in zip(self.blocks, own, strict=True)]

    def nobody(self) -> list[None]:
        """See `Workers.nobody`."""
        return [None] * len(self.blocks)

    def slice(self, index: int, function: str, *args: Any, returns: int = 1) -> Any:
        """See `Workers.slice`."""
        return getattr(centroid_slices, function)(*args)

    def get(self, handles: Sequence[Handle]) -> list[Any]:
        """See `Workers.get`."""
        return list(handles)

    def above(self, slices: list[Handle], level: int, count: int) -> LocalWorkers:
        """See `Workers.above`."""
        block = PointBlock(np.concatenate(slices), centroid_keys(level, count), self.assigner)
        upper = LocalWorkers([block], self.n_slices)
        upper.monitor = self.monitor
        self.close()
        return upper

    @property
    def assigner(self) -> Assigner:
        """The assigner of the blocks."""
        return self.blocks[0].assigner

    @property
    def device(self) -> str:
        """See `Workers.device`."""
        return self.assigner.device

    def close(self) -> None:
        """See `Workers.close`."""
        self.blocks.clear()


def slice_edges(count: int, n_slices: int) -> list[int]:
    """Edges of `n_slices` nearly equal runs of `count` things."""
    return [count * i // n_slices for i in range(n_slices + 1)]
