"""What is wrong with a manifest for KubeRay: by its documented fields, by its rules, and by what we promise.

No Python package carries KubeRay's definitions, so the tables below name the fields of ``ray.io/v1`` as the
KubeRay reference documents them (1.7), and those of pods that we use as the Kubernetes reference does (1.37).
An unknown field is a fault, as it is for an API server that validates strictly.
"""

import copy
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.autoscaler._private.util import prepare_config, validate_config

STRING, NUMBER, FLAG = str, int, bool
STRINGS = {"*": STRING}
"""Any keys, with strings."""

RESOURCES = {"requests": STRINGS, "limits": STRINGS}
CONTAINER = {
    "name": STRING,
    "image": STRING,
    "imagePullPolicy": STRING,
    "command": [STRING],
    "args": [STRING],
    "env": [{"name": STRING, "value": STRING}],
    "ports": [{"containerPort": NUMBER, "name": STRING, "protocol": STRING}],
    "resources": RESOURCES,
    "volumeMounts": [{"name": STRING, "mountPath": STRING, "readOnly": FLAG}],
}
POD = {
    "metadata": {"labels": STRINGS, "annotations": STRINGS},
    "spec": {
        "containers": [CONTAINER],
        "nodeSelector": STRINGS,
        "restartPolicy": STRING,
        "serviceAccountName": STRING,
        "tolerations": [{"key": STRING, "operator": STRING, "value": STRING, "effect": STRING}],
        "volumes": [{"name": STRING, "emptyDir": {"medium": STRING, "sizeLimit": STRING}}],
    },
}
GROUP = {"rayStartParams": STRINGS, "template": POD, "resources": STRINGS, "labels": STRINGS}
HEAD_GROUP = GROUP | {"serviceType": STRING, "enableIngress": FLAG, "headService": {}}
WORKER_GROUP = GROUP | {
    "groupName": STRING,
    "replicas": NUMBER,
    "minReplicas": NUMBER,
    "maxReplicas": NUMBER,
    "numOfHosts": NUMBER,
    "idleTimeoutSeconds": NUMBER,
    "priority": NUMBER,
    "scaleStrategy": {"workersToDelete": [STRING]},
    "suspend": FLAG,
}
CLUSTER = {
    "authOptions": {"mode": STRING, "secretName": STRING, "enableK8sTokenAuth": FLAG},
    "autoscalerOptions": {
        "version": STRING,
        "upscalingMode": STRING,
        "idleTimeoutSeconds": NUMBER,
        "image": STRING,
        "imagePullPolicy": STRING,
        "resources": RESOURCES,
        "env": [{"name": STRING, "value": STRING}],
    },
    "enableInTreeAutoscaling": FLAG,
    "gcsFaultToleranceOptions": {},
    "headGroupSpec": HEAD_GROUP,
    "headServiceAnnotations": STRINGS,
    "managedBy": STRING,
    "rayVersion": STRING,
    "suspend": FLAG,
    "upgradeStrategy": {"type": STRING},
    "workerGroupSpecs": [WORKER_GROUP],
}
JOB = {
    "activeDeadlineSeconds": NUMBER,
    "backoffLimit": NUMBER,
    "clusterSelector": STRINGS,
    "deletionStrategy": {},
    "entrypoint": STRING,
    "entrypointNumCpus": NUMBER,
    "entrypointNumGpus": NUMBER,
    "entrypointResources": STRING,
    "jobId": STRING,
    "managedBy": STRING,
    "metadata": STRINGS,
    "preRunningDeadlineSeconds": NUMBER,
    "rayClusterSpec": CLUSTER,
    "runtimeEnvYAML": STRING,
    "shutdownAfterJobFinishes": FLAG,
    "submissionMode": STRING,
    "submitterConfig": {"backoffLimit": NUMBER},
    "submitterPodTemplate": POD,
    "suspend": FLAG,
    "ttlSecondsAfterFinished": NUMBER,
}
ABOUT = {"name": STRING, "namespace": STRING, "labels": STRINGS, "annotations": STRINGS}
KINDS = {
    kind: {"apiVersion": STRING, "kind": STRING, "metadata": ABOUT, "spec": spec}
    for kind, spec in {"RayCluster": CLUSTER, "RayJob": JOB}.items()
}
CHOICES = {
    "apiVersion": {"ray.io/v1"},
    "authOptions.mode": {"token", "disabled"},
    "autoscalerOptions.version": {"v1", "v2"},
    "autoscalerOptions.upscalingMode": {"Default", "Aggressive", "Conservative"},
    "headGroupSpec.serviceType": {"ClusterIP", "NodePort", "LoadBalancer"},
    "spec.submissionMode": {"K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"},
}


def faults(manifest: dict[str, Any]) -> list[str]:
    """A sentence for each fault of a RayCluster or a RayJob."""
    if manifest.get("kind") not in KINDS:
        return [f"kind {manifest.get('kind')!r} is none of {sorted(KINDS)}"]
    found = list(_of_the_fields(manifest, KINDS[manifest["kind"]], ""))
    if found:
        return found
    spec = manifest["spec"]
    if manifest["kind"] == "RayJob":
        found = list(_of_the_job(spec))
        spec = spec.get("rayClusterSpec", {})
    return [*found, *_of_the_cluster(spec)]


