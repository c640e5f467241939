"""A fresh virtual environment with the project in it, for what has to work where nothing else is."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
UV = Path(sys.executable).parent / "uv"


def environment(folder, *packages):
    """Make a venv with the project and ``packages``, as pinned; returns what runs a command line in it."""
    uv("venv", folder, "--python", sys.executable)
    # built from the project's files, as anybody gets it, and not a link to them
    pins = ["--constraint", ROOT / "constraints.txt"]
    uv("pip", "install", *pins, f"evenset[cpu] @ {ROOT.as_uri()}", *packages, VIRTUAL_ENV=str(folder))

    def shell(command, cwd):
        inherited = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "RAY_ADDRESS")}
        path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", "-euc", command],
            cwd=cwd,
            env=inherited | {"PATH": path, "VIRTUAL_ENV": str(folder), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{command}:\n{done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    return shell


def uv(*arguments, **variables):
    """Run uv."""
    done = subprocess.run(
        [UV, *map(str, arguments)], env=os.environ | variables, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
