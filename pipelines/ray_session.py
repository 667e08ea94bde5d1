"""Joins a Ray cluster, or starts a Ray on this machine, and leaves it; keeps Ray's own log off the terminal."""

from __future__ import annotations

import importlib
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipelines.execution import RESERVED_CPUS, Execution, cores
from pipelines.storage.objects import environment_for_cluster
from pipelines.termination import sigterm_raises_afterwards

MALLOC_ENVIRONMENT = {
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(4 << 30),
    "MALLOC_TOP_PAD_": str(64 << 20),
    "MALLOC_ARENA_MAX": "1",
}
"""Environment of workers that compute on a CPU: glibc keeps large buffers instead of returning them to the system after
every layer, which doubled the speed of a convolutional network. One arena, because Ray calls an actor from a thread of
its own, whose arena would not keep them: 1.19 images/s became 1.41."""

_joined: list[bool] = []
"""Not empty while this process is in a Ray that `start_ray` started or joined."""


def start_ray(execution: Execution) -> bool:
    """Join the Ray cluster of the settings, or start a Ray on this machine; False where the process is in one already.

    A new Ray listens on this machine only, has no dashboard, and has `RESERVED_CPUS` more logical CPUs than cores.
    SIGTERM raises `termination.Terminated` afterwards: Ray's own handler would abort the process.
    """
    _mute_ray()
    import ray

    if ray.is_initialized():
        return False
    address = execution.ray_address or os.environ.get("RAY_ADDRESS")
    if address:
        environment = {"env_vars": {**MALLOC_ENVIRONMENT, **environment_for_cluster()}}
        with _no_standard_error(), sigterm_raises_afterwards():
            ray.init(
                address=address, runtime_env=environment, log_to_driver=False, logging_level=logging.ERROR
            )
        _joined.append(True)
        return True
    for name, value in MALLOC_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    actors_cpus = (execution.num_actors or 1) * (execution.cpus_per_actor or 0)
    with _no_standard_error(), sigterm_raises_afterwards():
        ray.init(
            address="local",
            num_cpus=int(max(cores(), actors_cpus) + RESERVED_CPUS),
            include_dashboard=False,
            object_store_memory=execution.object_store_bytes,
            log_to_driver=False,
            logging_level=logging.ERROR,
            _node_ip_address="127.0.0.1",
        )
    _joined.append(True)
    return True


def leave_ray() -> None:
    """Leave the Ray that `start_ray` started or joined, if any.

    Ray writes about lost machines to standard output, whatever its log level, and so after a program's last line.
    """
    if _joined:
        importlib.import_module("ray").shutdown()
        _joined.clear()


def _mute_ray() -> None:
    """Keep Ray's messages and progress bars off standard error; must be called before `ray.init`."""
    # Workers run at niceness 15 by default, and other processes then take their cores.
    os.environ.setdefault("RAY_worker_niceness", "0")
    # Below `fatal`, the driver reports that a killed actor may not be restarted once its arguments are gone; they stay
    # until the run ends.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    importlib.import_module("ray.data")  # sets its own log level when it is imported
    logging.getLogger("ray").setLevel(logging.ERROR)
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # its errors are raised as well
    # Ray deprecates remote options as keywords; the version is pinned to 2.60.
    deprecation = importlib.import_module("ray.util.annotations").RayDeprecationWarning
    warnings.filterwarnings("ignore", category=deprecation)


@contextmanager
def _no_standard_error() -> Iterator[None]:
    """Discard what compiled code writes to standard error meanwhile: Ray reports its log level there."""
    sys.stderr.flush()
    saved = os.dup(2)
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


def configure_ray_data() -> None:
    """Settings of the graphs of this process: no progress bars of Ray, and blocks of at most 64 MiB.

    With Ray's default of 128 MiB, few blocks of pixels fill a small object store.
    """
    from ray.data import DataContext

    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.target_max_block_size = 64 << 20


def cluster_nodes() -> list[dict[str, float]]:
    """Resources of each living machine of the Ray in use."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]