def _of_the_fields(value: Any, form: Any, path: str) -> Iterator[str]:
    """Fields that are unknown, of a wrong type, or not one of few possible values."""
    if isinstance(form, dict):
        if not isinstance(value, dict):
            yield f"{path} is no mapping"
            return
        for key, below in value.items():
            if key in form or "*" in form:
                yield from _of_the_fields(below, form.get(key, form.get("*")), f"{path}.{key}".lstrip("."))
            else:
                yield f"{path}.{key} is unknown"
    elif isinstance(form, list):
        if not isinstance(value, list):
            yield f"{path} is no list"
            return
        for i, below in enumerate(value):
            yield from _of_the_fields(below, form[0], f"{path}.{i}")
    elif type(value) is not form:
        yield f"{path} is {value!r}, which is no {form.__name__}"
    for end, choices in CHOICES.items():
        if f".{path}".endswith(f".{end}") and value not in choices:
            yield f"{path} is {value!r}, which is none of {sorted(choices)}"


def _of_the_job(spec: dict[str, Any]) -> Iterator[str]:
    if spec.get("entrypoint", "").split()[:4] != ["python", "-m", "pipelines", "run"]:
        yield "the entrypoint is no run"
    if "output=s3://" not in spec.get("entrypoint", ""):
        yield "the results go away with the cluster"
    if spec.get("shutdownAfterJobFinishes") is not True:
        yield "the cluster stays when the job is over"
    if "rayClusterSpec" not in spec:
        yield "there is no cluster"


def _of_the_cluster(spec: dict[str, Any]) -> Iterator[str]:
    """What KubeRay's own checks refuse, and what we promise."""
    if spec.get("rayVersion") != version("ray"):
        yield f"rayVersion is {spec.get('rayVersion')!r}, and that of the pins {version('ray')}"
    auth = spec.get("authOptions", {})
    if auth.get("mode") != "token" or auth.get("secretName") != "evenset-token":
        yield "there is no token, or it is not that of the secret"
    options = spec.get("autoscalerOptions", {})
    if spec.get("enableInTreeAutoscaling") is not True or options.get("version") != "v2":
        yield "there is no autoscaler of version 2"
    if not 0 < options.get("idleTimeoutSeconds", 0) <= 600:
        yield "idle workers stay"
    head = spec.get("headGroupSpec", {})
    if head.get("serviceType") != "ClusterIP" or head.get("enableIngress") is not False:
        yield "the head is reached from outside"
    groups = {"head": head, **{group.get("groupName"): group for group in spec.get("workerGroupSpecs", [])}}
    for name, group in groups.items():
        yield from _of_a_group(name, group)
    try:
        derived = _derive_autoscaling_config_from_ray_cr(
            {"metadata": {"name": "evenset", "namespace": "default"}, "spec": copy.deepcopy(spec)}
        )
        validate_config(prepare_config(derived))
    except Exception as error:
        yield f"Ray's autoscaler refuses it: {type(error).__name__}: {error}"
        return
    yield from _of_the_types(derived)


def _of_a_group(name: str, group: dict[str, Any]) -> Iterator[str]:
    pod = group.get("template", {}).get("spec", {})
    containers = pod.get("containers", [])
    if not containers:
        yield f"{name} has no container"
        return
    if pod.get("restartPolicy", "Never") != "Never":
        yield f"{name} restarts its pods, which the autoscaler of version 2 does itself"
    if pod.get("serviceAccountName") != "evenset":
        yield f"{name} has not the account that reaches the bucket"
    resources = containers[0].get("resources", {})
    if not resources.get("limits") or resources["limits"] != resources.get("requests"):
        yield f"{name} asks for other resources than it may use"
    spill = group.get("rayStartParams", {}).get("object-spilling-directory")
    mounted = {m["mountPath"]: m["name"] for m in containers[0].get("volumeMounts", [])}
    if spill is None or mounted.get(spill) not in {volume["name"] for volume in pod.get("volumes", [])}:
        yield f"{name} does not spill to a volume of its own"
    spot = "cloud.google.com/gke-spot" in pod.get("nodeSelector", {})
    if spot != (name == "gpu-spot"):
        yield f"{name} is on spot machines where it should not be, or the other way round"


def _of_the_types(derived: dict[str, Any]) -> Iterator[str]:
    """How Ray's autoscaler reads the groups."""
    types = derived["available_node_types"]
    head = types.pop(derived["head_node_type"])["resources"]
    if head["CPU"] != 0 or head.get("GPU", 0) != 0:
        yield "the head gives CPUs or GPUs away"
    if set(types) != {"cpu", "gpu-spot", "gpu"}:
        yield f"the groups of workers are {sorted(types)}"
        return
    for name, kind in types.items():
        if not 0 == kind["min_workers"] < kind["max_workers"]:
            yield f"{name} does not range from 0 to some"
        if kind["resources"].get("GPU", 0) != (0 if name == "cpu" else 1):
            yield f"{name} has {kind['resources'].get('GPU', 0)} GPUs"
    if not types["gpu-spot"].get("priority", 0) > types["gpu"].get("priority", 0):
        yield "spot GPUs do not come first"
