"""The manifests for KubeRay: known fields, private, with a token, from 0 workers, and one cluster in both."""

from pathlib import Path

import pytest
import yaml

from .kuberay import faults

ROOT = Path(__file__).parents[2]
CLOUD = ROOT / "examples/cloud"


def read(name):
    return yaml.safe_load((CLOUD / name).read_text())


@pytest.mark.parametrize("name", ["kuberay-cluster.yaml", "kuberay-job.yaml"])
def test_it_has_no_fault(name):
    assert faults(read(name)) == []


def test_the_job_makes_the_cluster_of_the_other_file():
    assert read("kuberay-job.yaml")["spec"]["rayClusterSpec"] == read("kuberay-cluster.yaml")["spec"]


def test_every_pod_has_the_image_that_the_dockerfile_builds():
    """From the pins, with what reads both kinds of buckets, and without what does not belong into it."""
    recipe = (CLOUD / "Dockerfile").read_text()
    spec = read("kuberay-cluster.yaml")["spec"]
    pods = [group["template"]["spec"] for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"])]
    (image,) = {container["image"] for pod in pods for container in pod["containers"]}
    assert f"-t {image} ." in recipe
    assert "RUN make setup EXTRAS=gpu,aws,gcp" in recipe
    assert "pip install" not in recipe
    assert recipe.index("useradd") < recipe.index("USER ray") < recipe.index("COPY")
    assert "**/.git" in (CLOUD / "Dockerfile.dockerignore").read_text().split()


REMOVED = object()
BROKEN = {
    "an unknown field": ("spec.autoscaling", True, "spec.autoscaling is unknown"),
    "an unknown field of a group": ("spec.workerGroupSpecs.0.minReplica", 1, "minReplica is unknown"),
    "an unknown field of a pod": ("spec.headGroupSpec.template.spec.container", [], "container is unknown"),
    "an older version": ("apiVersion", "ray.io/v1alpha1", "apiVersion is 'ray.io/v1alpha1'"),
    "another kind": ("kind", "RayService", "kind 'RayService' is none of"),
    "a number for a text": (
        "spec.headGroupSpec.rayStartParams.num-cpus",
        0,
        "num-cpus is 0, which is no str",
    ),
    "a text for a number": ("spec.workerGroupSpecs.0.maxReplicas", "8", "maxReplicas is '8'"),
    "an unknown mode": ("spec.authOptions.mode", "password", "mode is 'password', which is none of"),
    "no token": ("spec.authOptions", REMOVED, "there is no token"),
    "no secret": ("spec.authOptions.secretName", REMOVED, "there is no token"),
    "the token off": ("spec.authOptions.mode", "disabled", "there is no token"),
    "another Ray": ("spec.rayVersion", "2.50.0", "rayVersion is '2.50.0'"),
    "no autoscaler": ("spec.enableInTreeAutoscaling", False, "no autoscaler"),
    "the old autoscaler": ("spec.autoscalerOptions.version", "v1", "no autoscaler"),
    "idle for an hour": ("spec.autoscalerOptions.idleTimeoutSeconds", 3600, "idle workers stay"),
    "a public service": ("spec.headGroupSpec.serviceType", "LoadBalancer", "reached from outside"),
    "an ingress": ("spec.headGroupSpec.enableIngress", True, "reached from outside"),
    "work on the head": ("spec.headGroupSpec.rayStartParams.num-cpus", "4", "the head gives CPUs"),
    "no spilling": ("spec.workerGroupSpecs.1.rayStartParams", {}, "gpu-spot does not spill"),
    "no volume": ("spec.workerGroupSpecs.0.template.spec.volumes", [], "cpu does not spill"),
    "no container": ("spec.workerGroupSpecs.0.template.spec.containers", [], "cpu has no container"),
    "pods that restart": ("spec.headGroupSpec.template.spec.restartPolicy", "Always", "restarts its pods"),
    "no account": ("spec.headGroupSpec.template.spec.serviceAccountName", REMOVED, "has not the account"),
    "no limits": (
        "spec.workerGroupSpecs.0.template.spec.containers.0.resources.limits",
        REMOVED,
        "cpu asks for other",
    ),
    "no GPU": (
        "spec.workerGroupSpecs.2.template.spec.containers.0.resources",
        {"requests": {"cpu": "1"}, "limits": {"cpu": "1"}},
        "gpu has 0 GPUs",
    ),
    "not spot": ("spec.workerGroupSpecs.1.template.spec.nodeSelector", {}, "gpu-spot is on spot"),
    "spot last": ("spec.workerGroupSpecs.1.priority", REMOVED, "do not come first"),
    "a worker that stays": ("spec.workerGroupSpecs.0.minReplicas", 1, "cpu does not range"),
    "no worker": ("spec.workerGroupSpecs.0.maxReplicas", 0, "cpu does not range"),
    "another group": ("spec.workerGroupSpecs.0.groupName", "big", "the groups of workers"),
}


def put(manifest, path, value):
    *above, last = [int(key) if key.isdecimal() else key for key in path.split(".")]
    for key in above:
        manifest = manifest[key]
    if value is REMOVED:
        del manifest[last]
    else:
        manifest[last] = value


@pytest.mark.parametrize("fault", BROKEN)
def test_a_fault_would_be_found(fault):
    path, value, said = BROKEN[fault]
    # a copy by way of text: an alias is one object, and a change of it would be one of many
    manifest = yaml.safe_load(yaml.dump(read("kuberay-cluster.yaml"), Dumper=NoAlias))
    put(manifest, path, value)
    assert any(said in found for found in faults(manifest)), faults(manifest)


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("spec.rayClusterSpec.authOptions", REMOVED, "there is no token"),
        ("spec.rayClusterSpec", REMOVED, "there is no cluster"),
        ("spec.shutdownAfterJobFinishes", False, "the cluster stays"),
        ("spec.submissionMode", "Http", "submissionMode is 'Http'"),
        ("spec.entrypoint", "sleep 1", "no run"),
        ("spec.entrypoint", "python -m pipelines run x.yaml output=runs/x", "the results go away"),
        ("spec.retries", 3, "spec.retries is unknown"),
    ],
)
def test_a_fault_of_the_job_would_be_found(path, value, said):
    manifest = read("kuberay-job.yaml")
    put(manifest, path, value)
    assert any(said in found for found in faults(manifest)), faults(manifest)


class NoAlias(yaml.SafeDumper):
    """Writes what is shared as often as it occurs."""

    def ignore_aliases(self, data):
        return True
