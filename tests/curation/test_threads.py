"""Threads and instruction sets of the BLAS do not matter; each runs in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path


def digest_with(**environment):
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_CORETYPE")
    clean = {k: v for k, v in os.environ.items() if k not in names}
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "tests.curation.threads"]
    done = subprocess.run(
        command, env={**clean, **environment}, cwd=root, capture_output=True, text=True, check=True
    )
    return done.stdout


def test_threads_and_instruction_sets_do_not_matter():
    one = digest_with(OPENBLAS_NUM_THREADS="1")
    assert len(one) > 100
    assert digest_with(OPENBLAS_NUM_THREADS="2") == one
    if os.uname().machine == "x86_64":  # older kernels of the same BLAS
        assert digest_with(OPENBLAS_NUM_THREADS="1", OPENBLAS_CORETYPE="Nehalem") == one
