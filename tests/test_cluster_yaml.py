"""The cluster that `ray up cluster.yaml` would start: valid, private, and free when idle."""

from pathlib import Path

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).parents[1]


@pytest.fixture
def cluster():
    config = prepare_config(yaml.safe_load((ROOT / "cluster.yaml").read_text()))
    validate_config(config)
    return config


def test_ray_accepts_it_and_would_notice_a_wrong_key(cluster):
    cluster["max_worker"] = 3
    with pytest.raises(Exception, match="max_worker"):
        validate_config(cluster)


def test_the_head_does_no_work(cluster):
    head = cluster["available_node_types"][cluster["head_node_type"]]
    assert head["resources"]["CPU"] == head["resources"]["GPU"] == 0
    assert head["max_workers"] == 0


def test_workers_come_only_when_needed(cluster):
    workers = dict(cluster["available_node_types"])
    del workers[cluster["head_node_type"]]
    for name, kind in workers.items():
        assert 0 == kind["min_workers"] <= kind["max_workers"], name
    assert sum(kind["max_workers"] for kind in workers.values()) <= cluster["max_workers"]
    assert cluster["idle_timeout_minutes"] <= 10


def test_gpu_workers_are_spot_instances(cluster):
    gpu = cluster["available_node_types"]["gpu"]["node_config"]
    assert gpu["InstanceMarketOptions"]["MarketType"] == "spot"
    assert "InstanceMarketOptions" not in cluster["available_node_types"]["head"]["node_config"]


def test_every_node_wants_the_token_and_the_dashboard_is_private(cluster):
    starts = [
        command
        for kind in ("head", "worker")
        for command in cluster[f"{kind}_start_ray_commands"]
        if "ray start" in command
    ]
    assert len(starts) == 2
    assert all("RAY_AUTH_MODE=token" in command for command in starts)
    assert "--dashboard-host=127.0.0.1" in starts[0]
    assert "0.0.0.0" not in yaml.safe_dump(cluster)


def test_nodes_install_this_project_and_not_a_published_one(cluster):
    assert "." in cluster["file_mounts"].values()
    assert any("~/evenset && make setup" in command for command in cluster["setup_commands"])
    assert (ROOT / "Makefile").read_text().count("setup:")
