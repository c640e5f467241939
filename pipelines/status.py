"""``evenset status RUN``: which stages are done, what they counted, how long they took, what was rejected."""

from __future__ import annotations

from collections import Counter
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipelines import written
from pipelines.errors import RequestError
from pipelines.manifest import Manifest, read_begun, read_manifest
from pipelines.owner import CONFIG
from pipelines.run import BY_NAME, STAGES, Stage
from pipelines.secrets import told
from pipelines.store import Store
from pipelines.thinning import FOLDER

REASONS_SHOWN = 10


def status(url: str, console: Console) -> None:
    """Print the state of the run directory at ``url``.

    Raises:
        RequestError: There is no run there.
    """
    store = Store(url)
    if not store.exists(CONFIG):
        raise RequestError(f"{store.url} is no run directory: it has no {CONFIG}")
    table = Table(
        "stage", "state", "seconds", "finished", "counts", box=None, pad_edge=False, header_style="bold"
    )
    for stage in STAGES:
        done = read_manifest(store, stage.folder)
        cells = (f"{done.seconds:,.1f}", done.finished, _counts(done.counts)) if done else ("", "", "")
        table.add_row(*(Text(told(cell)) for cell in (stage.name, _state(store, stage, done), *cells)))
    console.print(told(f"run {store.url}"), markup=False)
    console.print(table)
    for stage in STAGES:
        _tell_reasons(store, f"rejected/{stage.name}", f"rejected by {stage.name}", console)
    _tell_reasons(store, FOLDER, "left out before the draw", console)


def _tell_reasons(store: Store, folder: str, what: str, console: Console) -> None:
    reasons = _reasons(store, folder)
    if reasons:
        console.print(f"\n{what}: {reasons.total():,}", markup=False)
        for reason, count in reasons.most_common(REASONS_SHOWN):
            console.print(told(f"  {count:>9,}  {reason}"), markup=False)
        if len(reasons) > REASONS_SHOWN:
            console.print(f"  and {len(reasons) - REASONS_SHOWN} other reasons ({folder}/)")


def _state(store: Store, stage: Stage, done: Manifest | None) -> str:
    if done is None:
        begun = read_begun(store, stage.folder) is not None
        parts = len(store.list(stage.folder))
        return f"begun, {parts:,} parts" if begun and parts else "begun" if begun else "not begun"
    if stage.after:
        upstream = read_manifest(store, BY_NAME[stage.after].folder)
        if not upstream or done.basis.inputs.get(f"result of {stage.after}") != upstream.fingerprint:
            return f"out of date: {stage.after} changed"
    return "done"


def _counts(counts: dict[str, Any]) -> str:
    shown = []
    for key, value in counts.items():
        if isinstance(value, bool) or key in ("digest", "state", "learned", "notes", "reasons"):
            continue
        if isinstance(value, int):
            shown.append(f"{key} {value:,}")
        elif isinstance(value, float):
            shown.append(f"{key} {value:.6g}")
        elif isinstance(value, list):
            shown.append(f"{key} {', '.join(map(str, value))}")
    return "; ".join(shown)


def _reasons(store: Store, folder: str) -> Counter[str]:
    reasons: Counter[str] = Counter()
    for rel in written.parts(store, folder):
        reasons.update(store.read_table(rel, ["reason"])["reason"].to_pylist())
    return reasons
