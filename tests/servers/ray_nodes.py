"""A Ray cluster of several nodes on one machine: a head and workers that join, and are killed, while it runs.

Each node is a raylet with its own store, ports and folder. Nothing of them outlives the process that made them. Where
a process namespace can be made (as root) a node is one, and ends as a machine does: all of it at once.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.servers.network import Network, beside
from tests.servers.ray_head import GUARD, START_TIMEOUT_S, free_ports, namespace
from tests.support.processes import descendants, kill

STORE_BYTES = 128 << 20
"""Shared memory of each node."""


class Node:
    """One node, that has begun to start.

    Args:
        options: of `ray start`, beyond those that all nodes have.
        num_cpus: logical CPUs.
        inside: a command before it that puts it somewhere else; by default a namespace of processes of its own.
        address: the node's own.
    """

    def __init__(
        self,
        options: Sequence[str],
        *,
        num_cpus: int,
        inside: Sequence[str] | None = None,
        address: str = "127.0.0.1",
    ) -> None:
        self.options = options
        # Short: Ray opens Unix sockets below it, whose paths end at 107 bytes.
        self.folder = Path(tempfile.mkdtemp(prefix="zs3-node-"))
        self.log = self.folder / "node.log"
        programs = Path(sys.executable).parent
        agent, grpc, runtime, metrics = free_ports(4)
        command = [
            *(str(programs / "ray"), "start", "--block", "--disable-usage-stats", *options),
            *(f"--num-cpus={num_cpus}", f"--node-ip-address={address}", f"--temp-dir={self.folder}"),
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
    def started(self) -> bool:
        """Whether it has become part of its cluster."""
        return "Ray runtime started" in self.said

    @property
    def said(self) -> str:
        """What it has said."""
        return self.log.read_text(errors="replace")

    @property
    def first(self) -> int | None:
        """Process id, as seen from here, of the first process of its namespaces; none while it has none."""
        found = [pid for pid, command in self.processes().items() if command.startswith("unshare ")]
        inner = [pid for outer in found for pid in descendants(outer)]
        return inner[0] if inner else None

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
        labels: of these, as of `join`.
        num_cpus: logical CPUs of each node, the head's too.
        network: has a machine for each node; by default they share this one's addresses.
    """

    def __init__(
        self, workers: int = 2, num_cpus: int = 2, labels: str = "", network: Network | None = None
    ) -> None:
        self.num_cpus = num_cpus
        self._network = network
        self._host = "127.0.0.1"
        self._wanted, self._labels = workers, labels
        self._port, self._clients = free_ports(2)
        self.head: Node | None = None
        self.workers: list[Node] = []
        """Those that were not killed."""
        self._all: list[Node] = []

    @property
    def address(self) -> str:
        """What RAY_ADDRESS has to say."""
        return f"{self._host}:{self._port}"

    def __enter__(self) -> Nodes:
        try:
            self.head = self._started(
                "--head",
                f"--port={self._port}",
                f"--ray-client-server-port={self._clients}",
                "--include-dashboard=false",
            )
            self.wait()
            for _ in range(self._wanted):
                self.join(self._labels)
            self.wait()
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

    def wait(self) -> None:
        """Wait until the head and all workers have started.

        Raises:
            RuntimeError: they did not come in time; with the end of what each said.
        """
        deadline = time.monotonic() + START_TIMEOUT_S
        while not all(node.started for node in self._living()):
            if time.monotonic() > deadline:
                nodes = self._living()
                said = "\n".join(node.said[-1000:] for node in nodes)
                raise RuntimeError(f"{len(nodes)} nodes did not start: {said}")
            self.mend()
            time.sleep(0.2)

    def mend(self) -> None:
        """Start those again that have ended before they had started: Ray gives up after 30 s, which can be too few."""
        for node in self._living():
            if node.ended and not node.started:
                again = self._started(*node.options)
                if node is self.head:
                    self.head = again
                else:
                    self.workers[self.workers.index(node)] = again

    def _living(self) -> list[Node]:
        return [node for node in (self.head, *self.workers) if node]

    @property
    def inside(self) -> list[str]:
        """The start of a command that runs where the head is."""
        if self._network is None:
            return []
        assert self.head and self.head.first
        return list(beside(self.head.first))

    def _started(self, *options: str) -> Node:
        if self._network is None:
            node = Node(options, num_cpus=self.num_cpus)
        else:
            inside, address = self._network.host()
            node = Node(options, num_cpus=self.num_cpus, inside=inside, address=address)
            deadline = time.monotonic() + START_TIMEOUT_S
            while node.first is None and not node.ended and time.monotonic() < deadline:
                time.sleep(0.05)
            assert node.first, node.said
            self._network.connect(node.first, address)
            if "--head" in options:
                self._host = address
        self._all.append(node)
        return node
