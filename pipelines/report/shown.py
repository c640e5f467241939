"""Which samples does the page show, and what do they look like?

Comes in: the rows' keys (`Smallest` picks by hash) and the source. Goes out: HTML fragments that the
modality made from the payloads. A source that has moved or changed since costs the pictures, with a
note that says so, and never the report.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from curation import chance
from modalities.base import ModalityError, Rejected
from pipelines.blocks import part_name
from pipelines.config import Config
from pipelines.errors import EvensetError
from pipelines.pool import is_embedded, open_pool, records
from pipelines.store import Store


@dataclass(frozen=True)
class Row:
    """One row of the run: its file in `embeddings/` (which is the part of the source) and its place there."""

    part: int
    row: int


@dataclass(frozen=True)
class Shown:
    """One sample as the page shows it; `fragment` is HTML that the modality has escaped."""

    id: str
    uri: str
    fragment: Markup


@dataclass(frozen=True)
class Sheets:
    """Samples as the page shows them.

    Attributes:
        groups: What could be shown of each group, in its order.
        layout: Of the modality: `tiles` or `rows`.
        notes: On what could not be shown.
    """

    groups: list[list[Shown]]
    layout: str
    notes: list[str]


class Smallest:
    """Keeps the rows with the smallest hashes among all that were offered, at most `size` of them."""

    def __init__(self, size: int, salt: np.uint64) -> None:
        self._size = size
        self._salt = salt
        self._draws = np.empty(0, np.float64)
        self._keys = np.empty((0, 2), np.uint64)
        self._rows: list[Row] = []

    def offer(self, part: int, keys: NDArray[np.uint64], rows: NDArray[np.int64] | None = None) -> None:
        """Offers rows of one part: keys of shape (n, 2), and their places where that is not 0..n-1."""
        draws = chance.draws(chance.mixed(keys), self._salt)
        best = chance.smallest(draws, keys, self._size)
        places = best if rows is None else rows[best]
        draws = np.concatenate([self._draws, draws[best]])
        keys = np.concatenate([self._keys, keys[best]])
        offered = self._rows + [Row(part, int(place)) for place in places]
        kept = chance.smallest(draws, keys, self._size)
        self._draws, self._keys, self._rows = draws[kept], keys[kept], [offered[i] for i in kept]

    @property
    def keys(self) -> NDArray[np.uint64]:
        """Keys of the rows kept, in the order of their hashes, shape (m, 2), uint64."""
        return self._keys

    @property
    def rows(self) -> list[Row]:
        """The rows kept, in the order of their hashes."""
        return self._rows


def locate(wanted: NDArray[np.uint64], keys: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Places in keys, shape (n, 2), of those that are among wanted, shape (m, 2)."""
    candidates = np.flatnonzero(np.isin(keys[:, 0], wanted[:, 0]))
    known = set(map(tuple, wanted.tolist()))
    return np.array([i for i in candidates if tuple(keys[i].tolist()) in known], np.int64)


def fetch(config: Config, store: Store, groups: list[list[Row]]) -> Sheets:
    """Reads the rows of each group from the source and lets the modality show them.

    Args:
        config: config of the run.
        store: run directory; its `embeddings/` names the rows.
        groups: rows to show, for example those of the pool and those of the curated set.
    """
    nothing: list[list[Shown]] = [[] for _ in groups]
    try:
        pool = open_pool(config)
    except (ModalityError, EvensetError, OSError) as error:
        why = f"No samples are shown, because the source could not be opened: {error}"
        return Sheets(nothing, "rows", [why])
    if is_embedded(pool):
        return Sheets(nothing, "rows", ["The pool came as embeddings: there are no samples to show."])
    names = _names(store, {row for rows in groups for row in rows})

    seen: dict[str, Shown] = {}
    failed: dict[str, str] = {}
    for index in sorted({row.part for row in names}):
        wanted = {name for row, name in names.items() if row.part == index}
        for record in records(pool.source, pool.parts[index], wanted) if index < len(pool.parts) else ():
            try:
                if record.payload is None:
                    raise Rejected(record.reason or "it could not be read")
                seen[record.id] = Shown(
                    record.id, record.uri, Markup(pool.modality.show(record.payload, record.uri))
                )
            except Rejected as error:
                failed[record.id] = str(error)
            except Exception as error:  # a modality may be anybody's, and costs no more than its picture
                failed[record.id] = f"it cannot be shown ({type(error).__name__}: {error})"
    failed |= dict.fromkeys({*names.values()} - {*seen} - {*failed}, "it is no longer where it was")
    shown = [[seen[names[row]] for row in rows if names[row] in seen] for rows in groups]
    notes = []
    if failed:
        name, reason = min(failed.items())
        notes = [f"{len(failed)} of the samples to show could not be read, such as {name}: {reason}"]
    return Sheets(shown, pool.modality.layout, notes)


def _names(store: Store, rows: Iterable[Row]) -> dict[Row, str]:
    """The id of every row, from the part that it is in."""
    by_part: dict[int, list[Row]] = {}
    for row in sorted(rows, key=lambda r: (r.part, r.row)):
        by_part.setdefault(row.part, []).append(row)
    names: dict[Row, str] = {}
    for part, members in by_part.items():
        column = store.read_table(part_name("embeddings", part), columns=["id"]).column("id")
        names |= {row: column[row.row].as_py() for row in members}
    return names
