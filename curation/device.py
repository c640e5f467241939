"""Rows on a device, such as a GPU: where they lie there, and what it computes of them, bit for bit as a CPU.

Rows that fit stay on the device from their first pass on, in float16 where that holds them exactly. Others
come chunk after chunk, the next one on its way while one is worked on.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from curation.assign import FAR
from curation.errors import CurationError
from curation.exact import LIMB, SPREAD_UNIT, UNIT
from curation.kernels import gpu
from curation.kernels.halves import Halves, halve_centroids, rows_in_hand

if TYPE_CHECKING:
    from curation.assign import Centroids
    from curation.candidates import Candidates
    from curation.rows import Rows

T = TypeVar("T")

_STAGED = 1 << 20  # bytes from which on copies go by way of pinned memory
_SHARE = 0.6  # of the free memory that rows may take for good; float16 that must widen takes half again


@cache
def find(name: str) -> Device | None:
    """The device called so, None for a plain CPU.

    Args:
        name: "cpu"; "cuda"; "auto" for "cuda" where there is a GPU, else "cpu". "cuda:torch" goes without
            Triton; "cpu:torch" and "cpu:triton" (in Triton's interpreter) compute as a GPU would, on the CPU.

    Raises:
        CurationError: There is no such device here.
    """
    there = torch.cuda.is_available()
    if name in ("auto", "cpu"):
        return find("cuda") if name == "auto" and there else None
    kind, _, backend = name.partition(":")
    if kind not in ("cpu", "cuda") or backend not in ("", "torch", "triton"):
        raise CurationError(f"there is no device {name!r}; there are auto, cpu, cuda, cuda:torch")
    if kind == "cuda" and not there:
        raise CurationError(f"the device is {name!r} but PyTorch sees no GPU here; choose 'cpu' or 'auto'")
    fused = backend == "triton" or (backend == "" and find_spec("triton") is not None)
    place = torch.device("cuda", torch.cuda.current_device()) if kind == "cuda" else torch.device("cpu")
    return Device(place, "triton" if fused else "torch")


class Device:
    """Where rows are computed with.

    Args:
        place: A device of PyTorch.
        backend: Whose kernels: "triton" or "torch".
    """

    def __init__(self, place: torch.device, backend: gpu.Backend) -> None:
        self.device, self.backend = place, backend

    def room(self) -> int:
        """Bytes that rows may take for good."""
        if self.device.type != "cuda":
            return 1 << 62
        free, _ = torch.cuda.mem_get_info(self.device)
        spare = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
        return int(_SHARE * (free + spare))

    def place(self, rows: Rows) -> Placed:
        """Rows as this device sees them."""
        return Placed(rows, self)

    def nearest(
        self,
        rows: torch.Tensor,
        norms: NDArray[np.float64],
        centroids: Centroids,
        candidates: Candidates | None,
        groups: NDArray[np.int32] | None,
        seconds: bool,
    ) -> tuple[NDArray[np.int32], NDArray[np.int32] | None]:
        """See `curation.assign.Assigner.nearest`."""
        values, halves = self._centroids(centroids)
        labels, others = gpu.nearest(
            rows,
            self.tensor(norms),
            values,
            candidates=candidates,
            groups=None if groups is None else self.tensor(groups),
            seconds=seconds,
            backend=self.backend,
            halves=halves,
        )
        return self.array(labels), None if others is None else self.array(others)

    def squared_distances(
        self,
        rows: torch.Tensor,
        centroids: Centroids,
        labels: NDArray[np.int32],
        index: NDArray[np.int64] | None,
    ) -> NDArray[np.float64]:
        """See `curation.exact.squared_distances`."""
        which, some = self.tensor(labels), None if index is None else self.tensor(index)
        return self.array(self._distances(rows, centroids, which, some).masked_fill_(which < 0, torch.inf))

    def _distances(
        self, rows: torch.Tensor, centroids: Centroids, which: torch.Tensor, some: torch.Tensor | None = None
    ) -> torch.Tensor:
        values = self._centroids(centroids)[0]
        return gpu.squared_distances(rows, values, which, some, backend=self.backend)

    def sides(
        self,
        rows: torch.Tensor,
        index: NDArray[np.int64],
        pair: NDArray[np.int32],
        first: Centroids,
        second: Centroids,
    ) -> NDArray[np.int32]:
        """See `curation.assign.Assigner.sides`."""
        some, which = self.tensor(index), self.tensor(pair)
        near, far = (self._distances(rows, side, which, some) for side in (first, second))
        return self.array(2 * which + (near > far))

    def spread_and_loss(
        self,
        rows: torch.Tensor,
        centroids: Centroids,
        labels: NDArray[np.int32],
        seconds: NDArray[np.int32],
        weights: NDArray[np.int64] | None,
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """See `curation.assign.Assigner.spread_and_loss`."""
        which, other = self.tensor(labels), self.tensor(seconds)
        weight = None if weights is None else self.tensor(weights)
        near = self._distances(rows, centroids, which)
        far = self._distances(rows, centroids, other).masked_fill_(other < 0, FAR).clamp_(max=FAR)
        found = []
        for values in (near, far - near):
            units = (values * SPREAD_UNIT).long()
            limbs = torch.stack([units >> LIMB, units & (2**LIMB - 1)], dim=1)
            if weight is not None:
                limbs *= weight[:, None]
            total = torch.zeros((len(centroids.values), 2), dtype=torch.int64, device=self.device)
            found.append(self.array(total.index_add_(0, which, limbs)))
        return found[0], found[1]

    def gains(
        self,
        rows: torch.Tensor,
        squares: NDArray[np.float64],
        distances: NDArray[np.float64],
        weights: NDArray[np.int64] | None,
        candidates: Centroids,
    ) -> NDArray[np.int64]:
        """See `curation.nearer.gains`."""
        values, halves = self._centroids(candidates)
        found = gpu.gains(
            rows,
            self.tensor(squares),
            self.tensor(distances),
            None if weights is None else self.tensor(weights),
            values,
            backend=self.backend,
            halves=halves,
        )
        return self.array(found)

    def cluster_sums(
        self,
        rows: torch.Tensor,
        labels: NDArray[np.int32],
        n_clusters: int,
        weights: NDArray[np.int64] | None,
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """See `curation.exact.cluster_sums`."""
        if len(labels) and labels.min() < 0:  # such rows go to a cluster of their own, which is dropped
            sums, counts = self.cluster_sums(rows, labels + np.int32(1), n_clusters + 1, weights)
            return sums[1:], counts[1:]
        return self._cluster_sums(rows, self.tensor(labels), n_clusters, weights)

    def _cluster_sums(
        self, rows: torch.Tensor, which: torch.Tensor, n_clusters: int, weights: NDArray[np.int64] | None
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        if weights is None:
            sums, counts = gpu.cluster_sums(rows, which, n_clusters, backend=self.backend)
        else:
            sums, counts = _weighted_sums(rows, which, n_clusters, self.tensor(weights))
        return self.array(sums), self.array(counts)

    def project(self, rows: torch.Tensor, directions: NDArray[np.float64]) -> NDArray[np.float32]:
        """See `curation.sketch.project`."""
        along = self.tensor(directions)
        out = rows.new_empty((len(rows), along.shape[1]), dtype=torch.float32)
        block = rows_in_hand(rows.shape[1])
        for start in range(0, len(rows), block):
            out[start : start + block] = (rows[start : start + block].double() @ along * UNIT).round_() / UNIT
        return self.array(out)

    def tensor(self, values: NDArray[Any]) -> torch.Tensor:
        """An array on the device; on a CPU it shares its memory."""
        # PyTorch warns of arrays that must not be written, though nobody writes
        here = torch.from_numpy(values if values.flags.writeable else values.copy())
        if self.device.type != "cuda" or here.nbytes < _STAGED or here.is_pinned():
            return here.to(self.device)
        return torch.empty(here.shape, dtype=here.dtype, pin_memory=True).copy_(here).to(self.device)

    def array(self, values: torch.Tensor) -> NDArray[Any]:
        """A tensor of the device as an array; from a GPU by way of pinned memory, several times as fast."""
        if self.device.type != "cuda" or values.nbytes < _STAGED:
            return values.cpu().numpy()
        return torch.empty(values.shape, dtype=values.dtype, pin_memory=True).copy_(values).numpy()

    def _centroids(self, centroids: Centroids) -> tuple[torch.Tensor, Halves]:
        """Centroids on the device, which are kept with the centroids themselves."""
        if self not in centroids.kept:
            values = self.tensor(centroids.values)
            centroids.kept[self] = values, halve_centroids(values)
        found: tuple[torch.Tensor, Halves] = centroids.kept[self]
        return found


class Placed:
    """Rows as a device sees them.

    Args:
        rows: The rows.
        device: The device.
    """

    def __init__(self, rows: Rows, device: Device) -> None:
        self.rows, self.device = rows, device
        self._stays = 4 * rows.shape[0] * rows.shape[1] <= device.room()
        self._resident: torch.Tensor | None = None

    def chunks(self) -> Iterator[tuple[slice, torch.Tensor]]:
        """Every row once, float32 or float16: all in one chunk where they stay on the device."""
        if not self._stays:
            yield from _ahead(self._uploads())
            return
        if self._resident is None:
            self._resident = self._copied()
        yield slice(0, len(self.rows)), self._resident

    def _copied(self) -> torch.Tensor:
        out = torch.empty(self.rows.shape, dtype=torch.float16, device=self.device.device)
        for where, part in _ahead(self._uploads()):
            out[where] = part
            if out.dtype == torch.float16 and not torch.equal(out[where].float(), part):
                out = out.float()
                out[where] = part
        return out

    def _uploads(self) -> Iterator[tuple[slice, torch.Tensor]]:
        place = self.device.device
        if place.type != "cuda":
            yield from ((where, self.device.tensor(rows)) for where, rows in self.rows.chunks())
            return
        stream = torch.cuda.Stream(place)  # type: ignore[no-untyped-call]
        pinned = torch.empty((0, self.rows.shape[1]))
        for where, rows in self.rows.chunks():
            if len(pinned) < len(rows):
                pinned = torch.empty(rows.shape, pin_memory=True)
            pinned[: len(rows)].numpy()[:] = rows
            with torch.cuda.stream(stream):
                copy = pinned[: len(rows)].to(place, non_blocking=True)
            stream.synchronize()
            copy.record_stream(torch.cuda.default_stream(place))  # whose kernels read it
            yield where, copy


def _ahead(items: Iterator[T]) -> Iterator[T]:
    """The items, each fetched by a thread while the one before it is worked on."""
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = thread.submit(next, items, None)
            yield item


def _weighted_sums(
    rows: torch.Tensor, labels: torch.Tensor, n_clusters: int, weights: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sums (k, d) in steps of 2^-24 of rows times their weights, and sums of weights (k,), in integers."""
    sums = torch.zeros((n_clusters, rows.shape[1]), dtype=torch.int64, device=rows.device)
    counts = torch.zeros(n_clusters, dtype=torch.int64, device=rows.device)
    which = labels.long()
    counts.index_add_(0, which, weights)
    block = rows_in_hand(rows.shape[1])
    for start in range(0, len(rows), block):
        part = slice(start, start + block)
        steps = (rows[part].double() * UNIT).long()
        sums.index_add_(0, which[part], steps * weights[part, None])
    return sums, counts
