"""The network of namespaces that tests of lost machines use: it connects, and leaves nothing behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.servers.network import Network, beside
from tests.support.processes import descendants

SERVER = "import socket, time; s = socket.create_server(('0.0.0.0', 4000)); s.accept()[0].sendall(b'hello')"
CLIENT = "import socket, sys; print(socket.create_connection((sys.argv[1], 4000), 10).recv(9).decode())"
DIES = """
import os, signal
from tests.servers.network import Network
network = Network().__enter__()
print(network._held.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def network():
    held = Network()
    try:
        held.__enter__()
    except PermissionError as error:
        pytest.skip(str(error))
    yield held
    held.__exit__()


def plugged_in(network, program):
    """A machine that runs a program: its process, its first process's id, its address."""
    command, address = network.host()
    machine = subprocess.Popen([*command, sys.executable, "-c", program])
    while len(found := list(descendants(machine.pid))) < 2:
        time.sleep(0.05)
    network.connect(found[1], address)
    return machine, found[1], address


def test_machines_reach_each_other_until_one_is_lost(network):
    machine, _, address = plugged_in(network, SERVER)
    other, first, _ = plugged_in(network, "import time; time.sleep(600)")
    ask = [*beside(first), sys.executable, "-c", CLIENT, address]
    while "hello" not in (asked := subprocess.run(ask, capture_output=True, text=True, timeout=60)).stdout:
        assert machine.poll() is None, asked.stderr
        time.sleep(0.2)
    assert machine.wait(30) == 0
    assert subprocess.run(ask, capture_output=True, timeout=60).returncode != 0
    assert other.poll() is None
    network.__exit__()
    assert other.wait(30) != 0, "machines end with their network"


def test_nothing_is_left_of_the_network_of_a_process_that_was_killed(network, repo):
    done = subprocess.run(
        [sys.executable, "-c", DIES],
        cwd=repo,
        env={**os.environ, "PYTHONPATH": str(repo)},
        capture_output=True,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    deadline = time.monotonic() + 60
    while Path(f"/proc/{int(done.stdout)}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)
