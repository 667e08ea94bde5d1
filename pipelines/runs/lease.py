"""Which process may write the tables of a run: a lease in the log of the table of results.

It is taken with the first commit to that table, renewed with every further one, and given back with the last. Two
processes that take it at the same time commit the same number of the run, and the Delta log accepts one of them, on a
disk as in a bucket. The lease of a process that was killed is free at once where this process can see that it is gone,
elsewhere when it has not been renewed for `LEASE_S`.
"""

from __future__ import annotations

import logging
import os
import platform
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from deltalake import DeltaTable

from pipelines.ray_session import ray_job
from pipelines.tables.delta_reader import log_entries

logger = logging.getLogger(__name__)

LEASE_S = 90.0
"""Seconds without a renewal after which another process may take the lease."""

RENEW_S = 15.0
"""Seconds after which a run renews its lease, also where it has nothing to commit."""

POLL_S = 1.0
"""Pause between two looks at a lease that may be given up."""

MAX_ENTRIES = 50
"""Newest entries of the log among which a lease is looked for; other tools may have added some."""

_in_use: set[str] = set()
"""Ids of the leases that this process has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """What the log says of the process that writes a run."""

    id: str
    host: str
    machine: str
    """Start of the machine and namespace of its processes; empty where the system does not tell."""
    pid: int
    started: str
    """Start of the process, in the units of the system; distinguishes processes that get the same number."""
    job: str
    """Id of the Ray job, if it is one."""
    since_ms: int
    """In milliseconds since 1970."""
    released: bool = False

    def metadata(self) -> dict[str, object]:
        """For the log."""
        return {"lease": asdict(self)}


def new_lease() -> Lease:
    """A lease of this process."""
    lease = Lease(
        id=uuid.uuid4().hex,
        host=platform.node(),
        machine=_machine(),
        pid=os.getpid(),
        started=_start_of(os.getpid()),
        job=ray_job() or "",
        since_ms=int(time.time() * 1000),
    )
    _in_use.add(lease.id)
    return lease


def give_up(lease_id: str) -> None:
    """Note that this process no longer uses a lease, whatever the log says."""
    _in_use.discard(lease_id)


def wait_for_lease(table: DeltaTable, out: str, *, pause: Callable[[float], None] = time.sleep) -> None:
    """Return when no other process writes the run; it may have been killed, which takes up to `LEASE_S` to tell.

    Args:
        table: of results, at its newest version.
        out: for messages.

    Raises:
        ValueError: another process writes it; the message says which.
    """
    found = _newest(table)
    if found is None or _is_over(found[1]):
        return
    version, lease, renewed_s = found
    age_s = max(0.0, time.time() - renewed_s)
    if _is_of_this_machine(lease):
        raise ValueError(busy(lease, out, age_s))
    if age_s < LEASE_S:
        logger.warning(
            "zs3: %s was written %.0f s ago by %s; waiting up to %.0f s to see whether it still is",
            *(out, age_s, _holder(lease), LEASE_S - age_s),
        )
    waited_s = 0.0
    while age_s + waited_s < LEASE_S:
        pause(POLL_S)
        waited_s += POLL_S
        table.update_incremental()
        found = _newest(table)
        if found is None or found[1].released:
            return
        if found[0] != version:
            raise ValueError(busy(found[1], out, 0.0))


def newest_lease(table: DeltaTable) -> Lease | None:
    """The lease of the newest commit that has one."""
    found = _newest(table)
    return found and found[1]


def busy(lease: Lease, out: str, age_s: float | None = None) -> str:
    """Why a run cannot be written, as an error message.

    Args:
        age_s: seconds since the last renewal; None where it is not known.
    """
    renewed = "" if age_s is None else f", last renewed {age_s:.0f} s ago"
    return (
        f"another run writes {out}: {_holder(lease)}, since {_utc(lease.since_ms)}{renewed}; let it finish or stop it, "
        "then run this again: it continues where that one stopped"
    )


def _newest(table: DeltaTable) -> tuple[int, Lease, float] | None:
    """Version, lease and time (seconds since 1970) of the newest commit that has a lease."""
    for entry in log_entries(table, MAX_ENTRIES):
        stored = entry.get("lease")
        if isinstance(stored, Mapping):
            try:
                return entry["version"], Lease(**stored), entry["timestamp"] / 1000
            except TypeError:  # of a later version of zs3
                return None
    return None


def _is_over(lease: Lease) -> bool:
    """Whether a lease was given back, or its process is known to be gone."""
    if lease.released:
        return True
    if not _is_of_this_machine(lease):
        return False
    if lease.pid == os.getpid() and lease.started == _start_of(lease.pid):
        return lease.id not in _in_use
    return _start_of(lease.pid) != lease.started


def _is_of_this_machine(lease: Lease) -> bool:
    return bool(lease.machine) and (lease.host, lease.machine) == (platform.node(), _machine())


def _machine() -> str:
    try:
        return (
            Path("/proc/sys/kernel/random/boot_id").read_text().strip()
            + " "
            + str(Path("/proc/self/ns/pid").readlink())
        )
    except OSError:
        return ""


def _start_of(pid: int) -> str:
    """The start of a process that runs; empty where there is none, or it has ended and waits for its parent."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if state in "ZX" else fields[18]


def _holder(lease: Lease) -> str:
    return f"process {lease.pid} on {lease.host}" + (f", job {lease.job}" if lease.job else "")


def _utc(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
