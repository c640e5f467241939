"""What do the figures of the page hold? Plotly figures as plain JSON, without colours of the page's theme.

Colours of text, grid and neutral marks are left to `page.js`, which knows whether the page is light or
dark; a mark names its role (`pool`, `random`, `curated`) in `meta`.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.report.occupancy import LevelCounts

# More than about a thousand rectangles are too small to see and too slow to draw.
TREEMAP_NODES = 1000
# Ratios beyond 2^4 = 16 times the average look alike: the eye needs the middle of the scale.
_MOST_DOUBLINGS = 4

Figure = dict[str, Any]


def size_histogram(counts: LevelCounts) -> Figure:
    """How many clusters of a level hold 0, 1, 2, 3-4, 5-8, ... samples, in the pool, the draw and the set."""
    largest = max(int(c.max()) for c in (counts.pool, counts.random, counts.curated))
    doublings = max(0, int(np.ceil(np.log2(max(1, largest)))))
    edges = np.r_[-1, 0, 2 ** np.arange(doublings + 1)]  # bin i holds edges[i] < size <= edges[i + 1]
    labels = ["0"] + [_range(low + 1, high) for low, high in itertools.pairwise(edges[1:])]
    series = [("pool", "pool"), ("random", "random draw"), ("curated", "curated set")]
    return {
        "data": [
            {
                "type": "bar",
                "name": name,
                "meta": role,
                "x": labels,
                "y": np.histogram(getattr(counts, role), bins=edges + 0.5)[0].tolist(),
                "hovertemplate": f"%{{y}} clusters hold %{{x}} samples of the {name}<extra></extra>",
            }
            for role, name in series
        ],
        "layout": {
            "barmode": "group",
            "bargap": 0.25,
            "xaxis": {"type": "category", "tickangle": -45, "title": {"text": "samples in a cluster"}},
            "yaxis": {"title": {"text": "clusters"}, "rangemode": "tozero"},
            "showlegend": False,
            "margin": {"l": 60, "r": 10, "t": 10, "b": 50},
        },
    }


def treemap(levels: list[LevelCounts], nodes: int = TREEMAP_NODES) -> Figure:
    """The tree from the top, an area a cluster (its pool samples), coloured by how far the set favours it.

    Levels are shown whole from the top while they fit; of the first one that does not, the largest
    clusters are shown, and the rest of every parent stands together. Colour is log2 of the ratio
    between the share of a cluster's samples that were curated and the pool's average share.

    Args:
        levels: counts of every level, the leaves first.
        nodes: most rectangles to draw, the rests of parents included.
    """
    tree = _Nodes()
    tree.add("pool", "pool", "", levels[-1].pool.sum(), levels[-1].curated.sum())
    shown = np.zeros(1, np.int64)
    for counts in reversed(levels):
        room = nodes - len(tree.ids)
        whole = len(counts.pool) <= room
        if not whole and room <= len(shown):  # not even the rest of every parent fits
            break
        kept = len(counts.pool) if whole else room - len(shown)
        shown = np.sort(np.argsort(-counts.pool, kind="stable")[:kept])
        for cluster in shown.tolist():
            samples, copies = counts.pool[cluster], counts.curated[cluster]
            tree.add(
                f"{counts.level}/{cluster}", f"cluster {cluster}", _above(counts, cluster), samples, copies
            )
        if not whole:
            tree.add_rests(counts, shown)
            break

    ratio = _log_ratio(np.array(tree.pool), np.array(tree.curated))
    doublings = int(np.clip(np.ceil(np.abs(ratio[np.isfinite(ratio)]).max()), 1, _MOST_DOUBLINGS))
    ticks = range(-doublings, doublings + 1)
    return {
        "data": [
            {
                "type": "treemap",
                "ids": tree.ids,
                "labels": tree.labels,
                "parents": tree.parents,
                "values": tree.pool,
                "customdata": [
                    [f"{c:,}", f"{100 * c / max(1, p):.3g}"]
                    for c, p in zip(tree.curated, tree.pool, strict=True)
                ],
                "branchvalues": "total",
                "maxdepth": 3,
                "tiling": {"pad": 1},
                "marker": {
                    "colors": np.clip(ratio, -doublings, doublings).round(3).tolist(),
                    "cmin": -doublings,
                    "cmid": 0,
                    "cmax": doublings,
                    "showscale": True,
                    "colorbar": {
                        "orientation": "h",
                        "x": 0,
                        "xanchor": "left",
                        "y": 0,
                        "yanchor": "top",
                        "tickvals": list(ticks),
                        "ticktext": [
                            "as drawn at random" if t == 0 else f"{'×' if t > 0 else '÷'} {2 ** abs(t)}"
                            for t in ticks
                        ],
                        "thickness": 12,
                        "len": 1,
                        "outlinewidth": 0,
                    },
                },
                "hovertemplate": "%{label}<br>pool: %{value:,}<br>curated: %{customdata[0]} "
                "(%{customdata[1]} %)<extra></extra>",
            }
        ],
        "layout": {
            "margin": {"l": 0, "r": 0, "t": 0, "b": 45},
            "uniformtext": {"minsize": 9, "mode": "hide"},  # a label too small to read is left out
        },
    }


@dataclass
class _Nodes:
    """The rectangles of a treemap, one entry of every list a rectangle."""

    ids: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    parents: list[str] = field(default_factory=list)
    pool: list[int] = field(default_factory=list)
    curated: list[int] = field(default_factory=list)

    def add(self, node: str, label: str, parent: str, samples: Any, copies: Any) -> None:
        self.ids.append(node)
        self.labels.append(label)
        self.parents.append(parent)
        self.pool.append(int(samples))
        self.curated.append(int(copies))

    def add_rests(self, counts: LevelCounts, shown: NDArray[np.int64]) -> None:
        """One rectangle under every parent for those of its clusters that are not shown."""
        hidden = np.delete(np.arange(len(counts.pool)), shown)
        _, first, family, members = np.unique(
            counts.parent[hidden], return_index=True, return_inverse=True, return_counts=True
        )
        samples, copies = np.zeros((2, len(first)), np.int64)
        np.add.at(samples, family, counts.pool[hidden])
        np.add.at(copies, family, counts.curated[hidden])
        for i, example in enumerate(hidden[first].tolist()):
            above = _above(counts, example)
            self.add(f"{above}/rest", f"{members[i]:,} others", above, samples[i], copies[i])


def _above(counts: LevelCounts, cluster: int) -> str:
    parent = counts.parent[cluster]
    return "pool" if parent < 0 else f"{counts.level + 1}/{parent}"


def _log_ratio(pool: NDArray[np.int64], curated: NDArray[np.int64]) -> NDArray[np.float64]:
    """log2(curated share / average share), shape (n,), -inf where nothing was drawn; node 0 is the whole."""
    average = curated[0] / max(1, pool[0])
    with np.errstate(divide="ignore"):
        ratio: NDArray[np.float64] = np.log2(curated / np.maximum(1, pool) / (average or 1.0))
    return ratio


def _range(low: int, high: int) -> str:
    return f"{low:,}" if low == high else f"{low:,}–{high:,}"
