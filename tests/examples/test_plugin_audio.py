"""The package in examples/plugin_audio: its tests, its players in a browser, and all of it as installed."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from curation.balance import kl_to_uniform
from pipelines.progress import Progress
from pipelines.report import report
from pipelines.store import Store
from tests.modalities.distributions import install
from tests.pipelines.finished import Run, configured
from tests.pipelines.test_report_page import Visit, browser

from .fresh import environment

__all__ = ["browser"]

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "examples/plugin_audio"


@pytest.mark.slow
def test_its_own_tests_pass():
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=PACKAGE,
        env=os.environ | {"PYTHONPATH": f"{PACKAGE}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout


@pytest.fixture
def sounds(tmp_path, monkeypatch):
    """Sounds, and the plugin on the import path as if it were installed."""
    install(tmp_path / "site", "evenset-audio", "[evenset.modalities]\nsound = evenset_audio:Sound\n")
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "site"), str(PACKAGE)])
    from make_sounds import make

    make(tmp_path / "sounds", 60)
    return tmp_path / "sounds"


def test_its_samples_can_be_played_in_the_report(sounds, tmp_path, browser):
    run = Run(tmp_path, samples=60)
    ids = sorted(file.relative_to(sounds).as_posix() for file in sounds.rglob("*.wav"))
    for part in run.store.list("embeddings"):
        table = run.store.read_table(part)
        run.store.write_table(part, table.set_column(0, "id", pa.array(ids)))
    report(configured(sounds, modality="sound"), run.store, Progress(run.store))
    visit = Visit(browser, run, "light")
    check_players(visit.page, 24)
    assert visit.complaints == []
    visit.page.context.close()


def check_players(page, count):
    """All players of the page have loaded a sound of half a second or more."""
    players = page.locator(".sheet.rows audio[controls]")
    assert players.count() == count
    page.wait_for_function(
        "() => [...document.querySelectorAll('audio')].every(a => a.readyState > 0 || a.error)"
    )
    lengths = page.evaluate("[...document.querySelectorAll('audio')].map(a => a.error ? 0 : a.duration)")
    assert min(lengths) > 0.4
    box = players.first.bounding_box()
    assert box["height"] > 20
    assert page.locator(".sheet.rows svg path").count() == count


@pytest.mark.slow
@pytest.mark.timeout(1800)  # a fresh environment, and several runs in it
def test_freshly_installed_it_curates_sounds_more_evenly_than_chance(tmp_path, browser):
    """A venv of its own, without this project's folder on its path; means over three seeds."""
    shell = environment(tmp_path / "venv", str(PACKAGE))
    curated, random = [], []
    for seed in range(3):
        work = tmp_path / str(seed)
        shutil.copytree(PACKAGE, work, ignore=shutil.ignore_patterns("evenset_audio", "tests"))
        shell(f"python make_sounds.py sounds 600 {seed}", cwd=work)
        (work / "sounds/no_sound.wav").write_bytes(b"RIFF")
        said = shell(f"evenset run sounds.yaml seed={seed}", cwd=work)
        assert "1 of 601 samples rejected" in said
        run = Store(str(work / "runs/sounds"))
        metrics = json.loads(run.read_bytes("metrics.json"))
        assert (metrics["pool"], metrics["embedded"], metrics["rejected"]) == (601, 600, 1)
        pool = [id for part in run.list("embeddings") for id in run.read_table(part)["id"].to_pylist()]
        chosen = [id for part in run.list("curated") for id in run.read_table(part)["id"].to_pylist()]
        assert len(chosen) == 80
        curated.append(kl(chosen, pool))
        draws = np.random.default_rng(seed)
        random.append(np.mean([kl(draws.choice(pool, 80, replace=False), pool) for _ in range(20)]))
    assert np.mean(curated) < 0.7 * np.mean(random), (curated, random)
    listed = shell("evenset modalities", cwd=tmp_path)
    (line,) = [line for line in listed.splitlines() if line.startswith("sound ")]
    assert "evenset-audio 0.1.0" in line

    class Page:
        store = run

    visit = Visit(browser, Page, "light")
    check_players(visit.page, 24)
    visit.page.context.close()


def kl(ids, pool):
    """Of the classes, which are the folders, to uniform."""
    classes = sorted({id.partition("/")[0] for id in pool})
    return kl_to_uniform([sum(id.startswith(f"{name}/") for id in ids) for name in classes])
