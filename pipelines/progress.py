"""What a person sees while a stage runs: a bar on a terminal, lines in a log elsewhere."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars
from rich.text import Text

from pipelines.secrets import hidden, told
from pipelines.store import Store

LOG = "log.jsonl"
SECONDS_A_LINE = 15.0
"""Between two lines of a log; a stage that is over sooner, or has all done, writes its closing line only."""


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        unit = task.fields.get("unit", "")
        speed = task.finished_speed or task.speed
        return Text(f"{speed:,.0f} {unit}/s" if speed else "", style="dim")


class Progress:
    """Tells how far a stage is, on the terminal and in ``log.jsonl`` of the run directory.

    Args:
        store: The run directory, or None to keep no log.
        console: Where to write; by default standard error.
    """

    def __init__(self, store: Store | None = None, console: Console | None = None) -> None:
        self._store = store
        self._console = console or Console(stderr=True, highlight=False, soft_wrap=True)
        self._bars: Bars | None = None
        self._stage = ""

    def start(self, stage: str, total: int | None, unit: str, done: int = 0) -> None:
        """Open the bar of a stage that has ``total`` of ``unit`` to do (None: nobody knows).

        ``done`` of them were done by an earlier attempt: they are shown, but are no part of the rate.
        """
        self.finish()
        self._stage, self._total, self._unit = stage, total, unit
        self._done, self._before, self._note = done, done, ""
        self._began = self._last_line = time.monotonic()
        self._log("start", total=total, unit=unit, done=done)
        if self._console.is_terminal:
            columns = (TextColumn("{task.description:<8}"), BarColumn(), MofNCompleteColumn(), _Rate())
            times = (TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("[dim]{task.fields[note]}"))
            self._bars = Bars(*columns, *times, console=self._console)
            self._task = self._bars.add_task(stage, total=total, completed=done, unit=unit, note="")
            self._bars.start()

    def advance(self, n: int = 1, note: str = "") -> None:
        """``n`` more are done; ``note`` says what is going on."""
        self._done += n
        self._note = told(note)
        if self._bars is not None:
            self._bars.update(self._task, advance=n, note=self._note)
        elif self._done != self._total and time.monotonic() - self._last_line >= SECONDS_A_LINE:
            self._last_line = time.monotonic()
            self._console.print(self._line(), markup=False)
            self._log("advance", done=self._done, note=self._note)

    def finish(self) -> None:
        """Close the bar; nothing happens when none is open."""
        if not self._stage:
            return
        if self._bars is not None:
            self._bars.stop()
            self._bars = None
        else:
            self._console.print(self._line(over=True), markup=False)
        self._log("finish", done=self._done, seconds=round(time.monotonic() - self._began, 3))
        self._stage = ""

    def say(self, text: str, **fields: Any) -> None:
        """A sentence that stays on the screen and in the log, with ``fields`` beside it in the log."""
        self._console.print(told(text), markup=False)
        self._log("say", text=text, **fields)

    def _line(self, over: bool = False) -> str:
        seconds = time.monotonic() - self._began
        rate = (self._done - self._before) / seconds if seconds > 0 else 0.0
        line = f"{self._stage}: {self._done:,}"
        if self._total:
            line += f" of {self._total:,}"
        line += f" {self._unit} in {seconds:,.0f} s"
        if rate > 0:
            line += f", {rate:,.0f} a second"
            if self._total and self._done < self._total and not over:
                line += f", {(self._total - self._done) / rate:,.0f} s left"
        return f"{line} ({self._note})" if self._note and not over else line

    def _log(self, event: str, **fields: Any) -> None:
        if self._store is not None:
            entry = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event}
            if self._stage:
                entry["stage"] = self._stage
            self._store.append_line(LOG, json.dumps({**entry, **hidden(fields)}))
