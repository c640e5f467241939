"""What is shown while a stage runs, on a terminal and in a log."""

import io
import json

from rich.console import Console

from pipelines.progress import Progress
from pipelines.store import Store


def test_a_log_gets_a_line_a_stage_and_events(tmp_path):
    shown = io.StringIO()
    progress = Progress(Store(str(tmp_path)), Console(file=shown, width=100))
    progress.start("embed", 1000, "samples")
    progress.advance(600, "3 rejected")
    progress.advance(400)
    progress.say("embed: 3 rejected [brackets are text]", rejected=3)
    progress.finish()
    progress.finish()
    assert "embed: 1,000 of 1,000 samples" in shown.getvalue()
    assert "[brackets are text]" in shown.getvalue()
    events = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [event["event"] for event in events] == ["start", "say", "finish"]
    assert events[-1]["done"] == 1000
    assert events[1]["rejected"] == 3


def test_a_terminal_gets_a_bar():
    shown = io.StringIO()
    progress = Progress(None, Console(file=shown, force_terminal=True, width=100))
    progress.start("cluster", None, "fits")
    progress.advance(2, "level 1")
    progress.finish()
    progress.start("sample", 3, "parts")
    progress.advance(3)
    progress.finish()
    assert "cluster" in shown.getvalue()
    assert "3/3" in shown.getvalue()


def test_what_an_earlier_attempt_did_is_no_part_of_the_rate():
    shown = io.StringIO()
    progress = Progress(None, Console(file=shown, width=100))
    progress.start("embed", 1000, "samples", done=1000)
    progress.finish()
    assert "embed: 1,000 of 1,000 samples" in shown.getvalue()
    assert "a second" not in shown.getvalue()
