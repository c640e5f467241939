"""docs/plugins.md goes from an empty folder to a curated set: its files are written, its commands run."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

import modalities
from pipelines.configfile import load_config
from pipelines.errors import RequestError
from pipelines.store import Store
from tests.pipelines.conftest import rows_of
from tests.pipelines.test_report_page import Visit, browser

from .fresh import environment

__all__ = ["browser"]

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/plugins.md").read_text()
BLOCKS = re.findall(r"^```(\w+)(?: (\S+))?\n(.*?)^```", PAGE, re.S | re.M)


def write_files(folder):
    """Every block that names a file."""
    for _, what, text in BLOCKS:
        if what.startswith("file="):
            (folder / what.removeprefix("file=")).write_text(text)


def commands(what):
    """Every command of the page that runs in the present environment (``""``) or wants its own (``venv``)."""
    return "".join(text for language, told, text in BLOCKS if language == "bash" and told == what)


def check(run):
    """The page's promises of a run."""
    assert len(rows_of(run, "embeddings")) == 400
    (rejected,) = rows_of(run, "rejected/embed").values()
    assert rejected["id"] == "no-dna"
    assert "other letters" in rejected["reason"]
    assert len(rows_of(run, "curated")) == 40
    assert {"length", "gc"} <= rows_of(run, "embeddings").popitem()[1].keys()


def test_every_block_is_a_file_or_commands():
    assert {(language, bool(what)) for language, what, _ in BLOCKS} <= {
        ("python", True), ("yaml", True), ("toml", True), ("bash", False), ("bash", True),
    }  # fmt: skip
    assert len(BLOCKS) == 8


def test_its_links_lead_somewhere():
    for link in re.findall(r"\]\(([^)#]+)\)", PAGE):
        assert (ROOT / "docs" / link).exists(), link


@pytest.mark.slow
def test_from_an_empty_folder_to_a_curated_set(tmp_path, browser):
    write_files(tmp_path)
    inherited = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "RAY_ADDRESS")}
    done = subprocess.run(
        ["bash", "-euc", commands("")],
        cwd=tmp_path,
        env=inherited | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    run = Store(str(tmp_path / "run"))
    check(run)

    class Page:
        store = run

    visit = Visit(browser, Page, "light")
    assert visit.page.locator(".sheet.rows code").count() == 24
    assert visit.complaints == []
    visit.page.context.close()


def test_its_keys_are_checked_and_its_rules_are_kept(tmp_path, monkeypatch):
    write_files(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    strict = ["modality=strict:StrictDna", "dna.per_gc=5"]
    try:
        config = load_config("dna.yaml", strict)
        made = modalities.modality(config.modality, config.own)
        with pytest.raises(RequestError, match="Did you mean dna.shortest"):
            load_config("dna.yaml", [*strict, "dna.shortst=9"])
        with pytest.raises(modalities.Rejected, match="shorter than 4"):
            made.decode(b"ACG")
    finally:
        for module in ("strict", "dna"):
            sys.modules.pop(module, None)
    assert made.thinned_by == ("gc",)
    (rule,) = made.rules(pa.table({"gc": [0.501, 0.499, 0.6]}))
    assert (rule.count, rule.of.to_pylist()) == (5, [50, 50, 60])


@pytest.mark.slow
@pytest.mark.timeout(1800)  # a fresh environment, and several runs in it
def test_as_a_package_in_a_fresh_environment(tmp_path):
    shell = environment(tmp_path / "venv", "pip")
    work = tmp_path / "work"
    work.mkdir()
    write_files(work)
    said = shell(commands("") + commands("venv"), cwd=work)
    assert any(line.split()[:1] == ["dna"] and "evenset-dna 1.0" in line for line in said.splitlines()), said
    check(Store(str(work / "run")))
    check(Store(str(work / "run-of-the-package")))
    kept = rows_of(Store(str(work / "run")), "curated")
    assert rows_of(Store(str(work / "run-of-the-package")), "curated") == kept
    assert [line.split(":")[0] for line in said.splitlines() if ": done again" in line] == [
        "sample", "export", "report"
    ]  # fmt: skip
    strict = Store(str(work / "run-strict"))
    check(strict)
    assert {row["reason"] for row in rows_of(strict, "thinned").values()} == {
        "5 others have as much G and C."
    }
