"""The clusters that `ray up` would start on AWS and GCP: valid, private, pinned, and free when idle."""

import copy
import subprocess
from pathlib import Path

import pytest
import yaml

from .ray_up import faults

ROOT = Path(__file__).parents[2]
CONFIGS = ["cluster.yaml", "examples/cloud/gcp.yaml"]


@pytest.fixture(params=CONFIGS)
def config(request):
    return yaml.safe_load((ROOT / request.param).read_text())


def test_it_has_no_fault(config):
    assert faults(config) == []


def _set(path, value):
    """Changes one value; a path is keys and numbers with slashes between them."""

    def change(config):
        *above, last = [int(key) if key.isdecimal() else key for key in path.split("/")]
        for key in above:
            config = config[key]
        config[last] = value

    return change


def _drop(path):
    def change(config):
        *above, last = path.split("/")
        for key in above:
            config = config[key]
        del config[last]

    return change


def _replace(old, new, *places):
    """Changes the text of all commands in ``places``."""

    def change(config):
        for place in places:
            before = config[place]
            config[place] = [command.replace(old, new) for command in before]
            assert config[place] != before

    return change


STARTS = ("head_start_ray_commands", "worker_start_ray_commands")
BROKEN = {
    "an unknown key": (_set("max_worker", 3), "Ray refuses"),
    "a type's unknown key": (_set("available_node_types/cpu/max_worker", 3), "Ray refuses"),
    "a wrong type": (_set("idle_timeout_minutes", "five"), "Ray refuses"),
    "no head": (_set("head_node_type", "nobody"), "Ray refuses"),
    "no workers of a type": (_set("available_node_types/cpu/max_workers", 0), "cpu does not range"),
    "more least than most": (_set("available_node_types/cpu/min_workers", 9), "cpu does not range"),
    "a worker that stays": (_set("available_node_types/gpu/min_workers", 1), "gpu does not range"),
    "more of a type than in all": (_set("available_node_types/cpu/max_workers", 99), "cpu does not range"),
    "no GPUs on demand": (_drop("available_node_types/gpu"), "the types of workers"),
    "spot last": (_drop("available_node_types/gpu-spot/priority"), "do not come first"),
    "work on the head": (_set("available_node_types/head/resources", {"CPU": 8}), "gives CPUs"),
    "idle for an hour": (_set("idle_timeout_minutes", 60), "idle workers stay"),
    "disks that stay": (_drop("provider/cache_stopped_nodes"), "keep their disks"),
    "no token": (_replace("RAY_AUTH_MODE=token", "", STARTS[1]), "the worker asks for no token"),
    "the token off": (_replace("MODE=token", "MODE=disabled", STARTS[0]), "the head asks for no token"),
    "an open dashboard": (_replace("=127.0.0.1", "=0.0.0.0", STARTS[0]), "the dashboard listens"),
    "an open something": (_replace("--port=6379", "--port=6379 --x=0.0.0.0", STARTS[0]), "to everybody"),
    "Ray's own start": (_drop("head_start_ray_commands"), "the head asks for no token"),
    "no spilling": (_replace("--object-spilling-directory=$HOME/spill", "", STARTS[1]), "spill"),
    "no folder for it": (_replace("~/spill", "~/else", "setup_commands"), "folder that objects spill to"),
    "no installation": (_replace("make setup", "true", "setup_commands"), "does not install"),
    "one of the latest": (_set("head_setup_commands", ["pip install ray"]), "without the pins"),
    "no project": (_set("file_mounts", {"~/.ray/auth_token": "~/.ray/auth_token"}), "not get this project"),
    "no token on the nodes": (_set("file_mounts", {"~/evenset": "."}), "do not get the token"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_fault_would_be_found(config, fault):
    change, said = BROKEN[fault]
    broken = copy.deepcopy(config)
    change(broken)
    assert any(said in found for found in faults(broken)), faults(broken)


@pytest.mark.parametrize(
    ("path", "spot", "others"),
    [
        ("cluster.yaml", "InstanceMarketOptions", {"MarketType": "spot"}),
        ("examples/cloud/gcp.yaml", "scheduling", {"provisioningModel": "SPOT"}),
    ],
)
def test_a_machine_that_may_be_taken_back_is_found_in_the_wrong_place(path, spot, others):
    config = yaml.safe_load((ROOT / path).read_text())
    for name, said in {
        "head": "the head may be taken back",
        "gpu": "gpu is spot",
        "cpu": "cpu is spot",
    }.items():
        broken = copy.deepcopy(config)
        broken["available_node_types"][name]["node_config"][spot] = others
        assert any(said in found for found in faults(broken))
    broken = copy.deepcopy(config)
    del broken["available_node_types"]["gpu-spot"]["node_config"][spot]
    assert any("gpu-spot is spot where" in found for found in faults(broken))


def test_gcp_says_what_its_machines_have():
    """On AWS Ray asks the cloud; here nobody would know that there is a GPU."""
    types = yaml.safe_load((ROOT / "examples/cloud/gcp.yaml").read_text())["available_node_types"]
    for name, kind in types.items():
        assert kind["resources"].get("GPU", 0) == (1 if name.startswith("gpu") else 0)
        vcpus = int(kind["node_config"]["machineType"].rsplit("-", 1)[1])
        assert kind["resources"]["CPU"] == (0 if name == "head" else vcpus)


@pytest.mark.parametrize("extras", ["gpu,aws", "cpu,gcp"])
def test_the_set_up_of_a_node_is_from_the_pins(extras):
    command = ["make", "--dry-run", "--always-make", "setup", f"EXTRAS={extras}"]
    planned = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    installs = [line for line in planned.splitlines() if "pip install" in line]
    assert installs
    assert all("-c constraints.txt" in line for line in installs)
    assert f'-e ".[{extras}]"' in installs[-1]
