"""Threads and instruction sets do not matter: each fit runs in a process of its own, on one pool."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__
from threadpoolctl import ThreadpoolController

from curation.kernels.threads import each
from pipelines.blas import flags
from tests.curation.pools import lattice

ROOT = Path(__file__).parents[2]
DISPATCHED = " ".join(name for name in __cpu_dispatch__ if __cpu_features__[name])

# What makes libraries take older instructions: the route of the products, the environment, and what shows it.
OLD = {
    "OpenBLAS and NumPy": (
        "numpy",
        {"OPENBLAS_CORETYPE": "Nehalem", "NPY_DISABLE_CPU_FEATURES": DISPATCHED},
        ["numpy", "sort"],
    ),
    "oneDNN": ("onednn", {"ONEDNN_MAX_CPU_ISA": "SSE41"}, ["onednn"]),
}
OLD_AS_WELL = {
    "MKL": ("torch", {"MKL_ENABLE_INSTRUCTIONS": "SSE4_2", "MKL_CBWR": "COMPATIBLE"}, ["torch"]),
    # compiles everything anew
    "numba": ("numpy", {"NUMBA_CPU_NAME": "nehalem", "NUMBA_CPU_FEATURES": ""}, ["loop"]),
}
LESS_OLD = {
    "OpenBLAS of SkylakeX": ("numpy", {"OPENBLAS_CORETYPE": "SkylakeX"}),
    "oneDNN with AVX2": ("onednn", {"ONEDNN_MAX_CPU_ISA": "AVX2"}),
    "MKL with AVX2": ("torch", {"MKL_ENABLE_INSTRUCTIONS": "AVX2", "MKL_CBWR": "AVX2"}),
}
if "avx512f" not in flags():
    del LESS_OLD["OpenBLAS of SkylakeX"]
ALL = OLD | OLD_AS_WELL | LESS_OLD
# by itself OpenBLAS may take an old kernel on a CPU that it does not know
USUAL = {"OMP_NUM_THREADS": "1"}
if "avx2" in flags():
    USUAL["OPENBLAS_CORETYPE"] = "Haswell"
CHOSEN = {"OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"}.union(
    *(environment for _, environment, *_ in ALL.values())
)

modern = pytest.mark.skipif("avx2" not in flags(), reason="this CPU has no newer instructions to do without")
two_cores = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="this machine has one core")


@pytest.fixture(
    scope="module",
    # of more than 1,536 clusters more than 2,048 points are drawn at a time, which threads share out
    params=[(6000, 1600), pytest.param((100_000, 5000), marks=pytest.mark.slow)],
    ids="{0[0]} points".format,
)
def pool(request, tmp_path_factory):
    """A file of points that are wide enough for a sketch, and the number of leaves."""
    n, leaves = request.param
    file = tmp_path_factory.mktemp("pool") / "points.npy"
    np.save(file, lattice(n, 160))
    return str(file), str(leaves)


def told(pool, route="numpy", *rough, **chosen):
    """What `tests.curation.threads` prints in this environment."""
    environment = {name: value for name, value in os.environ.items() if name not in CHOSEN}
    environment |= USUAL | chosen
    command = [sys.executable, "-m", "tests.curation.threads", *pool, route, *rough]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=True)
    return dict(line.split() for line in done.stdout.splitlines())


@pytest.fixture(scope="module")
def plain(pool):
    """With one thread, and the machine as it is."""
    return told(pool, "numpy,torch,onednn")


def test_the_fit_has_every_part_of_the_recipe(plain):
    start = {"directions", "attract", "merits", "thin"}
    near = {"sketched", "candidates", "hint"}
    swaps = {"pivots", "halves", "nearest_others", "replace"}
    assert start | near | swaps <= set(plain["parts"].split(","))


@two_cores
def test_threads_do_not_matter(pool, plain):
    found = told(pool, OMP_NUM_THREADS="2")
    assert (plain["threads"], found["threads"]) == ("1", "2")
    assert found["tree"] == plain["tree"]


@pytest.mark.slow
def test_threads_of_the_libraries_do_not_matter(pool, plain):
    assert told(pool, OPENBLAS_NUM_THREADS="2")["tree"] == plain["tree"]
    assert told(pool, "torch", MKL_NUM_THREADS="2")["tree"] == plain["tree"]


@modern
@pytest.mark.parametrize(
    "library", [*OLD, *(pytest.param(name, marks=pytest.mark.slow) for name in OLD_AS_WELL)]
)
def test_old_instructions_do_not_matter(pool, plain, library):
    route, environment, shown = ALL[library]
    found = told(pool, route, **environment)
    assert [name for name in found if found[name] != plain[name]] == shown


@modern
@pytest.mark.slow
@pytest.mark.parametrize("library", LESS_OLD)
def test_less_old_instructions_do_not_matter(pool, plain, library):
    route, environment = LESS_OLD[library]
    assert told(pool, route, **environment)["tree"] == plain["tree"]


@modern
@pytest.mark.slow
def test_leaving_close_calls_to_float32_would_be_seen(pool):
    rough, old = (told(pool, "numpy", "rough", **how) for how in ({}, {"OPENBLAS_CORETYPE": "Nehalem"}))
    assert rough["tree"] != old["tree"]


def test_a_forked_process_has_threads_of_its_own():
    """Those of its parent are not in it: work that waits for them waits for ever."""
    program = (
        "import multiprocessing, threading\n"
        "from curation.kernels.threads import each\n"
        "def work():\n"
        "    both = threading.Barrier(2)\n"
        "    each(2, lambda _: both.wait(), [1, 2])\n"
        "work()\n"
        "child = multiprocessing.get_context('fork').Process(target=work)\n"
        "child.start()\n"
        "child.join(30)\n"
        "print(child.exitcode)\n"
        "child.kill()\n"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == "0\n"


BLAS = ThreadpoolController().select(user_api="blas")


def set_threads(limit):
    """In a thread that is gone afterwards: threadpoolctl lets no other interfere with one that lives."""
    thread = threading.Thread(target=BLAS.limit, kwargs={"limits": limit})
    thread.start()
    thread.join()


class Guest:
    """Computes in a thread, from now until it is told to leave."""

    def __init__(self):
        self.here, self.may_go = threading.Event(), threading.Event()
        self.thread = threading.Thread(target=each, args=(1, self.stay, [0]))
        self.thread.start()
        assert self.here.wait(60)

    def stay(self, _):
        self.here.set()
        assert self.may_go.wait(60)

    def leave(self):
        self.may_go.set()
        self.thread.join()


def test_threads_that_compute_at_a_time_give_back_those_of_blas():
    def threads():
        return {library["filepath"]: library["num_threads"] for library in BLAS.info()}

    before = threads()
    set_threads(2)
    try:
        asked = threads()  # some library may have no more than one
        assert 2 in asked.values()
        first, second = Guest(), Guest()
        assert set(threads().values()) == {1}
        first.leave()
        second.leave()
        assert threads() == asked
    finally:
        set_threads(max(before.values()))
