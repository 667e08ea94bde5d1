"""The cluster file is one that Ray accepts, and says what its comments say. Nothing here talks to AWS."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import ValidationError
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
from ray.autoscaler.v2.utils import ResourceRequestUtil

SIZES = {
    "m6i.xlarge": {"CPU": 4},
    "c6i.4xlarge": {"CPU": 16},
    "g6.4xlarge": {"CPU": 16, "GPU": 1},
}
"""What `ray up` learns from AWS of the machines in the file."""


@pytest.fixture
def cluster(repo: Path) -> dict[str, Any]:
    return yaml.safe_load((repo / "cluster.yaml").read_text())


def started_for(config: dict[str, Any], tasks: int, resources: dict[str, float]) -> dict[str, int]:
    """Machines that Ray's autoscaler starts on a cluster without any, for tasks that all run at once."""
    prepared = prepare_config(config)
    for node in prepared["available_node_types"].values():
        node["resources"] = SIZES[node["node_config"]["InstanceType"]]
    settings = AutoscalingConfig(prepared, skip_content_hash=True)
    demand = [ResourceRequestUtil.make(resources)] * tasks
    request = SchedulingRequest(
        disable_launch_config_check=True,
        node_type_configs=settings.get_node_type_configs(),
        max_num_nodes=settings.get_max_num_nodes(),
        resource_requests=ResourceRequestUtil.group_by_count(demand),
    )
    launches = ResourceDemandScheduler().schedule(request).to_launch
    return {launch.instance_type: launch.count for launch in launches}


def workers(cluster: dict[str, Any]) -> dict[str, dict[str, Any]]:
    types = cluster["available_node_types"].items()
    return {name: node for name, node in types if name != cluster["head_node_type"]}


def test_ray_accepts_the_cluster_file(cluster: dict[str, Any]) -> None:
    validate_config(prepare_config(cluster))


def test_ray_refuses_a_misspelt_key(cluster: dict[str, Any]) -> None:
    cluster["max_wrkers"] = cluster.pop("max_workers")
    with pytest.raises(ValidationError, match="max_wrkers"):
        validate_config(prepare_config(cluster))


def test_an_idle_cluster_is_the_head_alone(cluster: dict[str, Any]) -> None:
    assert {node["min_workers"] for node in workers(cluster).values()} == {0}
    assert all(node["max_workers"] <= cluster["max_workers"] for node in workers(cluster).values())
    assert "InstanceMarketOptions" not in cluster["available_node_types"]["head"]["node_config"]


def test_actors_on_gpus_start_spot_machines_first_and_a_gpu_each(cluster: dict[str, Any]) -> None:
    assert started_for(cluster, 3, {"CPU": 1, "GPU": 1}) == {"gpu_spot": 3}
    assert started_for(cluster, 10, {"CPU": 1, "GPU": 1}) == {"gpu_spot": 8, "gpu_on_demand": 2}


def test_tasks_without_gpus_start_no_gpu_machine(cluster: dict[str, Any]) -> None:
    assert started_for(cluster, 20, {"CPU": 12}) == {"cpu_spot": 16, "cpu_on_demand": 4}


def test_swapped_priorities_start_machines_on_demand(cluster: dict[str, Any]) -> None:
    types = cluster["available_node_types"]
    types["gpu_spot"]["priority"], types["gpu_on_demand"]["priority"] = 0, 1
    assert started_for(cluster, 3, {"CPU": 1, "GPU": 1}) == {"gpu_on_demand": 3}


def test_spot_and_on_demand_differ_in_nothing_else(cluster: dict[str, Any]) -> None:
    types = cluster["available_node_types"]
    for kind in ("cpu", "gpu"):
        spot, on_demand = types[f"{kind}_spot"]["node_config"], types[f"{kind}_on_demand"]["node_config"]
        assert spot == on_demand | {"InstanceMarketOptions": {"MarketType": "spot"}}


def test_machines_get_their_rights_from_instance_profiles_and_no_key_is_copied(
    cluster: dict[str, Any],
) -> None:
    for node in cluster["available_node_types"].values():
        assert node["node_config"]["IamInstanceProfile"]["Name"].startswith("zs3-")
        assert node["node_config"]["MetadataOptions"]["HttpTokens"] == "required"
    assert not [path for path in cluster["file_mounts"].values() if ".aws" in path]
    assert not re.search(r"AKIA|aws_(access|secret)|password", str(cluster), re.IGNORECASE)


def test_no_port_is_open_to_the_world(cluster: dict[str, Any]) -> None:
    assert cluster["provider"]["security_group"] == {"GroupName": "zs3"}, (
        "Ray adds rules to none that has some"
    )
    (start,) = [command for command in cluster["head_start_ray_commands"] if "ray start" in command]
    assert "--dashboard-host=127.0.0.1" in start
    assert "0.0.0.0" not in str(cluster)


def test_what_is_copied_to_the_machines_exists_and_is_what_the_install_needs(
    cluster: dict[str, Any], repo: Path
) -> None:
    mounted = {Path(local).name for local in cluster["file_mounts"].values()}
    assert all((repo / name).exists() for name in mounted)
    assert {"zs3", "pipelines", "jobs", "Makefile", "pyproject.toml", "constraints.txt"} <= mounted
    assert any("make -C" in command and "install" in command for command in cluster["setup_commands"])
    assert "-c constraints.txt" in (repo / "Makefile").read_text(), "what is installed is what is pinned"
