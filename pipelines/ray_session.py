"""Joins a Ray cluster, or starts a Ray on this machine, and leaves it; keeps Ray's own log off the terminal."""

from __future__ import annotations

import atexit
import importlib
import json
import logging
import os
import queue
import shutil
import socket
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pipelines.execution import RESERVED_CPUS, RaySettings, cores
from pipelines.storage.objects import environment_for_cluster
from pipelines.termination import sigterm_raises_afterwards

WORKER_ENVIRONMENT = {
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(4 << 30),
    "MALLOC_TOP_PAD_": str(64 << 20),
    "MALLOC_ARENA_MAX": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "GOMP_SPINCOUNT": "0",
    "KMP_BLOCKTIME": "0",
}
"""Environment of workers that compute on a CPU: glibc keeps large buffers instead of returning them to the system after
every layer, which doubled the speed of a convolutional network. One arena, because Ray calls an actor from a thread of
its own, whose arena would not keep them: 1.19 images/s became 1.41.

OpenMP threads that wait for each other sleep instead of spinning: where other processes take their cores, spinning
costs several times the CPU of the work itself. libgomp reads the second variable, Intel's and LLVM's libraries the
third, and all of them when torch is imported."""

CONNECT_TIMEOUT_S = 10.0
"""Time for a cluster's address to accept a connection. Ray itself tries for a quarter of an hour, silently."""

MAX_TEMP_BYTES = 107 - len("/ray/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store_12345")
"""Length of the folder below which Ray opens its sockets, whose paths end at 107 bytes."""

_joined: list[bool] = []
"""Not empty while this process is in a Ray that `start_ray` started or joined."""


def start_ray(settings: RaySettings) -> bool:
    """Join the Ray cluster of the settings, or start a Ray on this machine; False where the process is in one already.

    A new Ray listens on the loopback interface only, has neither dashboard nor metrics, and has `RESERVED_CPUS` more
    logical CPUs than cores.
    SIGTERM raises `termination.Terminated` afterwards: Ray's own handler would abort the process.
    """
    _mute_ray()
    import ray

    if ray.is_initialized():
        return False
    address = settings.ray_address or os.environ.get("RAY_ADDRESS")
    if address:
        _require_answer(address)
        environment = {"env_vars": {**WORKER_ENVIRONMENT, **environment_for_cluster()}}
        with _no_standard_error(), sigterm_raises_afterwards():
            ray.init(
                address=address,
                runtime_env=environment,
                job_config=_job_config(),
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        _joined.append(True)
        return True
    for name, value in WORKER_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("RAY_enable_metrics_collection", "0")
    with _no_standard_error(), sigterm_raises_afterwards(), _loopback_only():
        ray.init(
            address="local",
            job_config=_job_config(),
            num_cpus=int(max(cores(), settings.requested_cpus) + RESERVED_CPUS),
            include_dashboard=False,
            object_store_memory=settings.object_store_bytes,
            log_to_driver=False,
            logging_level=logging.ERROR,
            _node_ip_address="127.0.0.1",
            _temp_dir=_short_folder(),
        )
    _joined.append(True)
    return True


@contextmanager
def _loopback_only() -> Iterator[None]:
    """Ray takes 127.0.0.1 for the address of this machine, and so listens there alone.

    As on macOS and Windows: elsewhere `ray.init` replaces 127.0.0.1 by an address that other machines reach.
    """
    constants: Any = importlib.import_module("ray._private.ray_constants")
    before, constants.ENABLE_RAY_CLUSTER = constants.ENABLE_RAY_CLUSTER, False
    try:
        yield
    finally:
        constants.ENABLE_RAY_CLUSTER = before


def ray_job() -> str | None:
    """Id of the Ray job that this process is, empty where it has none; None where it is no job."""
    config = os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR")
    if config is None:
        return None
    try:
        return str(json.loads(config).get("metadata", {}).get("job_submission_id", ""))
    except (ValueError, AttributeError):
        return ""


def _job_config() -> Any:
    """Ray's `JobConfig` with which workers import from where this process does, and not from its working directory.

    A user's own `pipelines.py` or `queue.py` there would otherwise replace ours, or Python's. None in a Ray job, whose
    workers import from the folder that was submitted.
    """
    if ray_job() is not None:
        return None
    config: Any = importlib.import_module("ray.job_config").JobConfig()
    root = Path(__file__).resolve().parent.parent
    config._py_driver_sys_path = [str(Path(sys.path[0]).absolute())]
    if root.name != "site-packages":  # a checkout, which workers may not have on their path
        config._py_driver_sys_path.append(str(root))
    config._runtime_env_has_working_dir = lambda: True  # so that Ray does not add the working directory
    return config


def _require_answer(address: str) -> None:
    """Connect to the machine and port of a cluster's address, and leave again.

    Raises:
        ConnectionError: nothing accepts a connection within `CONNECT_TIMEOUT_S`; the message has what was tried.
        ValueError: the port is no number.
    """
    if address == "auto":  # an address in a file or of a process, which may have ended
        address = (
            importlib.import_module("ray._private.services").canonicalize_bootstrap_address(address) or ""
        )
    try:
        parts = urlsplit(address if "://" in address else f"//{address}")
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(f"the Ray address is {address!r}: {error}; expected host:port or auto") from error
    if not host or not port:
        return  # not a cluster's address; Ray names what is wrong
    outcome: queue.Queue[OSError | None] = queue.Queue()

    def connect() -> None:
        try:
            socket.create_connection((host, port), timeout=CONNECT_TIMEOUT_S).close()
            outcome.put(None)
        except OSError as error:
            outcome.put(error)

    # In a thread, because looking up a name and several addresses of one may take longer.
    threading.Thread(target=connect, daemon=True).start()
    try:
        failure = outcome.get(timeout=CONNECT_TIMEOUT_S)
    except queue.Empty:
        failure = TimeoutError(f"no answer within {CONNECT_TIMEOUT_S:g} s")
    if failure is not None:
        raise ConnectionError(
            f"no Ray cluster at {address}: connecting to {host} port {port} failed ({failure.strerror or failure}); is "
            "the cluster running? Its address comes from --ray-address or RAY_ADDRESS; without either, zs3 starts "
            "Ray on this machine"
        ) from failure


def _short_folder() -> str | None:
    """A folder for Ray's files where its own choice cannot hold sockets; None where it can.

    Raises:
        ValueError: there is no other one.
    """
    name = next((name for name in ("RAY_TMPDIR", "TMPDIR") if os.environ.get(name)), None)
    folder = os.environ[name] if name else "/tmp"
    if folder.isascii() and len(folder) <= MAX_TEMP_BYTES:
        return None
    try:
        short = tempfile.mkdtemp(prefix="zs3-ray-", dir="/tmp")
    except OSError as error:
        raise ValueError(
            f"{name} is {folder!r}, and Ray needs a folder of ASCII characters, at most {MAX_TEMP_BYTES} of them; /tmp "
            f"cannot be used instead ({error.strerror}). Set RAY_TMPDIR to a short path"
        ) from error
    atexit.register(_remove_folder, short)
    return short


def _remove_folder(folder: str) -> None:
    leave_ray()  # it still writes there
    shutil.rmtree(folder, ignore_errors=True)


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
    # Ray prints the traceback of a failed task once more when the reference to a result that nobody asked for goes,
    # which is after the error line of a command, or in the middle of the next run of the process.
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")
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
