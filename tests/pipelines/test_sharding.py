"""Every point shard finds a place, and holds what its machine has memory for."""

from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation.recipe import Recipe
from curation.shares import equal_share
from pipelines.config import Config
from pipelines.errors import RequestError
from pipelines.estimate import footing, shares
from pipelines.resources import Kind, reckoned
from pipelines.sharding import (
    check_places,
    gpus_of,
    memory_of,
    most_that_fit,
    requested,
    shards_now,
    useful,
)

MANY = 10**8
GIB = 2**30


def asked_for(ray=None, **cluster):
    return Config.model_validate({"cluster": cluster, "ray": ray or {}})


def there(config, *kinds, elastic=True):
    return useful(config, reckoned(kinds, config.ray, elastic=elastic), MANY)


@pytest.mark.parametrize(
    ("cluster", "ray", "kinds"),
    [
        ({"num_gpus": 1}, {}, [Kind(8.0, 0.0, 1, 1)]),
        ({"num_gpus": 1}, {"gpus": 0}, [Kind(8.0, 4.0, 1, 1)]),
        ({"num_gpus": 2}, {}, [Kind(8.0, 1.0, 4, 4)]),
        ({"num_gpus": 0.6, "shards": 3}, {}, [Kind(8.0, 1.0, 2, 2)]),
        ({"num_gpus": 1, "shards": 16}, {}, [Kind(8.0, 1.0, 0, 8)]),
        ({"num_gpus": 1, "shards": 5}, {"gpus": 4}, []),
        ({"num_gpus": 2}, {"gpus": 8}, [Kind(8.0, 1.0, 2, 2)]),
    ],
)
def test_shards_for_which_no_machine_has_gpus_are_refused(cluster, ray, kinds):
    config = asked_for(ray, **cluster)
    with pytest.raises(RequestError, match=r"cluster\.num_gpus is .* have places for \d such shards"):
        check_places(config, there(config, *kinds), 100)


def test_there_are_no_more_shards_than_parts_and_so_no_more_are_refused():
    config = asked_for(num_gpus=1, shards=8)
    check_places(config, there(config, Kind(8.0, 4.0, 1, 1)), 3)


@pytest.mark.parametrize(
    ("cluster", "ray", "kinds", "count"),
    [
        ({}, {}, [Kind(4.0, 0.0, 3, 3)], 12),
        ({}, {}, [Kind(4.0, 2.0, 3, 3)], 6),
        ({}, {}, [Kind(4.0, 2.0, 0, 3)], 1),  # the first of them is waited for
        ({"num_gpus": 0.6}, {}, [Kind(4.0, 1.0, 2, 2)], 2),
        ({"num_gpus": 0.4}, {}, [Kind(4.0, 1.0, 2, 2)], 4),
        ({"num_gpus": 2}, {}, [Kind(4.0, 3.0, 2, 2)], 2),
        ({"num_gpus": 1.5}, {}, [Kind(4.0, 4.0, 2, 2)], 4),
        ({"num_gpus": 0.25}, {}, [Kind(4.0, 1.0, 0, 2)], 1),
        ({"num_gpus": 0.3}, {}, [Kind(4.0, 4.0, 2, 2)], 24),  # three a GPU, not 13 a machine
        ({"num_gpus": 0}, {}, [Kind(4.0, 1.0, 2, 2)], 8),
        ({"num_gpus": 1}, {"gpus": 3}, [Kind(4.0, 4.0, 2, 2)], 3),
        ({"num_gpus": 1}, {"gpus": 3}, [], 1),
        ({"num_gpus": 0.25}, {"gpus": 0.5}, [Kind(4.0, 1.0, 1, 1)], 2),
        ({"shards": 5}, {}, [Kind(4.0, 0.0, 1, 1)], 5),
    ],
)
def test_there_are_as_many_as_there_are_places_for(cluster, ray, kinds, count):
    config = asked_for(ray, **cluster)
    check_places(config, there(config, *kinds))
    assert shards_now(config, there(config, *kinds), MANY) == count


def test_few_points_are_few_shards_and_wait_for_no_gpu():
    config = asked_for()
    few = useful(
        config, reckoned((Kind(4.0, 0.0, 1, 1), Kind(8.0, 4.0, 0, 2)), config.ray, elastic=True), 9000
    )
    assert (shards_now(config, few, 9000), gpus_of(config, few, 2)) == (2, 0.0)


@pytest.mark.parametrize(
    ("cluster", "kinds", "bundle", "count"),
    [
        ({}, [Kind(4.0, 0.0, 1, 8)], {"CPU": 1.0}, 32),
        ({}, [Kind(4.0, 1.0, 0, 8)], {"GPU": 1.0}, 8),
        ({"num_gpus": 0.25}, [Kind(4.0, 1.0, 0, 8)], {"GPU": 0.25}, 32),
        ({"num_gpus": 2}, [Kind(4.0, 4.0, 0, 8)], {"GPU": 2.0}, 16),
        ({"shards": 16}, [Kind(4.0, 1.0, 0, 8)], {"GPU": 1.0}, 8),  # two share a GPU
        ({"shards": 64, "num_gpus": 0}, [Kind(4.0, 1.0, 0, 8)], {"CPU": 1.0}, 32),
    ],
)
def test_no_more_is_asked_of_an_autoscaler_than_it_can_bring(cluster, kinds, bundle, count):
    config = asked_for(**cluster)
    found = there(config, *kinds)
    check_places(config, found)
    assert requested(config, found, MANY, 1000) == (bundle, count)
    assert requested(config, found, MANY, 3) == (bundle, 3)
    if "shards" not in cluster:
        assert requested(config, found, 1_200_000, 1000) == (bundle, 2)


