"""Processes of this machine: what a process has started, and how to end one."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import signal
from pathlib import Path


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


def listening(pid: int) -> set[tuple[str, str]]:
    """(address, command) for each TCP port on which a process, or one that it has started, listens."""
    addresses = {}
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A":
                raw = bytes.fromhex(words[1].partition(":")[0])
                groups = [raw[start : start + 4][::-1] for start in range(0, len(raw), 4)]
                address = ipaddress.ip_address(b"".join(groups))
                addresses[words[9]] = str(getattr(address, "ipv4_mapped", None) or address)
    found = set()
    for process, command in {pid: "", **descendants(pid)}.items():
        for link in Path(f"/proc/{process}/fd").glob("*"):
            with contextlib.suppress(OSError):
                inode = str(link.readlink()).removeprefix("socket:[").removesuffix("]")
                if inode in addresses:
                    found.add((addresses[inode], command))
    return found


def kill(pid: int) -> None:
    """End a process, if it is still there, without a word."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def training_worker() -> int:
    """The process id of the training worker below this process, and of no other Ray's."""
    parents, workers = {}, []
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            pid, text = int(status.parent.name), status.read_text()
            parents[pid] = int(text.split("PPid:")[1].split()[0])
            if b"RayTrainWorker" in (status.parent / "cmdline").read_bytes():
                workers.append(pid)
        except (OSError, IndexError):
            continue
    for pid in workers:
        ancestor = pid
        while ancestor in parents and ancestor != os.getpid():
            ancestor = parents[ancestor]
        if ancestor == os.getpid():
            return pid
    raise AssertionError("no training worker below this process")
