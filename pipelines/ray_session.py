"""Joining a Ray cluster, or starting one on this machine, and leaving it, without its chatter."""

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

KEEP_BUFFERS = {
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(4 << 30),
    "MALLOC_TOP_PAD_": str(64 << 20),
    "MALLOC_ARENA_MAX": "1",
}
"""Environment of workers that compute on a CPU: glibc keeps large buffers instead of returning them to the
system after every layer, which doubled the speed of a convolutional network. One arena, because Ray calls an
actor from a thread of its own, whose arena would not keep them: 1.19 images/s became 1.41."""


_joined: list[bool] = []
"""Whether this process has started or joined a Ray that was not there before."""


def start_ray(execution: Execution) -> bool:
    """Join the Ray that is meant, or start one on this machine; True if one was started or joined here.

    A Ray that the process has already joined is kept. One of its own listens on this machine alone, shows no
    dashboard, and has `RESERVED_CPUS` more logical CPUs than there are cores.
    """
    _quieten()
    import ray

    if ray.is_initialized():
        return False
    address = execution.ray_address or os.environ.get("RAY_ADDRESS")
    if address:
        keep = {"env_vars": {**KEEP_BUFFERS, **environment_for_cluster()}}
        with _silent():
            ray.init(address=address, runtime_env=keep, log_to_driver=False, logging_level=logging.ERROR)
        _joined.append(True)
        return True
    os.environ.update({name: os.environ.get(name, value) for name, value in KEEP_BUFFERS.items()})
    actors_cpus = (execution.num_actors or 1) * (execution.cpus_per_actor or 0)
    with _silent():
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
    """Leave the Ray that `start_ray` started or joined, if there is one; it says nothing more afterwards.

    It writes of lost machines to standard output, whatever it was told of logging, and so behind a last line.
    """
    if _joined:
        importlib.import_module("ray").shutdown()
        _joined.clear()


def _quieten() -> None:
    """Keep Ray's talk of tokens, plans and bars off standard error; to be called before `ray.init`."""
    # Workers run at niceness 15 otherwise and lose to whatever runs beside them. Below `fatal`, the driver
    # says that a killed actor may not come back without its arguments, which are kept until the run ends.
    os.environ.setdefault("RAY_worker_niceness", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    importlib.import_module("ray.data")  # sets its own log level when it is imported
    logging.getLogger("ray").setLevel(logging.ERROR)
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # its errors are raised as well
    deprecation = importlib.import_module("ray.util.annotations").RayDeprecationWarning
    warnings.filterwarnings(
        "ignore", category=deprecation
    )  # remote options as keywords; hence the pin on 2.60


@contextmanager
def _silent() -> Iterator[None]:
    """Drop what compiled code writes to standard error meanwhile: Ray tells which log level it was given."""
    sys.stderr.flush()
    kept = os.dup(2)
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def cluster_nodes() -> list[dict[str, float]]:
    """Resources of each living machine of the Ray in use."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]
