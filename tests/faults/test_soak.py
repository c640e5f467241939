"""200,000 small samples through the whole pipeline on two CPUs, and a fault every 20 seconds.

With ``--memory=FILE`` the memory of driver and actors over time is plotted.
"""

import time
from collections import defaultdict
from contextlib import suppress

import numpy as np
import psutil
import pytest

from pipelines.manifest import read_manifest

from . import head
from .conftest import environment
from .curations import Driver, moment, pictures, write_config

SAMPLES, EVERY = 200_000, 20.0
LONGEST = 3600.0  # seconds
ROLES = {
    "encoder": "ray::MapWorker",
    "point shard": "ray::PointShard",
    "centroid shard": "ray::CentroidShard",
    "task": "ray::",
}
AGENTS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")
FAULTS = [*ROLES, "driver", "node"]
GROWTH, NOISE = 0.10, 30e6  # of the memory of a role, and bytes: what is flat


class Watch:
    """The largest process of each role, every second: (seconds, stage, bytes of its own)."""

    def __init__(self):
        self.began, self.seen = time.monotonic(), defaultdict(list)

    def look(self, cluster, driver):
        now, most = time.monotonic() - self.began, defaultdict(int)
        stage = driver.now()
        for process in [psutil.Process(driver.process.pid), *cluster.processes("ray::")]:
            with suppress(psutil.NoSuchProcess):
                title = " ".join(process.cmdline())
                roles = (name for name, start in ROLES.items() if title.startswith(start))
                role = "driver" if process.pid == driver.process.pid else next(roles, None)
                if role is not None:
                    # pages of the object store are Ray's, and come and go with what waits there
                    about = process.memory_info()
                    most[role] = max(most[role], about.rss - about.shared)
        for role, size in most.items():
            self.seen[role].append((now, stage, size))

    def growth(self, role, stage):
        """Of a role in a stage: the median of its later half over that of its first, and the first."""
        sizes = [size for _, when, size in self.seen[role] if when == stage]
        first, later = np.array_split(sizes, 2)
        return np.median(later) - np.median(first), np.median(first)

    def plot(self, file, faults):
        matplotlib = pytest.importorskip("matplotlib", reason="the plot wants evenset[bench]")
        matplotlib.use("Agg")
        from matplotlib import pyplot

        figure, axes = pyplot.subplots(figsize=(10, 5))
        for role, points in self.seen.items():
            axes.plot([p[0] for p in points], [p[2] / 1e6 for p in points], label=role, linewidth=1)
        for when, _ in faults:
            axes.axvline(when, color="lightgrey", linewidth=0.6, zorder=0)
        axes.set(xlabel="seconds (grey: a fault)", ylabel="MB of the largest process", ylim=(0, None))
        axes.legend(frameon=False)
        figure.savefig(file, dpi=120, bbox_inches="tight")


class Soak(Driver):
    """A driver that tells in which stage it is."""

    def now(self):
        begun = [name for name in ("embed", "cluster", "sample", "export", "report") if self.stage(name)[0]]
        return begun[-1] if begun else "start"


@pytest.mark.soak
@pytest.mark.timeout(LONGEST + 600)
def test_a_long_run_under_faults(request, survived, tmp_path):
    pool = pictures(tmp_path / "digits.parquet", SAMPLES, 1000, scale=1)
    wanted = {"n_clusters": [4000, 400, 40], "resample": {"steps": 3}, "checkpoint": 5}
    file, run = write_config(tmp_path, pool, cluster=wanted, sample={"size": 20_000})
    watch, faults = Watch(), []
    with head.cluster(environment(), cpus=1) as there:
        node = there.add(cpus=1)
        driver = Soak(there.environment, file, run)
        try:
            while True:
                until = watch.began + EVERY * (len(faults) + 1)
                while time.monotonic() < until and not driver.is_over():
                    watch.look(there, driver)
                    time.sleep(1)
                if driver.is_over():
                    break
                assert time.monotonic() < watch.began + LONGEST, driver.said
                kind, node, driver = strike(len(faults), there, node, driver)
                faults.append((time.monotonic() - watch.began, kind))
            driver.wait()
        finally:
            driver.kill()
    seconds = time.monotonic() - watch.began
    if plot := request.config.getoption("--memory"):
        watch.plot(plot, faults)
    counts = [read_manifest(run, folder).counts for folder in ("embeddings", "curated")]
    assert counts[0]["embedded"] == SAMPLES
    assert counts[1]["curated"] == 20_000
    assert len(faults) >= 10, faults
    for role, stage in (
        ("driver", "embed"),
        ("encoder", "embed"),
        ("driver", "cluster"),
        ("point shard", "cluster"),
    ):
        more, before = watch.growth(role, stage)
        assert more <= GROWTH * before + NOISE, (role, stage, more, before)
    kinds = ", ".join(f"{sum(kind == one for _, one in faults)} of {kind}" for kind in FAULTS)
    survived("soak", f"0 to {len(faults) - 1}: {kinds}", "completes, memory flat", seconds)


def strike(seed, cluster, node, driver):
    """One fault, as the seed says; where there is none of the kind to be killed, a task."""
    kind = FAULTS[int(moment("soak", seed, 0, 1) * len(FAULTS))]
    if kind == "driver":
        driver.kill()
        driver = Soak(cluster.environment, driver.file, driver.run)
    elif kind == "node":
        node.kill()
        cluster.nodes.remove(node)
        node = cluster.add(cpus=1)
    else:
        kind = kind if workers(cluster, kind) else "task"
        while not (found := workers(cluster, kind)):
            time.sleep(0.1)
        with suppress(psutil.NoSuchProcess):
            found[seed % len(found)].kill()
    return kind, node, driver


def workers(cluster, role):
    """Its processes, without Ray's own agents, with each of which a whole machine ends."""
    agents = {one.pid for agent in AGENTS for one in cluster.processes(agent)}
    return [one for one in cluster.processes(ROLES[role]) if one.pid not in agents]
