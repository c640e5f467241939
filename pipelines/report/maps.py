"""What do the maps of the page hold? Plotly figures as plain JSON, in the layout of `places`, without tiles.

As in `figures`, colours are left to `page.js`: a mark names its role (`pool`, `curated`, `rest`) in `meta`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipelines.report.figures import Figure
from pipelines.report.places import Frame, Grid, Line, Places, Region

_STEPS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60)
"""Degrees from one line of the graticule to the next."""

_MARGIN = 0.04
"""Of the longer side, around what is drawn."""

SETS = (("pool", "Pool"), ("curated", "Curated set"))


def overview(places: Places) -> list[tuple[str, str, float, Figure]]:
    """Name, heading, width over height, and figure, of the pool and of the curated set, laid out alike."""
    grid = places.grid
    rest = np.where(places.curated == 0, places.pool, 0)
    traces = [
        [_cells(grid, places.pool, "pool")],
        [_cells(grid, rest, "rest"), _cells(grid, places.curated, "curated")],
    ]
    low = np.array([grid.left, grid.bottom])
    layout, aspect = _layout(grid.frame, low, low + grid.side * np.array([grid.columns, grid.rows]))
    return [
        (name, heading, aspect, {"data": data, "layout": layout})
        for (name, heading), data in zip(SETS, traces, strict=True)
    ]


def regions(places: Places) -> list[tuple[str, Region, Figure]]:
    """Heading, region and figure of each: footprints of the curated set upon those of the pool."""
    found = []
    for region in places.regions:
        pool, curated = region.lines
        points = np.concatenate(pool)
        layout, _ = _layout(region.frame, points.min(axis=0), points.max(axis=0), lines=3)
        data = [_outlines(pool, "pool"), _outlines(curated, "curated")]
        middle = f"{_degrees(region.lat, 'N', 'S', 2)}, {_degrees(region.lon, 'E', 'W', 2)}"
        found.append((middle, region, {"data": data, "layout": layout}))
    return found


def _outlines(lines: Sequence[Line], role: str) -> Figure:
    """All footprints of a role as one trace, with a gap after each."""
    gap = np.full((1, 2), np.nan)
    points = np.concatenate([piece for line in lines for piece in (line, gap)] or [gap])
    xs, ys = ([None if np.isnan(v) else round(v, 6) for v in column] for column in points.T.tolist())
    return {
        "type": "scatter",
        "mode": "lines",
        "fill": "toself",
        "meta": role,
        "x": xs,
        "y": ys,
        "line": {"simplify": False},  # which would leave out what is smaller than a pixel
        "hoverinfo": "skip",
    }


def _cells(grid: Grid, counts: NDArray[np.int64], role: str) -> Figure:
    """Cells that hold something, the darker the more, by the logarithm of their number."""
    most = int(counts.max())
    decades = [10**power for power in range(len(str(max(most, 1))))]
    with np.errstate(divide="ignore"):
        logs = np.log10(counts)
    return {
        "type": "heatmap",
        "meta": role,
        "x": (grid.left + grid.side * (np.arange(grid.columns) + 0.5)).tolist(),
        "y": (grid.bottom + grid.side * (np.arange(grid.rows) + 0.5)).tolist(),
        "z": [[None if np.isinf(v) else round(v, 3) for v in row] for row in logs.tolist()],
        "text": [[f"{n:,}" for n in row] for row in counts.tolist()],
        "zmin": 0,
        "zmax": max(1.0, float(np.log10(max(most, 1)))),
        "xgap": 1,
        "ygap": 1,
        "showscale": role != "rest",
        "colorbar": {
            "tickvals": [float(np.log10(n)) for n in decades],
            "ticktext": [f"{n:,}" for n in decades],
            "thickness": 10,
            "outlinewidth": 0,
        },
        "hovertemplate": {
            "pool": "%{text} samples of the pool<extra></extra>",
            "curated": "%{text} samples of the curated set<extra></extra>",
            "rest": "none of %{text} samples of the pool<extra></extra>",
        }[role],
    }


def _layout(
    frame: Frame, low: NDArray[np.float64], high: NDArray[np.float64], lines: int = 5
) -> tuple[Figure, float]:
    """Axes with a graticule of at most so many lines around what is to be drawn; its width over height."""
    margin = _MARGIN * max(high - low)
    (left, bottom), (right, top) = low - margin, high + margin
    pole = frame.y(np.array(90.0))
    south, north = np.degrees(np.arcsin(np.clip(np.array([bottom, top]) / pole, -1, 1)))
    meridians, parallels = _graticule(left, right, lines), _graticule(south, north, lines)
    axis = {"constrain": "domain", "zeroline": False, "showline": False, "ticks": ""}
    layout = {
        "xaxis": axis
        | {
            "range": [left, right],
            "tickvals": meridians.tolist(),
            "ticktext": [_degrees(lon, "E", "W") for lon in meridians.tolist()],
        },
        "yaxis": axis
        | {
            "range": [bottom, top],
            "scaleanchor": "x",
            "tickvals": frame.y(parallels).tolist(),
            "ticktext": [_degrees(lat, "N", "S") for lat in parallels.tolist()],
        },
        "showlegend": False,
        "margin": {"l": 55, "r": 10, "t": 10, "b": 30},
    }
    return layout, float((right - left) / (top - bottom))


def _graticule(low: float, high: float, lines: int) -> NDArray[np.float64]:
    step = next((step for step in _STEPS if (high - low) / step <= lines), _STEPS[-1])
    return np.arange(np.ceil(low / step), np.floor(high / step) + 1) * step


def _degrees(value: float, positive: str, negative: str, digits: int = 3) -> str:
    """A longitude or latitude as a person writes it."""
    value = round((value + 180) % 360 - 180, digits)
    return f"{abs(value):g}°" + (f" {positive if value > 0 else negative}" if value and value != -180 else "")
