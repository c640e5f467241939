"""Rows on a GPU, and who looks for their nearest centroids there: ours, flash-kmeans, torch and FAISS."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch

from curation.kernels import gpu

_BLOCK = 1 << 26  # values made at a time

Labels = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def device() -> torch.device:
    """The GPU, or the CPU for a trial."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def made(n: int, d: int, components: int, seed: int) -> torch.Tensor:
    """Unit rows (n, d) of a mixture of Gaussians, float16, on the device."""
    random = torch.Generator(device()).manual_seed(seed)
    means = torch.randn((components, d), generator=random, device=device())
    rows = torch.empty((n, d), dtype=torch.float16, device=device())
    for part in torch.split(rows, max(1, _BLOCK // d)):
        which = torch.randint(components, (len(part),), generator=random, device=device())
        drawn = means[which] + 0.7 * torch.randn(part.shape, generator=random, device=device())
        part.copy_(drawn / drawn.norm(dim=1, keepdim=True))
    return rows


def norms(rows: torch.Tensor) -> torch.Tensor:
    """Euclidean norms (n,), float64."""
    return torch.cat(
        [part.double().norm(dim=1) for part in torch.split(rows, max(1, _BLOCK // rows.shape[1]))]
    )


def backend(rows: torch.Tensor) -> gpu.Backend:
    """Triton on a GPU or in its interpreter, or else torch."""
    return "triton" if rows.is_cuda or os.environ.get("TRITON_INTERPRET") == "1" else "torch"


def ours(rows: torch.Tensor) -> Labels:
    """The fused kernel and its recheck."""
    lengths = norms(rows)
    return lambda rows, centroids: gpu.nearest(rows, lengths, centroids, backend=backend(rows))[0]


def flash(rows: torch.Tensor) -> Labels:
    """flash-kmeans' kernel, with the squared norms that it wants made beforehand, as it does itself."""
    from flash_kmeans.assign_euclid_triton import euclid_assign_triton

    squares = (norms(rows) ** 2).float()[None]
    return lambda rows, centroids: euclid_assign_triton(rows[None], centroids.half()[None], squares)[0]


def plain(_: torch.Tensor) -> Labels:
    """Blocks of a float16 product, scores and argmin in torch."""

    def labels(rows: torch.Tensor, centroids: torch.Tensor) -> torch.Tensor:
        half_squares = centroids.square().sum(dim=1) / 2
        values = centroids.to(rows.dtype).T if rows.is_cuda else centroids.T
        found = []
        for part in torch.split(rows, max(1, (1 << 30) // len(centroids))):
            products = (part if rows.is_cuda else part.float()) @ values
            found.append((half_squares - products).argmin(dim=1))
        return torch.cat(found)

    return labels


def faiss_search(rows: torch.Tensor) -> Labels:
    """FAISS's flat index, on the GPU where there is one; float32, as it takes nothing else everywhere."""
    import faiss

    host = rows.float().cpu().numpy()

    def labels(rows: torch.Tensor, centroids: torch.Tensor) -> torch.Tensor:
        index: Any = faiss.IndexFlatL2(rows.shape[1])
        if faiss.get_num_gpus() > 0:
            index = faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, index)
        index.add(centroids.cpu().numpy())
        return torch.from_numpy(index.search(host, 1)[1][:, 0]).to(rows.device)

    return labels


ASSIGN: dict[str, Callable[[torch.Tensor], Labels]] = {
    "ours": ours,
    "flash-kmeans": flash,
    "torch": plain,
    "faiss": faiss_search,
}
