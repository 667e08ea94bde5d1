"""The RayJob manifest fits the pinned Ray, the images, our command line, and has no secret. No Kubernetes is asked."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import ray
import tyro
import yaml
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
from ray.autoscaler.v2.utils import ResourceRequestUtil

from jobs.label import LabelOptions
from jobs.main import COMMANDS


@pytest.fixture
def documents(repo: Path) -> dict[str, dict[str, Any]]:
    loaded = yaml.safe_load_all((repo / "docs" / "kuberay-rayjob.yaml").read_text())
    return {document["kind"]: document for document in loaded}


@pytest.fixture
def job(documents: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return documents["RayJob"]


def pods(job: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The pod of the head and of each group of workers."""
    cluster = job["spec"]["rayClusterSpec"]
    groups = {group["groupName"]: group for group in cluster["workerGroupSpecs"]}
    return {
        name: group["template"]["spec"]
        for name, group in {"head": cluster["headGroupSpec"], **groups}.items()
    }


def test_it_is_a_job_of_the_current_interface(job: dict[str, Any]) -> None:
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert job["spec"]["shutdownAfterJobFinishes"] is True
    assert re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,45}[a-z0-9])?", job["metadata"]["name"]), "KubeRay's limit"


def test_ray_and_the_image_have_the_pinned_version(job: dict[str, Any], repo: Path) -> None:
    (pinned,) = re.findall(r"^ray==(.*)$", (repo / "constraints.txt").read_text(), re.MULTILINE)
    assert job["spec"]["rayClusterSpec"]["rayVersion"] == pinned == ray.__version__
    images = {container["image"] for pod in pods(job).values() for container in pod["containers"]}
    (version,) = re.findall(r'^version = "(.*)"$', (repo / "pyproject.toml").read_text(), re.MULTILINE)
    assert images == {f"REGISTRY/zs3:{version}-ray{pinned}"}
    recipe = (repo / "docs" / "zs3.Dockerfile").read_text()
    assert f"FROM rayproject/ray:{pinned}-" in recipe
    assert f"-t {images.pop()} " in recipe.replace("`", " ")
    copied = re.findall(r"^COPY --chown=ray (.*) \S+$", recipe, re.MULTILINE)
    assert all((repo / name).exists() for line in copied for name in line.split())


def test_the_command_is_one_that_our_parser_takes(job: dict[str, Any]) -> None:
    program, verb, *arguments = shlex.split(job["spec"]["entrypoint"])
    assert (program, verb) == ("zs3", "label")
    assert verb in COMMANDS
    asked = tyro.cli(LabelOptions, args=arguments)
    assert asked.images.startswith("s3://") and asked.out.startswith("s3://")
    groups = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    most = {group["groupName"]: group["maxReplicas"] for group in groups}
    assert (asked.execution.num_actors, asked.execution.gpus_per_actor) == (most["gpu-spot"], 1)


def test_the_autoscaler_reads_what_the_pods_ask_for(job: dict[str, Any]) -> None:
    cluster = {"metadata": {"name": "zs3", "namespace": "default"}, "spec": job["spec"]["rayClusterSpec"]}
    settings = _derive_autoscaling_config_from_ray_cr(cluster)
    types = settings["available_node_types"]
    assert {name: types[name]["resources"].get("GPU", 0) for name in types} == {
        "headgroup": 0,
        "gpu-spot": 1,
        "gpu-on-demand": 1,
        "cpu-spot": 0,
    }
    assert {name: types[name]["resources"]["CPU"] for name in types} == {
        "headgroup": 4,
        "gpu-spot": 12,
        "gpu-on-demand": 12,
        "cpu-spot": 14,
    }
    assert {types[name]["min_workers"] for name in types} == {0}
    assert settings["idle_timeout_minutes"] == 10


def test_spot_comes_first_and_on_demand_when_spot_pods_stay_pending(job: dict[str, Any]) -> None:
    cluster = {"metadata": {"name": "zs3", "namespace": "default"}, "spec": job["spec"]["rayClusterSpec"]}
    settings = AutoscalingConfig(_derive_autoscaling_config_from_ray_cr(cluster), skip_content_hash=True)

    def started(available: dict[str, float]) -> dict[str, int]:
        request = SchedulingRequest(
            disable_launch_config_check=True,
            node_type_configs=settings.get_node_type_configs(),
            max_num_nodes=settings.get_max_num_nodes(),
            resource_requests=ResourceRequestUtil.group_by_count(
                [ResourceRequestUtil.make({"CPU": 4, "GPU": 1})] * 2
            ),
            recoverable_resource_availabilities=available,
        )
        launches = ResourceDemandScheduler().schedule(request).to_launch
        return {launch.instance_type: launch.count for launch in launches}

    assert started({}) == {"gpu-spot": 2}
    assert started({"gpu-spot": 0.0}) == {"gpu-on-demand": 2}


def test_spot_and_on_demand_pods_differ_in_their_nodes_alone(job: dict[str, Any]) -> None:
    spot, on_demand = dict(pods(job)["gpu-spot"]), dict(pods(job)["gpu-on-demand"])
    assert (spot.pop("nodeSelector"), on_demand.pop("nodeSelector")) == (
        {"karpenter.sh/capacity-type": "spot"},
        {"karpenter.sh/capacity-type": "on-demand"},
    )
    assert spot == on_demand


def test_rights_come_by_role_and_no_secret_stands_in_it(
    documents: dict[str, dict[str, Any]], job: dict[str, Any], repo: Path
) -> None:
    account = documents["ServiceAccount"]
    assert {pod["serviceAccountName"] for pod in pods(job).values()} == {account["metadata"]["name"]}
    assert "eks.amazonaws.com/role-arn" in account["metadata"]["annotations"]
    names = {entry["name"] for pod in pods(job).values() for box in pod["containers"] for entry in box["env"]}
    assert names == {"AWS_REGION"}
    for name in ("kuberay-rayjob.yaml", "clusters.md", "zs3.Dockerfile"):
        text = (repo / "docs" / name).read_text()
        assert not re.search(r"AKIA|SECRET_ACCESS_KEY|secretKeyRef|password", text), name


def test_every_group_limits_what_it_requests(job: dict[str, Any]) -> None:
    for name, pod in pods(job).items():
        for container in pod["containers"]:
            assert container["resources"]["requests"] == container["resources"]["limits"], name
            assert container["securityContext"] == {"allowPrivilegeEscalation": False}
