"""What is wrong with a config of `ray up`: by Ray's schema, and by what that schema does not look at."""

import copy
from collections.abc import Iterator
from typing import Any

from ray.autoscaler._private.util import prepare_config, validate_config

SPOT = {  # how each cloud is asked for a machine that it may take back
    "aws": lambda node: node.get("InstanceMarketOptions", {}).get("MarketType") == "spot",
    "gcp": lambda node: node.get("scheduling", {}).get("provisioningModel") == "SPOT",
}


def faults(tree: dict[str, Any]) -> list[str]:
    """A sentence for each fault of a config as it is in the file."""
    try:
        config = prepare_config(copy.deepcopy(tree))
        validate_config(config)
    except Exception as error:
        return [f"Ray refuses it: {str(error).splitlines()[0]}"]
    return [*_of_the_head(config), *_of_the_workers(config), *_of_the_commands(config)]


def _of_the_head(config: dict[str, Any]) -> Iterator[str]:
    head = config["available_node_types"][config["head_node_type"]]
    if head["resources"].get("CPU") != 0 or head["resources"].get("GPU") != 0:
        yield "the head gives CPUs or GPUs away"
    if head["max_workers"] != 0:
        yield "there may be workers of the head's type"
    if SPOT[config["provider"]["type"]](head["node_config"]):
        yield "the head may be taken back"


def _of_the_workers(config: dict[str, Any]) -> Iterator[str]:
    workers = {k: v for k, v in config["available_node_types"].items() if k != config["head_node_type"]}
    if set(workers) != {"cpu", "gpu-spot", "gpu"}:
        yield f"the types of workers are {sorted(workers)}"
        return
    for name, kind in workers.items():
        if not 0 == kind["min_workers"] < kind["max_workers"] <= config["max_workers"]:
            yield f"{name} does not range from 0 to some"
        if SPOT[config["provider"]["type"]](kind["node_config"]) != (name == "gpu-spot"):
            yield f"{name} is spot where it should not be, or the other way round"
    if not workers["gpu-spot"].get("priority", 0) > workers["gpu"].get("priority", 0):
        yield "spot GPUs do not come first"
    if not 0 < config["idle_timeout_minutes"] <= 10:
        yield "idle workers stay"
    if config["provider"].get("cache_stopped_nodes", True):
        yield "stopped machines keep their disks"


def _of_the_commands(config: dict[str, Any]) -> Iterator[str]:
    for kind in ("head", "worker"):
        starts = [c for c in config[f"{kind}_start_ray_commands"] if "ray start" in c]
        if len(starts) != 1:
            yield f"the {kind} starts Ray {len(starts)} times"
            continue
        if "RAY_AUTH_MODE=token" not in starts[0].split("ray start")[0]:
            yield f"the {kind} asks for no token"
        if "--object-spilling-directory=$HOME/spill" not in starts[0].split():
            yield f"the {kind} does not say where objects spill to"
        if kind == "head" and "--dashboard-host=127.0.0.1" not in starts[0].split():
            yield "the dashboard listens to others"
        for command in config[f"{kind}_setup_commands"]:
            if "pip install" in command:
                yield f"the {kind} installs without the pins: {command}"
        if not any("cd ~/evenset && make setup EXTRAS=" in c for c in config[f"{kind}_setup_commands"]):
            yield f"the {kind} does not install the project"
        if not any("~/spill" in c for c in config[f"{kind}_setup_commands"]):
            yield f"the {kind} does not make the folder that objects spill to"
    if any(anywhere in str(config) for anywhere in ("0.0.0.0", "'::'", "=::")):
        yield "something listens to everybody"
    if config["file_mounts"].get("~/evenset") != ".":
        yield "the nodes do not get this project"
    if config["file_mounts"].get("~/.ray/auth_token") != "~/.ray/auth_token":
        yield "the nodes do not get the token"
