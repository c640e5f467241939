"""What a run takes of a cluster: it counts on what may come, and what it takes can move."""

import pytest
import ray
from hypothesis import assume, given
from hypothesis import strategies as st
from ray._raylet import GcsClient
from ray.core.generated.autoscaler_pb2 import ClusterConfig, NodeGroupConfig

from pipelines.config import Config
from pipelines.errors import RequestError
from pipelines.resources import Kind, forget, kinds_of, reckoned, resources, types_in
from pipelines.sizing import SAMPLES_WORTH_AN_ACTOR, check_gpus, sizing, task_cpus
from pipelines.stream import context

HEAD = {"CPU": 0.0, "memory": 8e9, "node:__internal_head__": 1.0}
GPU_TYPE = Kind(16.0, 1.0, 0, 8)
MANY = 10**9
FILE = {
    "max_workers": 24,
    "head_node_type": "head",
    "available_node_types": {
        "head": {"resources": {"CPU": 0, "GPU": 0}, "max_workers": 0},
        "cpu": {"resources": {"CPU": 16}, "max_workers": 8},
        "spot": {"resources": {"CPU": 16, "GPU": 1}, "max_workers": 8},
        "gpu": {"resources": {"CPU": 16, "GPU": 1}, "max_workers": 40},
        "any": {"resources": {"CPU": 2}},
    },
}


def asked_for(encoder=None, ray=None):
    return Config.model_validate({"encoder": {"num_gpus": 1, **(encoder or {})}, "ray": ray or {}})


def cluster(*kinds, ray=None, elastic=True):
    return reckoned(kinds, asked_for(ray=ray).ray, elastic=elastic)


def test_the_types_of_a_file_are_those_of_its_workers_as_many_as_all_may_be():
    cpu, spot, gpu, anything = types_in(FILE)
    assert cpu == Kind(16.0, 0.0, 0, 8)
    assert spot == GPU_TYPE
    assert gpu.most == anything.most == 24


def test_machines_that_are_there_are_of_the_types_that_may_come():
    kinds = kinds_of([HEAD, {"CPU": 16.0, "GPU": 1.0}, {"CPU": 16.0}, {"CPU": 4.0}], types_in(FILE))
    assert set(kinds) == {
        Kind(16.0, 1.0, 1, 8 + 24),
        Kind(16.0, 0.0, 1, 8),
        Kind(4.0, 0.0, 1, 1),
        Kind(2.0, 0.0, 0, 24),
    }
    there = reckoned(kinds, Config().ray, elastic=True)
    assert (there.cpus, there.gpus) == (36, 1)
    assert (there.most_cpus, there.most_gpus) == (32 * 16 + 8 * 16 + 4 + 48, 32)


def test_keys_bound_what_is_there_and_what_may_come_and_raise_what_is_not_known():
    kinds = (Kind(16.0, 1.0, 2, 8),)
    less = cluster(*kinds, ray={"cpus": 20, "gpus": 1})
    assert (less.cpus, less.gpus, less.most_cpus, less.most_gpus) == (20, 1, 20, 1)
    more = cluster(*kinds, ray={"gpus": 30})
    assert (more.gpus, more.most_gpus, more.most_cpus) == (2, 30, 128)
    assert more.limits == {"cpu": 128, "gpu": 30}
    assert cluster(*kinds, ray={"gpus": 30}, elastic=False).limits == {"gpu": 30}  # machines may join


def test_a_machine_of_its_own_is_all_there_is(ray_cluster):
    there = resources()
    assert (there.cpus, there.most_cpus, there.most_gpus, there.limits) == (2, 2, 0, {})
    assert resources(asked_for(ray={"cpus": 1}).ray).cpus == 1


def test_ray_data_takes_no_more_than_the_keys_say(ray_cluster):
    limits = context(resources(asked_for(ray={"cpus": 1, "gpus": 0}).ray)).execution_options.resource_limits
    assert (limits.cpu, limits.gpu) == (1, 0)
    assert context(resources()).execution_options.resource_limits.cpu == float("inf")


def tell_ray(told):
    """As the autoscaler of a platform may do it."""
    GcsClient(address=ray.get_runtime_context().gcs_address).report_cluster_config(told.SerializeToString())
    forget()


def test_what_a_platform_tells_ray_of_its_limits_is_heeded(ray_cluster):
    groups = [
        NodeGroupConfig(name="gpu", resources={"CPU": 8, "GPU": 2}, max_count=3),
        NodeGroupConfig(name="cpu", resources={"CPU": 4}, max_count=-1),
    ]
    try:
        tell_ray(ClusterConfig(node_group_configs=groups))
        there = resources()
    finally:
        tell_ray(ClusterConfig())
    assert (there.cpus, there.most_gpus) == (2, 6)
    assert there.most_cpus > 1000
    assert resources().most_cpus == 2


@pytest.mark.parametrize(
    ("encoder", "ray", "samples", "first", "most"),
    [
        ({}, {}, 100, 1, 8),  # not worth a second machine
        ({}, {}, 3 * SAMPLES_WORTH_AN_ACTOR, 3, 8),
        ({}, {}, MANY, 8, 8),
        ({"num_gpus": 0.25}, {}, MANY, 32, 32),
        ({"actors": [2, 4]}, {}, 100, 2, 4),
        ({"actors": [2, 4]}, {}, MANY, 4, 4),
        ({}, {"gpus": 3}, MANY, 3, 3),
    ],
)
def test_gpus_that_may_come_are_waited_for_as_far_as_the_samples_are_worth_it(
    encoder, ray, samples, first, most
):
    config = asked_for(encoder, ray)
    size = sizing(config, reckoned((GPU_TYPE,), config.ray, elastic=True), 10_000, samples)
    assert (size.first, size.most, size.fitting) == (first, most, 0)
    assert size.gpus == config.encoder.num_gpus


