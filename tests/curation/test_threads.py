"""Threads and instruction sets of the BLAS do not matter; each runs in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.blas import flags


def digest_with(*size, **environment):
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_CORETYPE")
    clean = {k: v for k, v in os.environ.items() if k not in names}
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "tests.curation.threads", *map(str, size)]
    done = subprocess.run(
        command, env={**clean, **environment}, cwd=root, capture_output=True, text=True, check=True
    )
    assert len(done.stdout) > 100
    return done.stdout


@pytest.mark.slow
def test_threads_do_not_matter():
    size = 100_000, 5000
    assert digest_with(*size, OPENBLAS_NUM_THREADS="2") == digest_with(*size, OPENBLAS_NUM_THREADS="1")


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="these are instruction sets of x86-64")
def test_instruction_sets_do_not_matter():
    kinds = ["Nehalem", "Haswell", *["SkylakeX"] * ("avx512f" in flags())]
    assert len({digest_with(20_000, 1000, OPENBLAS_CORETYPE=kind) for kind in kinds}) == 1
