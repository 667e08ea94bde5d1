"""A Ray head of its own with a job server, beside the Ray of the test session; nothing of it outlives its process.

Where a process namespace can be made (as root), all of it ends with the first process of that; elsewhere Ray's own
supervision has to do.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ray.job_submission import JobSubmissionClient

START_TIMEOUT_S = 120.0

NAMESPACE = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]

# Ends what it started when the pipe closes, also because its parent was killed; then it removes the folder. What
# ends by itself may be looked at first.
GUARD = """
import os, select, shutil, signal, subprocess, sys
folder, *command = sys.argv[1:]
child = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
while not select.select([sys.stdin], [], [], 0.2)[0]:
    if child.poll() is not None:
        sys.exit(child.returncode or 1)
# A namespace ends with its first process; without one, Ray is asked to end its other processes itself.
if "unshare" not in command:
    child.terminate()
    try:
        child.wait(20)
    except subprocess.TimeoutExpired:
        pass
try:
    os.killpg(child.pid, signal.SIGKILL)
except ProcessLookupError:
    pass
shutil.rmtree(folder, ignore_errors=True)
"""


class RayHead:
    """A head node with three CPUs, its ports on 127.0.0.1 and its own folder; use it as a context."""

    def __init__(self) -> None:
        self._gcs, self._dashboard, self._agent, self._clients = free_ports(4)
        # Short: Ray opens Unix sockets below it, whose paths end at 107 bytes.
        self._folder = tempfile.mkdtemp(prefix="zs3-head-")
        self._guard: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """The url of the job server and dashboard."""
        return f"http://127.0.0.1:{self._dashboard}"

    @property
    def log(self) -> str:
        """What the head has said."""
        path = Path(self._folder) / "head.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def __enter__(self) -> RayHead:
        programs = Path(sys.executable).parent
        start = [
            *(str(programs / "ray"), "start", "--head", "--block", "--disable-usage-stats", "--num-cpus=3"),
            "--node-ip-address=127.0.0.1",
            *(f"--port={self._gcs}", f"--temp-dir={self._folder}", f"--object-store-memory={128 << 20}"),
            *("--dashboard-host=127.0.0.1", f"--dashboard-port={self._dashboard}"),
            *(f"--dashboard-agent-listen-port={self._agent}", "--min-worker-port=0", "--max-worker-port=0"),
            f"--ray-client-server-port={self._clients}",
        ]  # fmt: skip
        # Where Ray notes its latest cluster: not where a later `ray.init` of the user would look.
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("RAY_ADDRESS")
        }
        environment |= {"RAY_TMPDIR": self._folder, "RAY_AUTH_MODE": "disabled", "RAY_worker_niceness": "0"}
        environment["PATH"] = f"{programs}:{environment.get('PATH', os.defpath)}"  # jobs say `python`
        with (Path(self._folder) / "head.log").open("wb") as log:
            self._guard = subprocess.Popen(
                [sys.executable, "-I", "-c", GUARD, self._folder, *namespace(), *start],
                stdin=subprocess.PIPE, stdout=log, stderr=log, env=environment, start_new_session=True,
            )  # fmt: skip
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._answers():
            if self._guard.poll() is not None or time.monotonic() > deadline:
                said = self.log[-2000:]
                self.__exit__()
                raise RuntimeError(f"the head did not start: {said}")
            time.sleep(0.2)
        return self

    def __exit__(self, *_: object) -> None:
        if self._guard:
            assert self._guard.stdin
            self._guard.stdin.close()
            self._guard.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def client(self) -> JobSubmissionClient:
        """Its job server."""
        return JobSubmissionClient(self.address)

    def _answers(self) -> bool:
        try:
            self.client().list_jobs()
        except Exception:
            return False
        return True


def namespace() -> list[str]:
    """The start of a command whose processes all end with it, or nothing where that is not allowed."""
    if shutil.which(NAMESPACE[0]) is None:
        return []
    tried = subprocess.run([*NAMESPACE, "true"], capture_output=True, check=False)
    return NAMESPACE if tried.returncode == 0 else []


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 on which nothing listens now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for probe in sockets:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in sockets]
    finally:
        for probe in sockets:
            probe.close()
