"""Kernels that are older than the CPU are replaced, if the user has not chosen."""

import json
import os
import subprocess
import sys

import pytest

from pipelines import blas


@pytest.mark.parametrize(
    ("flags", "chosen", "kernel"),
    [
        ("avx2 avx512f", ["SkylakeX", "Prescott"], "SkylakeX"),
        ("avx2 avx512f", ["SkylakeX", "Zen"], "SkylakeX"),
        ("avx2 avx512f", ["Haswell"], "SkylakeX"),
        ("avx2 avx512f", ["Cooperlake"], None),
        ("avx2", ["Prescott"], "Haswell"),
        ("avx2", ["Zen", "Haswell"], None),
        ("avx2 avx512f", [], None),
        ("sve", ["neoversev1"], None),
    ],
)
def test_an_old_kernel_is_named_with_a_better_one(flags, chosen, kernel):
    found = blas.better(chosen, frozenset(flags.split()))
    said = blas.warning(chosen, frozenset(flags.split()))
    if kernel is None:
        assert found is said is None
    else:
        assert found[1] == kernel
        assert f"OPENBLAS_CORETYPE={kernel}" in said
        assert all(old in said for old in chosen)


def test_the_command_uses_kernels_as_new_as_the_cpu():
    code = "from pipelines import blas; blas.choose(); " + blas._LOOK
    environment = {k: v for k, v in os.environ.items() if k != blas.CORETYPE}
    told = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert blas.better(json.loads(told.stdout), blas.flags()) is None


def test_what_the_user_has_chosen_stays(monkeypatch):
    monkeypatch.setenv(blas.CORETYPE, "Nehalem")
    blas.choose()
    assert os.environ[blas.CORETYPE] == "Nehalem"