def test_a_run_is_refused_before_it_embeds(evenset, write_config, tmp_path, digits):
    (tmp_path / "pool").mkdir()
    for i, payload in enumerate(digits[:20]):
        (tmp_path / f"pool/{i}.png").write_bytes(payload)
    config = write_config(tmp_path / "pool", cluster={"n_clusters": [4], "num_gpus": 1}, sample={"size": 5})
    told = evenset("run", config)
    assert told.code == 2
    assert "cluster.num_gpus is 1" in told.text
    assert not (tmp_path / "run/embeddings").exists()
    assert evenset("embed", config).code == 0  # to be clustered elsewhere
    assert evenset("run", config, "cluster.num_gpus=auto").code == 0
    told = evenset("run", config, "sample.size=6")  # from the tree that is there
    assert told.code == 0, told


def test_shards_of_gpus_that_are_to_come_share_them():
    config = asked_for(shards=16)
    assert gpus_of(config, there(config, Kind(4.0, 1.0, 0, 8)), 16) == 0.5
    assert gpus_of(config, there(config, Kind(4.0, 1.0, 2, 8)), 16) is None  # as Ray says when they begin


def machine(cpus, gib, gpus=0):
    return {"CPU": cpus, "GPU": gpus, "memory": 0.75 * gib * GIB, "object_store_memory": 0.25 * gib * GIB}


@pytest.mark.parametrize(
    ("machines", "shards", "gpus", "share"),
    [
        ([machine(16, 64)] * 4, 8, 0.0, 64 / 2),
        ([machine(16, 64)] * 4, 9, 0.0, 64 / 3),
        ([machine(2, 8), machine(14, 64)], 16, 0.0, 8 / 2),
        ([machine(2, 64), machine(14, 64)], 16, 0.0, 64 / 14),
        ([machine(0, 4), machine(4, 16)], 4, 0.0, 16 / 4),  # the head holds none
        ([machine(64, 256)] * 3 + [machine(8, 64, 8)], 8, None, 64 / 8),
        ([machine(8, 64, 2)] * 2, 4, 0.5, 64 / 2),
        ([machine(0, 8)], 3, 0.0, 8 / 3),
        ([machine(0, 8), machine(16, 64)], 1, 1.0, 64),  # which has a GPU is still to come
    ],
)
def test_a_shard_may_take_its_part_of_the_machine_it_is_on(machines, shards, gpus, share):
    assert memory_of(asked_for(), machines, shards, gpus) == int(share * GIB) // 2
    assert memory_of(asked_for(memory="1GiB"), machines, shards, gpus) == GIB


def test_of_very_many_clusters_fewer_shards_are_held():
    """Each holds all centroids: 2.2 GB of 64 GB, of which half is for points."""
    recipe, memory = Recipe([100_000]), partial(memory_of, asked_for(), [machine(16, 64)], gpus=0.0)
    rows = [100_000] * 16
    assert most_that_fit(asked_for(), recipe, rows, 16, 768, memory) == 14
    assert most_that_fit(asked_for(), Recipe([1000]), rows, 16, 768, memory) == 16
    assert most_that_fit(asked_for(shards=16), recipe, rows, 16, 768, memory) == 16

    def lacks(count):
        held = [10**7 * len(share) for share in shares([1] * 16, count)]
        return footing(Recipe([10**6]), 1 << 62, max(held), sum(held), 768).least / memory(len(held))

    none = most_that_fit(asked_for(), Recipe([10**6]), [10**7] * 16, 16, 768, memory)  # is refused
    assert lacks(none) == min(lacks(count) for count in range(1, 17)) > 1


@given(st.lists(st.tuples(st.integers(1, 64), st.integers(0, 8)), min_size=1, max_size=5), st.data())
def test_shards_that_are_not_refused_have_places(machines, data):
    kinds = [Kind(float(cpus), float(gpus), 1, 1) for cpus, gpus in set(machines)]
    config = asked_for(num_gpus=data.draw(st.sampled_from(["auto", 0, 0.3, 0.5, 1, 2])))
    found = there(config, *kinds, elastic=False)
    try:
        check_places(config, found)
    except RequestError:
        assert all(kind.gpus < config.cluster.num_gpus for kind in kinds)
        return
    count = shards_now(config, found, MANY)
    gpus = gpus_of(config, found, count)
    each = equal_share(found.gpus, count) if gpus is None else gpus
    if each:  # dealt GPU by GPU, as Ray does
        places = 0
        for kind in kinds:
            free = [1.0] * int(kind.gpus)
            while each < 1 and (left := [i for i, share in enumerate(free) if share >= each]):
                free[left[0]] -= each
                places += 1
            places += len(free) // int(each) if each >= 1 else 0
        assert places >= count
