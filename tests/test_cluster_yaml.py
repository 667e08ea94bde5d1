"""The cluster file is one that Ray accepts, and says what its comments say. Nothing here talks to AWS."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import ValidationError
from ray.autoscaler._private.util import prepare_config, validate_config


@pytest.fixture
def cluster(repo: Path) -> dict[str, Any]:
    return yaml.safe_load((repo / "cluster.yaml").read_text())


def test_ray_accepts_the_cluster_file(cluster: dict[str, Any]) -> None:
    validate_config(prepare_config(cluster))


def test_ray_refuses_a_misspelt_key(cluster: dict[str, Any]) -> None:
    cluster["max_wrkers"] = cluster.pop("max_workers")
    with pytest.raises(ValidationError, match="max_wrkers"):
        validate_config(prepare_config(cluster))


def test_an_idle_cluster_is_the_head_alone(cluster: dict[str, Any]) -> None:
    workers = {
        name: node
        for name, node in cluster["available_node_types"].items()
        if name != cluster["head_node_type"]
    }
    assert {name: node["min_workers"] for name, node in workers.items()} == {"cpu_worker": 0, "gpu_worker": 0}
    assert sum(node["max_workers"] for node in workers.values()) == cluster["max_workers"]


def test_machines_get_their_rights_from_instance_profiles_and_no_key_is_copied(
    cluster: dict[str, Any],
) -> None:
    for node in cluster["available_node_types"].values():
        assert node["node_config"]["IamInstanceProfile"]["Name"].startswith("zs3-")
    assert not [path for path in cluster["file_mounts"].values() if ".aws" in path]


def test_what_is_copied_to_the_machines_exists_and_is_what_the_install_needs(
    cluster: dict[str, Any], repo: Path
) -> None:
    mounted = {Path(local).name for local in cluster["file_mounts"].values()}
    assert all((repo / name).exists() for name in mounted)
    assert {"zs3", "pipelines", "jobs", "Makefile", "pyproject.toml", "constraints.txt"} <= mounted
