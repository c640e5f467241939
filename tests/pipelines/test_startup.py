"""Every machine runs the same code with the same plugins, or the difference is named before work starts."""

import json
import os
import socket
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
import ray.data
from ray.data import DataContext

from pipelines import blas, startup, stream
from pipelines.cli import explain
from pipelines.config import Config
from pipelines.sizing import Sizing
from pipelines.store import Store

from .conftest import blobs

ONE = Sizing(1, 1, 1, 1, cpus=1.0, gpus=0.0, task_cpus=1.0)


def install_plugin(folder, version="1.2", point="tiny = tiny_plugin:Tiny"):
    """A distribution with an encoder, as pip leaves it in ``folder``."""
    info = folder / f"evenset_tiny-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: evenset-tiny\nVersion: {version}\n")
    (info / "entry_points.txt").write_text(f"[evenset.encoders]\n{point}\n")
    return folder


def identity_with(folder):
    """The identity of a process that starts with ``folder`` on its path."""
    code = "import json; from pipelines.startup import identity; print(json.dumps(identity()))"
    told = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(told.stdout)


def test_two_machines_that_are_the_same_do_not_differ(tmp_path):
    one, two = (identity_with(install_plugin(tmp_path / name)) for name in "ab")
    assert one == two
    assert one["plugin evenset.encoders:tiny"] == "tiny_plugin:Tiny of evenset-tiny 1.2"
    assert startup.difference("there", one, two) is None


@pytest.mark.parametrize(
    ("theirs", "said"),
    [
        ({"version": "1.3"}, "tiny_plugin:Tiny of evenset-tiny 1.3 but this one has"),
        ({"point": "tiny = tiny_plugin:Other"}, "tiny_plugin:Other of evenset-tiny 1.2 but this one has"),
        ({"point": "huge = tiny_plugin:Tiny"}, "plugin evenset.encoders:huge tiny_plugin:Tiny of"),
    ],
)
def test_a_plugin_of_another_version_value_or_name_is_a_difference(tmp_path, theirs, said):
    here = identity_with(install_plugin(tmp_path / "here"))
    there = identity_with(install_plugin(tmp_path / "there", **theirs))
    told = startup.difference("node-7", there, here)
    assert told.startswith("the machine node-7 has plugin evenset.encoders:")
    assert said in told


@pytest.mark.parametrize("missing", ["there", "here"])
def test_a_plugin_that_one_of_two_has_is_a_difference(tmp_path, missing):
    identities = {
        name: identity_with(tmp_path if name == missing else install_plugin(tmp_path / name))
        for name in ("here", "there")
    }
    told = startup.difference("node-7", **identities)
    nothing = "has plugin evenset.encoders:tiny nothing of the kind"
    assert (f"the machine node-7 {nothing}" in told) == (missing == "there")
    assert nothing.removeprefix("has plugin evenset.encoders:tiny ") in told


def test_a_plugin_of_the_driver_alone_stops_the_run_before_it_starts(
    evenset, write_config, tmp_path, monkeypatch
):
    np.save(tmp_path / "pool.npy", blobs(200))
    config = write_config(tmp_path / "pool.npy", cluster={"n_clusters": [10, 3]})
    # the workers of this Ray do not look there: they have the path of the process that started it
    monkeypatch.syspath_prepend(install_plugin(tmp_path / "site"))
    done = evenset("run", config)
    assert done.code == 2, done
    assert "plugin evenset.encoders:tiny nothing of the kind but this one has tiny_plugin:Tiny" in done.text
    assert not (tmp_path / "run" / "embeddings").exists()


@pytest.mark.parametrize("stage", ["embed", "cluster"])
def test_a_machine_that_joins_later_is_refused_by_the_first_who_works_there(
    evenset, write_config, tmp_path, monkeypatch, stage
):
    """As the autoscaler's do, which are not there at the start."""
    np.save(tmp_path / "pool.npy", blobs(200))
    config = write_config(tmp_path / "pool.npy", cluster={"n_clusters": [10, 3]})
    if stage == "cluster":
        assert evenset("embed", config).code == 0
    monkeypatch.syspath_prepend(install_plugin(tmp_path / "site"))
    monkeypatch.setattr(startup, "_check_machines", lambda _: [])  # there is none but the driver's
    done = evenset(stage, config)
    assert done.code == 2, done
    refused = f"evenset: the machine {socket.gethostname()} has plugin evenset.encoders:tiny nothing of"
    assert any(line.startswith(refused) for line in done.text.splitlines()), done


def test_a_machine_that_joins_later_without_the_plugin_in_use_is_named(
    evenset, write_config, tmp_path, monkeypatch
):
    """Its work cannot even be unpacked there, so that no line of ours runs on it."""
    pool = tmp_path / "pool"
    pool.mkdir()
    for i in range(5):
        (pool / f"{i}.txt").write_text(f"text {i}")
    site = install_plugin(tmp_path / "site")
    (site / "tiny_plugin.py").write_text(
        "from modalities.encoders.patches import Patches\nclass Tiny(Patches):\n    accepts = ('text',)\n"
    )
    monkeypatch.syspath_prepend(site)
    monkeypatch.setattr("pipelines.run.start", lambda *_, **__: [])  # there was none but the driver's
    config = write_config(pool, modality="text", encoder={"model": "tiny"})
    done = evenset("embed", config)
    assert done.code == 2, done
    assert f"the machine {socket.gethostname()} has plugin evenset.encoders:tiny nothing of" in done.text
    assert "Traceback" not in done.text


class Doubled:
    """An actor with something to begin with."""

    def __init__(self, times):
        self.times = times

    def __call__(self, block):
        return pa.table({"n": [self.times * n.as_py() for n in block["n"]]})


@pytest.mark.slow
def test_an_actor_begins_on_a_machine_like_the_drivers_alone(ray_cluster, tmp_path, monkeypatch):
    def doubled():
        parts = ray.data.from_arrow([pa.table({"n": [n]}) for n in range(3)])
        with DataContext.current(stream.context()):
            built = stream.actors(parts, Doubled, size=ONE, times=2)
            return sorted(row["n"] for row in built.iter_rows())

    assert doubled() == [0, 2, 4]
    monkeypatch.syspath_prepend(install_plugin(tmp_path))
    with pytest.raises(Exception, match="plugin evenset.encoders:tiny nothing of the kind") as refusal:
        doubled()
    assert explain(refusal.value)[1] == 2


@pytest.mark.slow
def test_a_kernel_older_than_the_cpu_is_named_with_its_machine(tmp_path):
    """The warning is of the machine's own process: the driver's kernels may be others."""
    found = blas.better(["Nehalem"], blas.flags())
    if found is None or not blas.kernels():
        pytest.skip("this CPU has no AVX2, or NumPy no OpenBLAS")
    code = (
        "import sys; from pipelines.config import Config; from pipelines.startup import start\n"
        "from pipelines.store import Store\n"
        "start(Config(), Store(sys.argv[1]), say=print)"
    )
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"} | {blas.CORETYPE: "Nehalem"}
    told = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    (said,) = told.stdout.splitlines()
    assert said.startswith("on the machine ")
    assert "OpenBLAS uses its kernel Nehalem" in said
    assert f"set {blas.CORETYPE}={found[1]}" in said


def test_kernels_as_new_as_the_cpu_need_no_word(tmp_path, ray_cluster):
    """The machine's process and this one have the same environment here, and so the same kernels."""
    old = blas.warning(blas.kernels(), blas.flags())
    said = []
    startup.start(Config(), Store(str(tmp_path)), say=said.append)
    assert len(said) == (0 if old is None else 1)
