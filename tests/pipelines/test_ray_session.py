"""Joining a cluster that is not there, and starting Ray where its sockets have no place."""

import atexit
import gc
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

import pipelines.ray_session
from pipelines.evaluation.ground_truth import open_truth
from pipelines.execution import Execution
from pipelines.ray_session import (
    MAX_TEMP_BYTES,
    WORKER_ENVIRONMENT,
    _require_answer,
    _short_folder,
    start_ray,
)


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


def test_a_failed_task_with_a_result_that_nobody_asks_for_is_not_reported_once_more(
    ray_session, tmp_path, capfd, caplog
):
    start_ray(Execution())
    with pytest.raises((ValueError, FileNotFoundError)):
        open_truth("voc", str(tmp_path), "test")
    gc.collect()
    assert "Traceback" not in capfd.readouterr().err + caplog.text


STARTED = """
import json, os, sys
from pipelines.execution import Execution
from pipelines.ray_session import start_ray
from tests.support.processes import listening
import ray

start_ray(Execution(object_store_bytes=128 << 20))
names = sys.argv[1:]

def look():
    import jobs.cli, pipelines.execution, queue, zs3
    modules = [module.__file__ for module in (jobs.cli, pipelines.execution, queue, zs3)]
    return [os.environ.get(name) for name in names], modules, "" in sys.path or os.getcwd() in sys.path

environment, modules, has_working_directory = ray.get(ray.remote(num_cpus=0.1)(look).remote())
print(json.dumps([environment, modules, has_working_directory, sorted(listening(os.getpid()))]))
"""


def test_a_local_ray_listens_on_loopback_and_its_workers_import_from_where_the_driver_does(repo, tmp_path):
    """In a process of its own, whose temporary folder is as long and as foreign as those that people have, and whose
    working directory holds modules with the names of ours."""
    folder, working, program = (
        tmp_path / ("é" + "x" * 120),
        tmp_path / "work",
        tmp_path / "program" / "run.py",
    )
    for made in (folder, working, program.parent):
        made.mkdir()
    for name in ("pipelines", "jobs", "zs3", "queue"):
        (working / f"{name}.py").write_text("raise ImportError('the file of the user')")
    program.write_text(STARTED)
    environment = {**os.environ, "PYTHONPATH": str(repo), "TMPDIR": str(folder)}
    for name in ("RAY_ADDRESS", "RAY_TMPDIR", *WORKER_ENVIRONMENT):
        environment.pop(name, None)
    before = set(Path("/tmp").glob("zs3-ray-*"))
    command = [sys.executable, str(program), *WORKER_ENVIRONMENT]
    ended = subprocess.run(
        command, env=environment, cwd=working, capture_output=True, text=True, timeout=300, check=False
    )
    assert ended.returncode == 0, ended.stderr
    values, modules, has_working_directory, addresses = json.loads(ended.stdout.splitlines()[-1])
    assert values == list(WORKER_ENVIRONMENT.values())
    assert all(str(working) not in module for module in modules) and not has_working_directory
    assert {host for host, _ in addresses} == {"127.0.0.1"}, addresses
    assert {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"} < set(WORKER_ENVIRONMENT)
    assert set(Path("/tmp").glob("zs3-ray-*")) - before == set()
