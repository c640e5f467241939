"""Before the draw, samples that break a rule of the modality (`modalities.rules`) are left out.

They are no rejects, and are written to ``thinned/part-*.parquet`` (id, uri, reason, instead), where part i is
that of ``embeddings/``. One task judges the whole pool, and holds what its rules look at: some 400 bytes a
sample. The driver sees counts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from numpy.typing import NDArray

from curation.errors import CurationError
from curation.thinning import apart, at_most, lucky_order
from modalities.base import Modality
from modalities.rules import AtMost, Rule, Values
from pipelines import written
from pipelines.blocks import keys_in, part_index, part_name
from pipelines.encode import EMBEDDINGS
from pipelines.errors import RequestError, RunError
from pipelines.groups import groups
from pipelines.pool import Pool, is_embedded
from pipelines.store import Store

FOLDER = "thinned"

Columns = tuple[pa.Table, NDArray[np.int64]]


@dataclass(frozen=True)
class Thinned:
    """What was left out.

    Attributes:
        leaves: How many of each leaf (leaves,), int64.
        reasons: Why, with how often.
        parts: Indices of the parts that they are in.
        notes: What could not be judged.
    """

    leaves: NDArray[np.int64]
    reasons: Counter[str] = field(default_factory=Counter)
    parts: Sequence[int] = ()
    notes: Sequence[str] = ()

    def counts(self) -> dict[str, Any]:
        """What the manifest counts, without the files."""
        return {"thinned": self.reasons.total(), "reasons": dict(self.reasons), "notes": list(self.notes)}

    def files(self) -> dict[str, written.Runs]:
        """The parts that were written, for the manifest."""
        return {FOLDER: written.runs(self.parts)}

    def sentences(self, pool: int) -> Iterator[str]:
        """What to tell of it, of so many samples."""
        why = [f"{n:,} x {reason.rstrip('.')}" for reason, n in self.reasons.most_common()]
        told = f"{self.reasons.total():,} of {pool:,} samples left out before the draw"
        yield f"{told}: {'; '.join(why)}" if why else told
        yield from self.notes


def check_thinning(pool: Pool) -> None:
    """Refuse rules on what is not known of the pool, before any work starts.

    Raises:
        RequestError: The modality looks at columns that there are not.
    """
    modality = pool.modality
    for name in modality.thinned_by:
        if name not in modality.columns:
            raise RequestError(
                f"modality {modality.name!r}: thinned_by names {name!r}, and its columns are"
                f" {', '.join(modality.columns) or 'none'}"
            )
    if modality.thinned_by and is_embedded(pool):
        asked = " and ".join(f"{modality.name}.{name}" for name in modality.sampling_settings)
        raise RequestError(
            f"{asked or f'modality {modality.name!r}'}: samples are thinned by"
            f" {', '.join(modality.thinned_by)}, and a pool of embeddings does not say where these are: leave"
            " that out, or curate the samples themselves"
        )


def thin(
    modality: Modality, store: Store, parts: Sequence[str], leaves: int, seed: int
) -> tuple[ray.ObjectRef, Thinned]:
    """Leave out what breaks the rules of a modality that has some.

    Args:
        modality: Of the pool.
        store: The run directory.
        parts: Its assignments.
        leaves: Number of leaf clusters.
        seed: By which luck is decided.

    Returns:
        Rows that are left out, to be told apart by `left`, and what is to be said of them.
    """
    columns = [_columns.remote(store, group, modality.thinned_by) for group in groups(parts)]
    indices = [part_index(part) for part in parts]
    out, told = _judge.options(num_returns=2).remote(modality, seed, leaves, indices, *columns)
    thinned: Thinned = ray.get(told)
    ray.get([_write.remote(store, group, out) for group in groups(thinned.parts)])
    return out, thinned


def left(out: pa.Table | None, part: int, rows: int) -> NDArray[np.int64]:
    """Those of the rows 0..rows-1 of a part that may be drawn.

    Args:
        out: What `thin` returned, or None for no rules.
        part: Index of the part.
        rows: How many it has.
    """
    every = np.arange(rows)
    return every if out is None else np.delete(every, _of_part(out, part)["row"].to_numpy())


def _of_part(out: pa.Table, part: int) -> pa.Table:
    start, stop = np.searchsorted(out["part"].to_numpy(), [part, part + 1])
    return out.slice(start, stop - start)


@ray.remote(num_cpus=1)
def _columns(store: Store, parts: Sequence[str], names: Sequence[str]) -> list[Columns]:
    """Of each part what the rules look at, and the leaf of each sample."""
    return [
        (
            store.read_table(part_name(EMBEDDINGS, part_index(part)), ["id", "key", *names]),
            store.read_table(part, ["cluster"])["cluster"].to_numpy(),
        )
        for part in parts
    ]


@ray.remote(num_cpus=1)
def _judge(
    modality: Modality,
    seed: int,
    leaves: int,
    indices: Sequence[int],
    *grouped: list[Columns],
) -> tuple[pa.Table, Thinned]:
    """Rows that are left out (part, row, reason, instead), in the order of the parts, and their counts."""
    columns = [*chain.from_iterable(grouped)]
    table = pa.concat_tables([one for one, _ in columns])
    verdict = _Verdict(modality, table, seed)
    rows = np.flatnonzero(verdict.rule >= 0)
    starts = np.cumsum([0, *(len(one) for one, _ in columns)])
    part = np.searchsorted(starts, rows, side="right") - 1
    reason = pa.DictionaryArray.from_arrays(pa.array(verdict.rule[rows]), verdict.reasons)
    instead = verdict.instead[rows]
    out = pa.table(
        {
            "part": np.asarray(indices, np.int64)[part],
            "row": rows - starts[part],
            "reason": reason.cast(pa.string()),
            "instead": table["id"].take(pa.array(instead, mask=instead < 0)),
        }
    )
    leaf = np.concatenate([clusters for _, clusters in columns])[rows]
    counts, touched = Counter(out["reason"].to_pylist()), np.unique(out["part"]).tolist()
    return out, Thinned(np.bincount(leaf, minlength=leaves), counts, touched, verdict.notes)


class _Verdict:
    """What the rules of a modality say of all samples.

    Attributes:
        rule: Number of the rule for which each is left out (n,), -1 where it stays.
        instead: Row of the sample that stays in its place (n,), -1 where there is no single one.
        reasons: Of the rules.
        notes: What could not be judged, a sentence each.

    Raises:
        RunError: A rule cannot be kept.
    """

    def __init__(self, modality: Modality, table: pa.Table, seed: int) -> None:
        who, n = f"modality {modality.name!r}", len(table)
        try:
            rules = list(modality.rules(table.select(modality.thinned_by)))
            self.reasons = [str(rule.reason) for rule in rules]
        except Exception as error:  # a class of somebody else's may raise anything
            raise RunError(f"{who}: rules() raised {type(error).__name__}: {error}") from error
        self.rule, self.instead = np.full((2, n), -1, np.int64)
        unknown = {rule.unknown: np.zeros(n, bool) for rule in rules}
        order = lucky_order(keys_in(table["key"]), seed)
        for number, rule in enumerate(rules):
            try:
                rows, instead, judged = _broken(rule, order[self.rule[order] < 0], n)
            except (CurationError, ValueError, TypeError, pa.ArrowException) as error:
                raise RunError(f"{who}: rule {number + 1} cannot be kept: {error}") from error
            self.rule[rows], self.instead[rows] = number, instead
            unknown[rule.unknown] |= ~judged
        lacking = {what: int(mask.sum()) for what, mask in unknown.items()}
        self.notes = [
            f"{many:,} samples {what}, and are not thinned" for what, many in lacking.items() if many
        ]


def _broken(
    rule: Rule, order: NDArray[np.int64], n: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """Rows that break a rule, for each that of the sample that stays instead, or -1; which can be judged.

    Args:
        rule: The rule.
        order: Rows that are still there, the luckiest first.
        n: Rows of the pool.
    """
    if isinstance(rule, AtMost):
        group, known = _groups(rule.of, n)
        rows = at_most(group, rule.count, order[known[order]])
        return rows, np.full(len(rows), -1), known
    group, known = _groups(np.zeros(n, np.int64) if rule.within is None else rule.within, n)
    points = np.asarray(rule.points, np.float64)
    if points.ndim != 2 or len(points) != n:
        raise ValueError(f"its points have the shape {points.shape}, and there are {n:,} samples")
    known &= np.isfinite(points).all(axis=1)
    blockers = apart(points, group, rule.distance, order[known[order]])
    rows = np.flatnonzero(blockers >= 0)
    return rows, blockers[rows], known


def _groups(values: Values, n: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Groups by number (n,), and which are known."""
    column = values if isinstance(values, pa.Array | pa.ChunkedArray) else pa.array(values)
    if len(column) != n:
        raise ValueError(f"it has {len(column):,} groups, and there are {n:,} samples")
    coded = pa.chunked_array([column] if isinstance(column, pa.Array) else column.chunks, column.type)
    codes = coded.combine_chunks().dictionary_encode().indices.fill_null(-1).to_numpy().astype(np.int64)
    return codes, codes >= 0


@ray.remote(num_cpus=1)
def _write(store: Store, parts: Sequence[int], out: pa.Table) -> None:
    for part in parts:
        _write_part(store, part, out)


def _write_part(store: Store, part: int, out: pa.Table) -> None:
    here = _of_part(out, part)
    names = store.read_table(part_name(EMBEDDINGS, part), ["id", "uri"]).take(here["row"])
    for name in ("reason", "instead"):
        names = names.append_column(name, here[name])
    store.write_table(part_name(FOLDER, part), names)
