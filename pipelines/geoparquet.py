"""How do rows with a place become GeoParquet? Version 1.1.0 (https://geoparquet.org/releases/v1.1.0).

The geometry is WKB (OGC 06-103r4, section 8), little-endian. Its CRS is EPSG:4326, with longitude before
latitude, as in all of GeoParquet.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.footprints import LON_LAT, Ring, footprints

ADDED = ("geometry", "bbox")
SIDES = ("xmin", "ymin", "xmax", "ymax")

_POLYGON, _MULTI_POLYGON = 3, 6


def geoparquet(table: pa.Table) -> pa.Table:
    """Rows with ``geometry``, their footprints, and ``bbox``, by which readers skip rows; null without place.

    The ``bbox`` of a footprint that is cut at the antimeridian spans all longitudes: readers compare its ends
    as plain numbers and would lose one whose west is greater than its east. That of the whole table, which
    stands in the metadata, has them so, as RFC 7946 (section 5.2) says.

    Args:
        table: with the columns that `footprints` reads.
    """
    rings = footprints(table)
    boxes = np.array([_box(polygons) for polygons in rings]).reshape(-1, 4)
    nowhere = np.isnan(boxes[:, 0])
    table = table.append_column("geometry", pa.array([_wkb(polygons) for polygons in rings], pa.binary()))
    table = table.append_column(
        "bbox", pa.StructArray.from_arrays([*map(pa.array, boxes.T)], names=SIDES, mask=pa.array(nowhere))
    )
    kinds = {len(polygons) > 1 for polygons in rings if polygons}
    about: dict[str, Any] = {
        "encoding": "WKB",
        "geometry_types": [
            name for name, cut in (("Polygon", False), ("MultiPolygon", True)) if cut in kinds
        ],
        "crs": LON_LAT.to_dict(projjson=True),
        "orientation": "counterclockwise",
        "edges": "planar",
        "covering": {"bbox": {side: ["bbox", side] for side in SIDES}},
    }
    if kinds:
        about["bbox"] = _extent([polygons for polygons in rings if polygons])
    geo = {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": about}}
    return table.replace_schema_metadata({"geo": json.dumps(geo)})


def _wkb(polygons: Sequence[Ring]) -> bytes | None:
    parts = [
        struct.pack("<BIII", 1, _POLYGON, 1, len(ring)) + ring.astype("<f8").tobytes() for ring in polygons
    ]
    if len(parts) > 1:
        return struct.pack("<BII", 1, _MULTI_POLYGON, len(parts)) + b"".join(parts)
    return parts[0] if parts else None


def _box(polygons: Sequence[Ring]) -> NDArray[np.float64]:
    """West, south, east, north in degrees; NaN without a polygon."""
    if not polygons:
        return np.full(4, np.nan)
    points = np.concatenate(polygons)
    return np.concatenate([points.min(axis=0), points.max(axis=0)])


def _extent(rings: Sequence[Sequence[Ring]]) -> list[float]:
    """The bounding box of all; west of it is greater than east where one of them is cut at 180 degrees."""
    boxes = np.array([_box([ring]) for polygons in rings for ring in polygons])
    south, north = boxes[:, 1].min(), boxes[:, 3].max()
    west, east = boxes[:, 0].min(), boxes[:, 2].max()
    if any(len(polygons) > 1 for polygons in rings):
        boxes = boxes[np.argsort(boxes[:, 0], kind="stable")]
        reached = np.maximum.accumulate(boxes[:, 2])
        gaps = boxes[1:, 0] - reached[:-1]  # at 180 degrees there is none
        widest = int(gaps.argmax())
        if gaps[widest] > 0:
            west, east = boxes[widest + 1, 0], reached[widest]
    return [float(west), float(south), float(east), float(north)]
