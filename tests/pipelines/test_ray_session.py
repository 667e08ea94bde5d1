"""Joining a cluster that is not there, and starting Ray where its sockets have no place."""

import atexit
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

import pipelines.ray_session
from pipelines.ray_session import MAX_TEMP_BYTES, WORKER_ENVIRONMENT, _require_answer, _short_folder


@pytest.fixture
def dead_port():
    """A port of this machine on which nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.mark.parametrize("address", ["127.0.0.1:{}", "ray://127.0.0.1:{}", "localhost:{}"])
def test_an_address_without_a_cluster_ends_at_once_and_says_what_was_tried(dead_port, address):
    address, began = address.format(dead_port), time.monotonic()
    with pytest.raises(
        ConnectionError, match=f"{address}: connecting to .* port {dead_port} failed.*RAY_ADDRESS"
    ):
        _require_answer(address)
    assert time.monotonic() - began < 10


def test_an_address_that_never_answers_ends_in_time(monkeypatch):
    def hangs(address, timeout):
        time.sleep(5)
        raise OSError

    monkeypatch.setattr(pipelines.ray_session, "CONNECT_TIMEOUT_S", 0.2)
    monkeypatch.setattr(socket, "create_connection", hangs)
    began = time.monotonic()
    with pytest.raises(ConnectionError, match=r"no answer within 0.2 s"):
        _require_answer("far.example:6379")
    assert time.monotonic() - began < 10


def test_an_address_that_answers_or_is_for_ray_to_look_up_is_let_through():
    with socket.create_server(("127.0.0.1", 0)) as server:
        _require_answer(f"127.0.0.1:{server.getsockname()[1]}")
    _require_answer("local")
    with pytest.raises(ValueError, match=r"'head:many'.*expected host:port"):
        _require_answer("head:many")


def test_a_dead_address_is_one_line_of_a_command(repo, dead_port, tmp_path):
    program = (
        "import sys; from jobs.cli.exit_codes import guarded; from pipelines.execution import Execution\n"
        "from pipelines.ray_session import start_ray\nsys.exit(guarded(lambda: start_ray(Execution())))"
    )
    environment = {**os.environ, "PYTHONPATH": str(repo), "RAY_ADDRESS": f"127.0.0.1:{dead_port}"}
    ended = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert line.startswith(
        f"zs3: error: no Ray cluster at 127.0.0.1:{dead_port}: connecting to 127.0.0.1 port"
    )


@pytest.mark.parametrize("variable", ["TMPDIR", "RAY_TMPDIR"])
@pytest.mark.parametrize(
    ("folder", "replaced"),
    [
        ("/tmp", False),
        ("/" + "x" * (MAX_TEMP_BYTES - 1), False),
        ("/" + "x" * MAX_TEMP_BYTES, True),
        ("/tmp/é", True),
    ],
)
def test_a_folder_in_which_ray_cannot_open_sockets_is_replaced_by_a_short_one(
    monkeypatch, variable, folder, replaced
):
    removals = []
    monkeypatch.setattr(atexit, "register", lambda *call: removals.append(call))
    for name in ("TMPDIR", "RAY_TMPDIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, folder)
    short = _short_folder()
    assert (short is not None) is replaced
    for remove, path in removals:
        assert path == short and Path(path).stat().st_mode & 0o077 == 0
        remove(path)
        assert not Path(path).exists()
    assert len(removals) == replaced


def test_a_folder_that_cannot_be_replaced_is_named_with_its_variable(monkeypatch):
    def refuses(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setenv("RAY_TMPDIR", "/" + "x" * 90)
    monkeypatch.setattr("tempfile.mkdtemp", refuses)
    with pytest.raises(ValueError, match=r"RAY_TMPDIR is '/x+', .*at most \d+ .*Permission denied"):
        _short_folder()


STARTED = """
import os, sys
from pipelines.execution import Execution
from pipelines.ray_session import start_ray
import ray

start_ray(Execution(object_store_bytes=128 << 20))
names = sys.argv[1:]
print(ray.get(ray.remote(num_cpus=0.1)(lambda: [os.environ.get(name) for name in names]).remote()))
"""


def test_ray_starts_with_a_long_temporary_folder_and_its_workers_do_not_spin(repo, tmp_path):
    """In a process of its own, whose folder is as long and as foreign as those that people have."""
    folder = tmp_path / ("é" + "x" * 120)
    folder.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(repo), "TMPDIR": str(folder)}
    for name in ("RAY_ADDRESS", "RAY_TMPDIR", *WORKER_ENVIRONMENT):
        environment.pop(name, None)
    before = set(Path("/tmp").glob("zs3-ray-*"))
    command = [sys.executable, "-c", STARTED, *WORKER_ENVIRONMENT]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.strip() == str(list(WORKER_ENVIRONMENT.values()))
    assert {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"} < set(WORKER_ENVIRONMENT)
    assert set(Path("/tmp").glob("zs3-ray-*")) - before == set()
