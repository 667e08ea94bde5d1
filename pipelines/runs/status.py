"""How far a run is, from its tables alone: each commit of the tables of images says so, and the newest tells the most.

A few entries of the log are read, not the table, so the answer costs the same for any number of images. Only where no
entry is a run's own are the images of the table counted.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from deltalake import DeltaTable

from pipelines.runs.resume import rows_of_images
from pipelines.storage.objects import read_bytes
from pipelines.tables.delta_reader import existing_table, provenance_of, table_uri
from zs3.tables import FAILURES, LABELS, SEGMENTS

RESULTS = {"labels": LABELS, "segments": SEGMENTS}
"""Tables of results that a run may leave; beside each lies `failures`."""

ENTRIES = 24
"""Entries of a log that are read at first."""

FURTHEST = 1536
"""Entries of a log that are looked through for one of a run, before its images are counted instead."""

SHOWN = 5
"""Commits that are told one by one."""

PATIENCE = 3.0
"""A run is taken to be stopped after this many times its longest recent pause between commits."""

MIN_PATIENCE_S = 60.0

CHANGING = ("DELETE", "UPDATE", "MERGE", "RESTORE", "WRITE")
"""Operations after which a table holds other rows; `OPTIMIZE` and `VACUUM` leave them as they are."""

State = Literal["complete", "running", "stopped"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """One round of transactions of a run: results and failures that came in together."""

    time: float
    """Seconds since 1970."""
    images: int
    """Processed since the commit before, failed ones included."""
    files: int
    size: int
    """Of the files, in bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TableStatus:
    """How far the run of one table of results is, as of its last commit."""

    table: str
    """Name: `labels` or `segments`."""
    uri: str
    state: State
    """`running` where a commit is not overdue; a run that was killed just now looks the same."""
    listed: int | None
    """Images of the listing; None where no commit tells."""
    done: int
    """Images with results."""
    failed: int
    images_per_second: float | None
    """Over the commits at hand of the last run, failed images included; None before it is known."""
    images_per_second_run: float | None
    """Over the last run since its first image reached a model."""
    since_commit_s: float | None
    """Seconds since the last commit."""
    commits: tuple[Commit, ...]
    """The last ones, newest first."""
    verb: str
    """What was asked for: `label`, `segment` or `name`; empty where the table does not say."""
    digest: str
    """Of the run."""
    run: Mapping[str, str]
    """The parts of the digest."""
    listing: str
    """Digest of the listing; empty where no commit tells."""
    changed_by: str
    """Operation of another tool that has changed rows since the last commit; empty if none has."""

    @property
    def left(self) -> int | None:
        """Images of the listing that have neither results nor failed."""
        return None if self.listed is None else max(0, self.listed - self.done - self.failed)

    @property
    def left_s(self) -> float | None:
        """Seconds for what is left, at the speed of the commits at hand."""
        speed = self.images_per_second or self.images_per_second_run
        return None if self.left is None or not (speed or not self.left) else self.left / (speed or 1.0)


def status(out: str, now: float | None = None) -> list[TableStatus]:
    """How far the runs are whose tables lie below `out`; reads, writes nothing.

    Args:
        out: the --out of a run.
        now: the time, in seconds since 1970; by default this machine's.

    Raises:
        FileNotFoundError: no table of results is there.
        ValueError: a table cannot be read, or is not one of this version of zs3.
    """
    now = time.time() if now is None else now
    found = {name: existing_table(table_uri(out, name)) for name in (*RESULTS, "failures")}
    failures = found.pop("failures")
    told = [_status(name, table, failures, now) for name, table in found.items() if table is not None]
    if not told:
        raise FileNotFoundError(
            f"no table at {' or '.join(table_uri(out, name) for name in RESULTS)}; give the --out of a run of "
            "`zs3 label`, `zs3 segment` or `zs3 name`"
        )
    return told


def _status(name: str, table: DeltaTable, failures: DeltaTable | None, now: float) -> TableStatus:
    """How far the run of one table is."""
    refuse_other_version(table, name)
    held = provenance_of(table)
    digest = str(held.get("digest", ""))
    if failures is not None and provenance_of(failures).get("run") != held["run"]:
        failures = None
    elif failures is not None:
        refuse_other_version(failures, "failures")
    entries, changed_by = [], ""
    for of in (table, failures):
        if of is not None:
            ours, other = _entries(of, digest)
            entries += [{**entry, "place": _place(of)} for entry in ours]
            changed_by = changed_by or other
    rounds = _rounds(sorted(entries, key=lambda entry: entry["timestamp"]))
    last = rounds[-1][-1] if rounds else None
    progress: Mapping[str, Any] = (
        last["progress"] if last else {"done": _images(table), "failed": _images(failures)}
    )
    listed = progress.get("listed")
    since = now - last["timestamp"] / 1000 if last else None
    recent = _this_run(rounds)
    return TableStatus(
        table=name,
        uri=_place(table),
        state=_state(progress, recent, since),
        listed=listed,
        done=progress["done"],
        failed=progress["failed"],
        images_per_second=_recent_speed(recent),
        images_per_second_run=_speed(progress.get("this_run", 0), progress.get("seconds", 0.0)),
        since_commit_s=since,
        commits=_commits(rounds),
        verb=str(held.get("asked", {}).get("verb", "")),
        digest=digest,
        run=held["run"],
        listing=progress.get("listing", ""),
        changed_by=changed_by,
    )


