"""Says twice a second what the cluster of RAY_ADDRESS holds and what is asked of it, in a line of JSON."""

import json
import logging
import time

import ray
from ray._private.state import state
from ray.autoscaler.v2.sdk import get_cluster_status
from ray.util import placement_group_table

IDLE = ("_AutoscalingCoordinatorActor", "ActorLocationTracker", "_StatsActor")
"""Actors of Ray Data that outlive its runs, on the machine of the driver; they take no CPU."""


def look(address):
    demands = get_cluster_status(address).resource_demands
    actors = [actor for actor in state.actor_table(None).values() if actor["State"] != "DEAD"]
    return {
        "time": time.time(),
        "gpu_machines": sum(n["Alive"] and n["Resources"].get("GPU", 0) > 0 for n in ray.nodes()),
        "actors": sorted(a["ActorClassName"] for a in actors if a["ActorClassName"] not in IDLE),
        "groups": sum(group["state"] != "REMOVED" for group in placement_group_table().values()),
        "asked": sum(b.count for one in demands.cluster_constraint_demand for b in one.bundles_by_count),
        "waiting": sum(b.count for one in demands.ray_task_actor_demand for b in one.bundles_by_count),
    }


if __name__ == "__main__":
    ray.init(log_to_driver=False, logging_level=logging.CRITICAL)
    where = ray.get_runtime_context().gcs_address
    while True:
        print(json.dumps(look(where)), flush=True)
        time.sleep(0.5)
