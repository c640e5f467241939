"""What a fit that was killed goes on from: centroids, labels and a few numbers, saved now and then.

A checkpoint is a folder. ``header.json`` says where the fit stands, with a hash of what it says, and names
the arrays that belong to it; each array lies in a file that is named by the hash of its content, written
by the worker that has it. The header is replaced in one step and files that it does not name are deleted
afterwards, so that whenever the fit is killed there is a whole checkpoint, the last or the one before.
Labels and centroids are kept by their place in the whole list, whoever held them, so other workers, more
or fewer, can go on.

A checkpoint that belongs to another fit or is damaged is refused by name, and the fit starts afresh: a
checkpoint saves time, and no result depends on it.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curation.kept import Files, Kept, digest, read_array, write_array
from curation.points import EVERYTHING
from curation.workers import Handle, Workers, slice_edges

_CHEAP = 0.02  # of the time: what saving may take, if it is to be done more often than it was asked for
_SOON = 5.0  # seconds of a fit that may be lost in any case
FORMAT = 4
HEADER = "header.json"
DIGEST = "digest"
"""Key in the header: a hash of all the others, with their values."""


@dataclass
class Standing:
    """Where a k-means fit stands between two iterations: all that the next one follows from.

    Attributes:
        found: Centroids.
        slices: Handles of them.
        own: Labels, a handle a block; None where the next iteration does not ask for them.
        n_iter: Iterations made.
        objective: Before the last update, in units of 2^-48; None before the first.
        dissolved: Clusters (k,) whose centroid went elsewhere at the end of the last iteration.
        moved: How many were.
        swapped: Of the last iteration that swapped.
        swapping: Whether iterations swap at all.
        sure: Whether the next iteration has points look further off.
        few: Whether every iteration scans all centroids.
        seeds: Of a division (`curation.splitting`), the leaves of each coarse cluster (cells,).
    """

    found: int = 0
    slices: list[Handle] = field(default_factory=list)
    own: list[Handle] | None = None
    n_iter: int = 0
    objective: int | None = None
    dissolved: NDArray[np.bool_] | None = None
    moved: int = 0
    swapped: int = 0
    swapping: bool = True
    sure: bool = False
    few: bool = False
    seeds: NDArray[np.int64] | None = None


_HANDLES, _ARRAYS = ("slices", "own"), ("dissolved", "seeds")
_NUMBERS = [name for name in Standing.__dataclass_fields__ if name not in (*_HANDLES, *_ARRAYS)]


@dataclass(frozen=True)
class Step:
    """A step of a level that is under way.

    Attributes:
        level: The level.
        step: 0 for its first fit, then its resampling steps, then the assignment of its inputs, and their
            division.
        slices: Centroids of the fit before; none at step 0.
        n_clusters: How many.
        n_iter: Iterations that it took.
        notes: Of the level so far.
    """

    level: int
    step: int
    slices: list[Handle] = field(default_factory=list)
    n_clusters: int = 0
    n_iter: int = 0
    notes: list[str] = field(default_factory=list)


class Checkpoint:
    """Saves where the growing of a tree stands, and takes it up again.

    Args:
        files: Where to write; goes to the workers.
        folder: In there.
        basis: What the result depends on: names and JSON values. A checkpoint with another one is refused.
        every: Seconds between two states of a fit at most; fewer where a state is quickly written.
        say: Told, in a sentence, where the fit goes on, or what was refused and why.
    """

    def __init__(
        self,
        files: Files,
        folder: str,
        basis: dict[str, Any],
        every: float = 60.0,
        say: Callable[[str], Any] = lambda _: None,
    ) -> None:
        self.files, self.folder, self.every, self.say = files, folder, every, say
        self.basis = json.loads(json.dumps({"format": FORMAT, **basis}))
        self._levels: list[dict[str, Any]] = []
        self._step: dict[str, Any] | None = None
        self._fit: dict[str, Any] | None = None
        self._entered: Step | None = None
        self._last = time.monotonic()
        self._cost = 0.0

    # --- in another process -----------------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "say": _quiet}

    def rejoin(self, workers: Workers) -> None:
        """In the process of a worker that conducts a level by itself: what was written last, and the clock.

        A worker that was killed is given the checkpoint as it was when it first began, and files that this
        one names may be gone. Where what was written last cannot be used, the level begins anew.
        """
        self._entered, self._last = None, time.monotonic()
        if self.files.exists(self._path) and (self._read() or self._damage(workers, self._step, self._fit)):
            self._step = self._fit = None

    # --- taking up --------------------------------------------------------------------------

    def open(self, workers: Workers) -> None:
        """Reads what is there; what cannot be used is named, and deleted."""
        self._entered = None
        if not self.files.exists(self._path):
            self.clear()
        elif why := self._read() or self._damage(workers, self._levels, self._step, self._fit):
            self.say(f"the checkpoint is not used: {why}; the fit starts afresh")
            self.clear()
        else:
            self.say(f"goes on from a checkpoint: {self._where()}")

    def clear(self) -> None:
        """Deletes it."""
        self._levels, self._step, self._fit, self._entered = [], None, None, None
        self.files.delete(self.folder)

    @property
    def _path(self) -> str:
        return f"{self.folder}/{HEADER}"

    def _read(self) -> str:
        """Takes up the header that is there; says why, where it cannot."""
        try:
            header = json.loads(self.files.read_bytes(self._path))
            if not (why := self._altered(header) or self._differs(header["basis"])):
                self._levels, self._step, self._fit = header["levels"], header["step"], header["fit"]
            return why
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            return f"{self._path} is damaged ({error!r})"

    def _altered(self, header: dict[str, Any]) -> str:
        """What is wrong with a header that is not as it was written; formats before 4 have no hash of it."""
        known = header.get(DIGEST)
        if known == _digest_of(header) or (known is None and header["basis"]["format"] != FORMAT):
            return ""
        return f"{self._path} is damaged: its content is not what was written"

    def _differs(self, basis: dict[str, Any]) -> str:
        names = (n for n in sorted(basis.keys() | self.basis.keys()) if basis.get(n) != self.basis.get(n))
        others = ", ".join(names)
        return f"{self._path} belongs to another fit, with another {others}" if others else ""

    def _damage(self, workers: Workers, *kept: Any) -> str:
        """What is wrong with arrays that are named, which the workers read; nothing of it is the header's."""
        names = sorted(_names(list(kept)))
        blocks = len(workers.nobody())
        own = [names[i::blocks] for i in range(blocks)]
        return next(filter(None, workers.ask("check", self.files, self.folder, own=own)), "")

    def _where(self) -> str:
        if self._fit is not None:
            return f"level {self._fit['level']}, step {self._fit['step']}, iteration {self._fit['n_iter']}"
        if self._step is not None:
            return f"level {self._step['level']}, step {self._step['step']}"
        return f"level {len(self._levels) + 1}"

    def level(self, level: int, workers: Workers) -> dict[str, Any] | None:
        """A finished level as it was given to `finish`; None if it is not finished."""
        if level > len(self._levels):
            return None
        kept = self._levels[level - 1]
        return {
            **kept["told"],
            "slices": self._slices(kept["slices"], workers),
            "own": self._labels(kept["own"], EVERYTHING, workers),
            **{n: read_array(self.files, self.folder, name) for n, name in kept["arrays"].items()},
        }

    def step(self, level: int, workers: Workers) -> Step:
        """The step of a level to go on with."""
        kept = self._step
        if kept is None or kept["level"] != level:
            return Step(level, 0)
        return Step(**{**kept, "slices": self._slices(kept["slices"], workers)})

    def standing(self, view: str, place: tuple[int, int, int], workers: Workers) -> Standing | None:
        """Where the fit of a (seed, level, step) stands, once; None if nothing is known of it."""
        kept, self._fit = self._fit, None
        if kept is None or (kept["level"], kept["step"]) != place[1:]:
            return None
        found = Standing(
            slices=self._slices(kept["slices"], workers),
            own=self._labels(kept["own"], view, workers) or None,
            **{name: kept[name] for name in _NUMBERS},
        )
        for name in _ARRAYS:
            if kept[name]:
                setattr(found, name, read_array(self.files, self.folder, kept[name]))
        return found

    def _slices(self, kept: dict[str, Any], workers: Workers) -> list[Handle]:
        """Handles of kept centroids, in as many slices as there are workers for them."""
        rows = Kept(**kept)
        if not len(rows):
            return []
        edges = slice_edges(len(rows), min(workers.n_slices, len(rows)))
        return _shared(
            workers, "read_centroids", list(itertools.pairwise(edges)), self.files, self.folder, rows
        )

    def _labels(self, kept: dict[str, Any], view: str, workers: Workers) -> list[Handle]:
        """Kept labels of a view, dealt to the blocks as these hold its points now."""
        rows = Kept(**kept)
        if not len(rows):
            return []
        counts = workers.ask("size_of", view)
        own = list(itertools.pairwise(np.cumsum([0, *counts]).tolist()))
        return workers.points("read_labels", self.files, self.folder, rows, own=own)

    # --- saving -----------------------------------------------------------------------------

    @property
    def due(self) -> bool:
        """Whether the last state is old enough, or one costs next to nothing."""
        return time.monotonic() - self._last >= min(self.every, max(_SOON, self._cost / _CHEAP))

    def enter(self, step: Step, workers: Workers) -> None:
        """A step begins."""
        taken_up = self._step and (self._step["level"], self._step["step"]) == (step.level, step.step)
        if self._entered is None and taken_up:
            return  # it is the one that was taken up
        self._entered, self._fit = step, None
        if self.due:
            self._save(workers)

    def save(
        self, standing: Standing, place: tuple[int, int, int], workers: Workers, *, now: bool = False
    ) -> None:
        """A fit stands somewhere; written down if it is time, or `now`."""
        if not (now or self.due):
            return
        began = time.monotonic()
        arrays = {name: getattr(standing, name) for name in _ARRAYS}
        self._fit = {
            "level": place[1],
            "step": place[2],
            "slices": self._keep(standing.slices, workers),
            "own": self._keep(standing.own or [], workers),
            **{
                name: None if array is None else write_array(self.files, self.folder, array)
                for name, array in arrays.items()
            },
            **{name: getattr(standing, name) for name in _NUMBERS},
        }
        self._save(workers)
        self._cost = time.monotonic() - began

    def finish(
        self,
        told: dict[str, Any],
        slices: list[Handle],
        own: list[Handle],
        arrays: dict[str, NDArray[Any]],
        workers: Workers,
    ) -> None:
        """A level is done.

        Args:
            told: JSON values to get back from `level`.
            slices: Its centroids.
            own: Labels of its inputs, as long as they are of use.
            arrays: Small arrays to get back.
            workers: Who grew it.
        """
        kept = {name: write_array(self.files, self.folder, array) for name, array in arrays.items()}
        self._levels.append(
            {
                "told": told,
                "slices": self._keep(slices, workers),
                "own": self._keep(own, workers),
                "arrays": kept,
            }
        )
        self._entered = self._step = self._fit = None
        self._save(workers)

    def _keep(self, handles: list[Handle], workers: Workers) -> dict[str, Any]:
        told = workers.attempt(
            lambda: workers.get(_shared(workers, "keep", handles, self.files, self.folder)), lambda: None
        )
        return asdict(Kept([name for name, _ in told], [int(count) for _, count in told]))

    def _save(self, workers: Workers) -> None:
        """Writes the header, and deletes what it does not name."""
        if self._entered is not None:
            step, self._entered = self._entered, None
            self._step = {
                "level": step.level,
                "step": step.step,
                "slices": self._keep(step.slices, workers),
                "n_clusters": step.n_clusters,
                "n_iter": step.n_iter,
                "notes": step.notes,
            }
        header = {"basis": self.basis, "levels": self._levels, "step": self._step, "fit": self._fit}
        header[DIGEST] = _digest_of(header)
        self.files.write_bytes(self._path, json.dumps(header, indent=1).encode())
        wanted = _names([self._levels, self._step, self._fit])
        for path in self.files.list(self.folder, ".npy"):
            if path.rsplit("/", 1)[-1] not in wanted:
                self.files.delete(path)
        self._last = time.monotonic()


def _quiet(_: str) -> None:
    """Says nothing."""


def _shared(workers: Workers, method: str, items: Sequence[Any], *args: Any) -> list[Handle]:
    """Calls a method of `KeptBlock` for every item, which the blocks share out."""
    nobody = workers.nobody()
    told: list[Handle] = []
    for start in range(0, len(items), len(nobody)):
        some = items[start : start + len(nobody)]
        own = [*some, *nobody[len(some) :]]
        told += workers.points(method, *args, own=own)[: len(some)]
    return told


def _digest_of(header: dict[str, Any]) -> str:
    """Hash of a header's values, whatever their order and the white space between them."""
    values = {name: value for name, value in header.items() if name != DIGEST}
    return digest(json.dumps(values, sort_keys=True).encode())


def _names(kept: Any) -> set[str]:
    """All names of arrays in JSON values."""
    if isinstance(kept, str):
        return {kept} if kept.endswith(".npy") else set()
    inside = kept.values() if isinstance(kept, dict) else kept if isinstance(kept, list) else ()
    return set().union(*map(_names, inside))