def refuse_other_version(table: DeltaTable, name: str) -> None:
    """Refuse a table that is not one of this version of zs3.

    Args:
        name: what it should be.

    Raises:
        ValueError: it is another.
    """
    schema, uri = {**RESULTS, "failures": FAILURES}[name], _place(table)
    if table.metadata().name != name or not provenance_of(table).get("run"):
        raise ValueError(f"{uri} is a table called {table.metadata().name!r}, not {name!r} of zs3")
    if [field.name for field in table.schema().fields] != schema.names:
        raise ValueError(
            f"{uri} was made by another version of zs3, with other columns; that version can tell of it"
        )


def _entries(table: DeltaTable, digest: str) -> tuple[list[dict[str, Any]], str]:
    """The newest entries of a run in a table's log that tell its progress, and the operation that came after them.

    Entries of the table before it was made anew are of another run.

    Args:
        digest: of the run.
    """
    wanted = ENTRIES
    while True:
        history = table.history(wanted)
        ours: list[dict[str, Any]] = []
        other, began = "", False
        for entry in history:
            operation = str(entry.get("operation", ""))
            if "CREATE" in operation:
                began = True
                break
            if "progress" in entry and entry.get("run") == digest:
                ours.append(entry)
            elif not ours and operation.startswith(CHANGING):
                other = operation
        if ours or began or len(history) < wanted or wanted >= FURTHEST:
            return ours, other
        wanted *= 8


def _rounds(entries: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Entries in order of time, those together that tell of the same progress; one of each table at most."""
    rounds: list[list[dict[str, Any]]] = []
    for entry in entries:
        together = rounds and entry["place"] not in [other["place"] for other in rounds[-1]]
        if together and _at(rounds[-1][-1]) == _at(entry):
            rounds[-1].append(entry)
        else:
            rounds.append([entry])
    return rounds


def _at(entry: Mapping[str, Any]) -> tuple[Any, ...]:
    """What entries of one round have in common."""
    return tuple(entry["progress"].get(key) for key in ("this_run", "of", "done", "failed"))


def _this_run(rounds: Sequence[Sequence[dict[str, Any]]]) -> list[Mapping[str, Any]]:
    """The rounds of the last run among those at hand, as their progress and their time in seconds since 1970."""
    told: list[Mapping[str, Any]] = [
        {**entries[-1]["progress"], "time": entries[-1]["timestamp"] / 1000} for entries in rounds
    ]
    start = len(told) - 1
    while start > 0 and told[start - 1]["of"] == told[start]["of"] and _grows(told[start - 1], told[start]):
        start -= 1
    return told[max(0, start) :]


def _grows(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Whether one round can follow another in the same run."""
    return bool(
        before["this_run"] < after["this_run"] and before.get("seconds", 0) <= after.get("seconds", 0)
    )


def _recent_speed(recent: Sequence[Mapping[str, Any]]) -> float | None:
    """Images a second between the first and the last of some rounds of a run, without the word that it began."""
    recent = [seen for seen in recent if seen["this_run"]]
    if not recent:
        return None
    first, last = recent[0], recent[-1]
    if len(recent) == 1:
        return _speed(last["this_run"], last.get("seconds", 0.0))
    return _speed(last["this_run"] - first["this_run"], last["time"] - first["time"])


def _speed(images: int, seconds: float) -> float | None:
    return images / seconds if images and seconds > 0 else None


def _state(progress: Mapping[str, Any], recent: Sequence[Mapping[str, Any]], since_s: float | None) -> State:
    """Whether something seems to be at work."""
    if progress.get("listed") == progress["done"] + progress["failed"]:
        return "complete"
    if since_s is None or progress["this_run"] >= progress["of"]:
        return "stopped"
    times = [seen["time"] for seen in recent]
    pauses = [later - earlier for earlier, later in itertools.pairwise(times)]
    longest = max([*pauses, recent[0].get("seconds", 0.0)])
    return "running" if since_s < max(MIN_PATIENCE_S, PATIENCE * longest) else "stopped"


def _commits(rounds: Sequence[Sequence[dict[str, Any]]]) -> tuple[Commit, ...]:
    """The last rounds with what they brought, newest first."""
    commits: list[Commit] = []
    for index in range(len(rounds) - 1, -1, -1):
        if len(commits) == SHOWN:
            break
        done = rounds[index][-1]["progress"]["this_run"]
        if not done:  # the word that a run has begun
            continue
        before = rounds[index - 1][-1]["progress"]["this_run"] if index else 0
        added = [size for entry in rounds[index] for size in _added(entry["place"], entry["version"])]
        commits.append(
            Commit(
                time=rounds[index][-1]["timestamp"] / 1000,
                images=done - before if before <= done else done,
                files=len(added),
                size=sum(added),
            )
        )
    return tuple(commits)


def _added(place: str, version: int) -> list[int]:
    """Sizes of the files that one commit brought, in bytes; none where its entry is gone from the log meanwhile."""
    try:
        lines = read_bytes(f"{place}/_delta_log/{version:020}.json").splitlines()
    except OSError:
        return []
    return [action["add"]["size"] for action in map(json.loads, lines) if "add" in action]


def _images(table: DeltaTable | None) -> int:
    """Images that have a row, counted file by file; all rows of an image lie in one."""
    return sum(batch.num_rows for batch in rows_of_images(table))


def _place(table: DeltaTable) -> str:
    return table.table_uri.removeprefix("file://").rstrip("/")
