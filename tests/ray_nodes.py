"""A Ray cluster of several nodes on one machine: a head and workers that join, and are killed, while it runs.

Each node is a raylet with its own store, ports and folder. Nothing of them outlives the process that made them. Where
a process namespace can be made (as root) a node is one, and ends as a machine does: all of it at once.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.ray_head import GUARD, START_TIMEOUT_S, free_ports, namespace

STORE_BYTES = 128 << 20
"""Shared memory of each node."""


class Node:
    """One node, that has begun to start.

    Args:
        options: of `ray start`, beyond those that all nodes have.
        inside: a command before it that puts it somewhere else; by default a namespace of processes of its own.
        address: the node's own.
    """

    def __init__(
        self, options: Sequence[str], *, inside: Sequence[str] | None = None, address: str = "127.0.0.1"
    ) -> None:
        # Short: Ray opens Unix sockets below it, whose paths end at 107 bytes.
        self.folder = Path(tempfile.mkdtemp(prefix="zs3-node-"))
        self.log = self.folder / "node.log"
        programs = Path(sys.executable).parent
        agent, grpc, runtime, metrics = free_ports(4)
        command = [
            *(str(programs / "ray"), "start", "--block", "--disable-usage-stats", *options),
            *(f"--node-ip-address={address}", f"--temp-dir={self.folder}"),
            *(f"--object-store-memory={STORE_BYTES}", "--min-worker-port=0", "--max-worker-port=0"),
            *(f"--dashboard-agent-listen-port={agent}", f"--dashboard-agent-grpc-port={grpc}"),
            *(f"--runtime-env-agent-port={runtime}", f"--metrics-export-port={metrics}"),
        ]  # fmt: skip
        environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        environment |= {
            "RAY_TMPDIR": str(self.folder),
            "RAY_AUTH_MODE": "disabled",
            "RAY_worker_niceness": "0",
        }
        inside = namespace() if inside is None else inside
        with self.log.open("wb") as log:
            self._guard = subprocess.Popen(
                [sys.executable, "-I", "-c", GUARD, str(self.folder), *inside, *command],
                stdin=subprocess.PIPE, stdout=log, stderr=log, env=environment, start_new_session=True,
            )  # fmt: skip

    @property
    def ended(self) -> bool:
        """Whether it has come to its end."""
        return self._guard.poll() is not None

    @property
    def raylet(self) -> int | None:
        """Process id of its raylet; none where it has not started, or is gone."""
        found = [
            pid for pid, command in self.processes().items() if command.split(" ")[0].endswith("/raylet")
        ]
        return found[0] if found else None

    def processes(self) -> dict[int, str]:
        """Process id → command of all that runs in it."""
        return descendants(self._guard.pid)

    def kill(self) -> None:
        """End it as a lost machine does: raylet and workers, without a word."""
        for pid in self.processes():
            kill(pid)
        self._guard.wait()

    def close(self) -> None:
        """End it, and remove its folder."""
        assert self._guard.stdin
        self._guard.stdin.close()
        self._guard.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


class Nodes:
    """A cluster; use it as a context, in which it has a head and so many workers.

    Args:
        workers: nodes beside the head.
        num_cpus: logical CPUs of each node, the head's too.
    """

    def __init__(self, workers: int = 2, num_cpus: int = 2) -> None:
        self.num_cpus = num_cpus
        self._wanted = workers
        self._port, self._clients = free_ports(2)
        self.head: Node | None = None
        self.workers: list[Node] = []
        """Those that were not killed."""
        self._all: list[Node] = []

    @property
    def address(self) -> str:
        """What RAY_ADDRESS has to say."""
        return f"127.0.0.1:{self._port}"

    def __enter__(self) -> Nodes:
        try:
            self.head = self._started(
                "--head",
                f"--port={self._port}",
                f"--ray-client-server-port={self._clients}",
                "--include-dashboard=false",
            )
            self.wait(1)
            for _ in range(self._wanted):
                self.join()
            self.wait(1 + self._wanted)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for node in reversed(self._all):
            node.close()
        self._all, self.workers, self.head = [], [], None

    def join(self, labels: str = "") -> Node:
        """A further worker, which has begun to start.

        Args:
            labels: what Ray calls the node's labels, as name=value.
        """
        node = self._started(f"--address={self.address}", *([f"--labels={labels}"] if labels else []))
        self.workers.append(node)
        return node

    def kill(self, node: Node) -> None:
        """Lose a worker."""
        node.kill()
        self.lost(node)

    def lost(self, node: Node) -> None:
        """Forget a worker that has ended, or is about to."""
        self.workers.remove(node)

    def wait(self, count: int) -> None:
        """Wait until so many nodes live.

        Raises:
            RuntimeError: they did not come in time; with the end of what each said.
        """
        deadline = time.monotonic() + START_TIMEOUT_S
        while alive(self.address) < count:
            if time.monotonic() > deadline or any(node.ended for node in self._all if node in self.workers):
                said = "\n".join(node.log.read_text(errors="replace")[-1000:] for node in self._all)
                raise RuntimeError(f"{count} nodes did not start: {said}")
            time.sleep(0.2)

    def _started(self, *options: str) -> Node:
        node = Node([*options, f"--num-cpus={self.num_cpus}"])
        self._all.append(node)
        return node


def alive(address: str) -> int:
    """Nodes of a cluster that its head takes for living; none where there is no head."""
    from ray._raylet import GcsClient

    try:
        nodes = GcsClient(address=address).get_all_node_info(timeout=5)
    except Exception:
        return 0
    return sum(node.state == 0 for node in nodes.values())


def descendants(pid: int) -> dict[int, str]:
    """Process id → command of what a process has started, directly or not, nearest first."""
    parents, commands = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
                commands[int(entry.name)] = (entry / "cmdline").read_text().replace("\0", " ").strip()
            except OSError:  # gone meanwhile
                continue
    found, generation = {}, {pid}
    while generation:
        generation = {child for child, parent in parents.items() if parent in generation}
        found |= {child: commands.get(child, "") for child in sorted(generation)}
    return found


def kill(pid: int) -> None:
    """End a process, if it is still there, without a word."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
