"""Nothing in the packages reads a pickle, or runs text as a program: their syntax trees are walked."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("modalities", "curation", "pipelines")
FILES = sorted(file for package in PACKAGES for file in (ROOT / package).rglob("*.py"))

PICKLING = {
    "pickle",
    "_pickle",
    "cPickle",
    "cloudpickle",
    "dill",
    "marshal",
    "shelve",
    "joblib",
    "jsonpickle",
}
ARCHIVES = {"extractall", "unpack_archive"}
RUNNING = {"eval", "exec", "compile", "execfile", "__import__"}
SAFE_LOADERS = {"SafeLoader", "CSafeLoader", "_Loader"}


def keyword(call, name):
    return next((k.value for k in call.keywords if k.arg == name), None)


def is_constant(node, value):
    return isinstance(node, ast.Constant) and node.value is value


def dotted(node):
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def wrong_call(call):
    """What is wrong with a call, or None."""
    name = dotted(call.func)
    last = name.rpartition(".")[2]
    if name in RUNNING or last in ARCHIVES:
        return name
    if name in ("np.load", "numpy.load") and not is_constant(keyword(call, "allow_pickle"), False):
        return f"{name} without allow_pickle=False"
    if name == "torch.load" and not is_constant(keyword(call, "weights_only"), True):
        return "torch.load without weights_only=True"
    if name in ("torch.jit.load", "torch.hub.load", "torch.package.PackageImporter"):
        return name
    if name in ("pd.read_pickle", "pandas.read_pickle", "np.core.multiarray.loads"):
        return name
    if name.startswith("yaml.") and "load" in last and last not in ("safe_load", "safe_load_all"):
        given = keyword(call, "Loader") or (call.args[1] if len(call.args) > 1 else None)
        if given is None or dotted(given).rpartition(".")[2] not in SAFE_LOADERS:
            return f"{name} with an unsafe loader"
    if name in ("os.system", "os.popen") or is_constant(keyword(call, "shell"), True):
        return f"{name} through a shell"
    remote = keyword(call, "trust_remote_code")
    if remote is not None and not is_constant(remote, False):
        return "trust_remote_code"
    for unsafe in (keyword(call, "weights_only"), keyword(call, "use_safetensors")):
        if unsafe is not None and not is_constant(unsafe, True):
            return f"{name} that may unpickle weights"
    return None


def wrong_in(text):
    """Everything in a module that reads pickles or runs text."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found += [a.name for a in node.names if PICKLING & set(a.name.split("."))]
        elif isinstance(node, ast.ImportFrom):
            names = {*(node.module or "").split("."), *(alias.name for alias in node.names)}
            found += sorted(PICKLING & names)
        elif isinstance(node, ast.Attribute) and node.attr in PICKLING:
            found.append(dotted(node))
        elif isinstance(node, ast.Call) and (what := wrong_call(node)):
            found.append(what)
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_no_module_reads_a_pickle_or_runs_text(file):
    assert wrong_in(file.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "from ray import cloudpickle",
        "import ray\nray.cloudpickle.loads(b'')",
        "from joblib import load",
        "import numpy as np\nnp.load(f)",
        "import numpy as np\nnp.load(f, allow_pickle=True)",
        "import torch\ntorch.load(f)",
        "import torch\ntorch.load(f, weights_only=False)",
        "import torch\ntorch.jit.load(f)",
        "import yaml\nyaml.load(f)",
        "import yaml\nyaml.load(f, yaml.UnsafeLoader)",
        "import yaml\nyaml.unsafe_load(f)",
        "import yaml\nyaml.full_load(f)",
        "eval(text)",
        "exec(text)",
        "import os\nos.system(text)",
        "import subprocess\nsubprocess.run(text, shell=True)",
        "import tarfile\ntarfile.open(f).extractall()",
        "model(trust_remote_code=asked)",
        "create_model(name, weights_only=some)",
    ],
)
def test_the_walk_finds_what_it_looks_for(text):
    assert wrong_in(text)
