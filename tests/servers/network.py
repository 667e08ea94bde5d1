"""A network of machines on this one: namespaces joined by a bridge, each with an address of its own. As root alone.

All of it lies in one more namespace, of processes and of the network. It ends with the process that made it, and then
nothing of it is left: no link, no named namespace, no process.
"""

from __future__ import annotations

import shutil
import subprocess
import time

from tests.servers.ray_head import NAMESPACE
from tests.support.processes import descendants

BRIDGE = "bridge0"
SUBNET = "10.77.0"
WAIT_S = 30.0

_SETUP = (
    f"ip link set lo up && ip link add {BRIDGE} type bridge && ip link set {BRIDGE} up && echo ready && cat"
)

# A host waits for its cable, then becomes what it was given to run.
_HOST = """
until ip link show eth0 >/dev/null 2>&1; do sleep 0.05; done
ip link set lo up && ip addr add "$1/24" dev eth0 && ip link set eth0 up && shift && exec "$@"
"""


class Network:
    """The bridge and its namespace; use it as a context.

    Raises:
        PermissionError: it cannot be made here, on entering; it says why.
    """

    def __init__(self) -> None:
        self._hosts = 0
        self._held: subprocess.Popen[str] | None = None

    def __enter__(self) -> Network:
        missing = [name for name in ("unshare", "nsenter", "ip") if shutil.which(name) is None]
        if missing:
            raise PermissionError(f"a network of namespaces needs {', '.join(missing)}")
        # `cat` ends when the pipe closes, whoever closes it, and all processes of the namespace with it.
        self._held = subprocess.Popen(
            [NAMESPACE[0], "--net", *NAMESPACE[1:], "sh", "-c", _SETUP],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip
        assert self._held.stdout
        said = self._held.stdout.readline().strip()
        if said != "ready":
            self.__exit__()
            raise PermissionError(f"a network of namespaces cannot be made here, which takes root: {said}")
        return self

    def __exit__(self, *_: object) -> None:
        if self._held:
            assert self._held.stdin and self._held.stdout
            self._held.stdin.close()
            self._held.wait()
            self._held.stdout.close()

    def host(self) -> tuple[list[str], str]:
        """The start of a command that becomes a machine, which waits for its cable, and the machine's address."""
        self._hosts += 1
        address = f"{SUBNET}.{self._hosts}"
        inside = [*self._entered("--net", "--pid", "--mount"), NAMESPACE[0], "--net", *NAMESPACE[1:]]
        return [*inside, "sh", "-c", _HOST, "host", address], address

    def connect(self, first: int, address: str) -> None:
        """Plug the cable of a machine in.

        Args:
            first: process id, as seen from here, of the machine's first process.
            address: the machine's.
        """
        name = f"host{address.rpartition('.')[2]}"
        enter = self._entered("--net")
        for command in (
            f"link add {name} type veth peer name eth0 netns {first}",
            f"link set {name} master {BRIDGE}",
            f"link set {name} up",
        ):
            subprocess.run([*enter, "ip", *command.split()], check=True, capture_output=True)

    def _entered(self, *namespaces: str) -> list[str]:
        assert self._held
        # The process that was forked is the first one inside.
        deadline = time.monotonic() + WAIT_S
        while not (inner := list(descendants(self._held.pid))) and time.monotonic() < deadline:
            time.sleep(0.05)
        return ["nsenter", "--target", str(inner[0]), *namespaces, "--"]


def beside(first: int) -> list[str]:
    """The start of a command that runs on the machine with this first process."""
    return ["nsenter", "--target", str(first), "--net", "--pid", "--mount", "--"]