def test_gpus_that_are_there_are_all_used_from_the_start():
    size = sizing(asked_for(), cluster(Kind(16.0, 4.0, 2, 2), elastic=False), 10_000, 100)
    assert (size.fewest, size.first, size.most, size.cpus) == (1, 8, 8, 1.0)


def test_there_are_no_more_actors_than_parts():
    size = sizing(asked_for({"actors": [4, 8]}), cluster(Kind(16.0, 8.0, 1, 1)), 2, MANY)
    assert (size.fewest, size.first, size.most) == (2, 2, 2)


@pytest.mark.parametrize(
    ("kinds", "encoder"),
    [
        ((Kind(8.0, 0.0, 2, 8),), {}),
        ((Kind(8.0, 1.0, 2, 8),), {"num_gpus": 2}),
        ((), {"num_gpus": 0.5}),
    ],
)
def test_an_encoder_for_which_no_machine_has_gpus_is_refused(kinds, encoder):
    with pytest.raises(RequestError, match=r"encoder.num_gpus=0"):
        check_gpus(asked_for(encoder), cluster(*kinds))


def test_gpus_that_nobody_knows_of_can_be_promised():
    config = asked_for(ray={"gpus": 4})
    size = sizing(config, cluster(Kind(8.0, 0.0, 1, 1), ray={"gpus": 4}), 10_000, MANY)
    assert (size.first, size.most, size.cpus) == (4, 4, 0)
    with pytest.raises(RequestError, match="the run may use 0 GPUs"):
        check_gpus(asked_for(ray={"gpus": 0}), cluster(GPU_TYPE, ray={"gpus": 0}))


cpus = st.integers(1, 64).map(float)


@given(cpus, st.integers(1, 8), st.sampled_from([0.1, 0.25, 0.3, 0.5, 0.6, 1.0, 2.0]), st.integers(1, 5))
def test_a_task_fits_beside_the_gpu_actors_of_every_machine(cpus, gpus, share, machines):
    assume(share <= gpus)
    there = cluster(Kind(cpus, float(gpus), machines, machines), elastic=False)
    size = sizing(asked_for({"num_gpus": share}), there, 10_000, MANY)
    of_one = gpus * int(1 / share + 1e-9) if share < 1 else int(gpus / share)  # a share lies on one GPU
    assert size.first == of_one * machines
    assert size.cpus * of_one + size.task_cpus <= cpus + 1e-9
    assert size.cpus <= 1


@given(cpus, st.integers(1, 40), st.integers(0, 40))
def test_a_task_fits_beside_the_cpu_actors_that_are_always_there(cpus, fewest, more):
    config = asked_for({"num_gpus": 0, "actors": [fewest, fewest + more]})
    there = cluster(Kind(cpus, 0.0, 1, 1), elastic=False)
    size = sizing(config, there, 10_000, MANY)
    assert 1 <= size.fewest <= size.first <= size.most
    assert size.fewest == fewest
    assert size.cpus * size.first + size.task_cpus <= cpus + 1e-9


@given(st.lists(st.tuples(cpus, st.integers(1, 5)), min_size=1, max_size=4), st.integers(1, 200))
def test_encoders_that_fill_a_machine_leave_a_task_its_place(machines, fewest):
    kinds = [Kind(each, 0.0, count, count) for each, count in machines]
    for actors in ("auto", [fewest, 10_000]):
        size = sizing(
            asked_for({"num_gpus": 0, "actors": actors}), cluster(*kinds, elastic=False), 10_000, MANY
        )
        assume(size.task_cpus >= 0.3)  # asked for more than three a CPU, Ray's grain is too coarse
        encoder, task = round(1e4 * size.cpus), round(1e4 * size.task_cpus)
        for kind in kinds:
            whole = round(1e4 * kind.cpus)
            assert encoder + task <= whole  # it may be the last one
            assert whole % encoder >= task


@given(st.integers(2, 64), st.integers(1, 5))
def test_encoders_and_a_task_take_all_cpus_of_machines_that_are_alike(cpus, machines):
    there = cluster(Kind(float(cpus), 0.0, machines, machines), elastic=False)
    size = sizing(asked_for({"num_gpus": 0}), there, 10_000, MANY)
    assert (size.most, size.fitting) == (machines * (cpus - 1), machines * (cpus - 1))


def test_machines_of_which_there_may_be_none_are_not_counted_on():
    size = sizing(asked_for({"num_gpus": 0}), cluster(Kind(16.0, 0.0, 0, 0)), 10_000, MANY)
    assert (size.first, size.most, size.cpus) == (1, 1, 1.1)


@given(cpus, cpus, st.integers(1, 40))
def test_cpu_actors_to_begin_with_fit_what_is_there(there, coming, fewest):
    config = asked_for({"num_gpus": 0, "actors": [fewest, 40]})
    size = sizing(config, cluster(Kind(there, 0.0, 1, 1), Kind(coming + 64, 0.0, 0, 3)), 10_000, MANY)
    assert size.first == 1 or size.cpus * size.first + size.task_cpus <= there + 1e-9


def test_an_encoder_fits_beside_a_task_on_the_only_cpu():
    there = cluster(Kind(1.0, 0.0, 1, 1), elastic=False)
    size = sizing(asked_for({"num_gpus": 0}), there, 10, 10)
    assert (task_cpus(there), size.task_cpus, size.cpus, size.most) == (0.5, 0.45, 0.55, 1)
    assert task_cpus(cluster(Kind(1.0, 0.0, 1, 1), GPU_TYPE)) == 1.0
    assert task_cpus(cluster(GPU_TYPE)) == 1.0
