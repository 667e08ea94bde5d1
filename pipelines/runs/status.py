"""How far a run is, read from its tables: every commit contains the counts of its run at that time.

A few entries of the log are read and no data files, so the cost does not grow with the number of images. Only where the
log has no entry of the run are the images of the table counted.
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
from pipelines.tables.delta_reader import existing_table, log_entries, provenance_of, table_folder, table_uri
from zs3.tables import FAILURES, LABELS, PANOPTIC_LABELS, SEGMENTS

RESULTS = {"labels": LABELS, "segments": SEGMENTS}
"""Tables of results that a run may write; the table `failures` is in the same folder."""

MAX_ENTRIES = 50
"""Newest entries of a log that are read."""

MAX_COMMITS = 5
"""Commits that are listed one by one."""

RUNNING_PAUSES = 3.0
"""A run counts as stopped after this many times its longest recent pause between commits."""

MIN_RUNNING_S = 60.0
"""A run whose last commit is younger than this counts as running."""

CHANGING = ("DELETE", "UPDATE", "MERGE", "RESTORE", "WRITE")
"""Operations that change the rows of a table; `OPTIMIZE` and `VACUUM` do not."""

State = Literal["complete", "running", "stopped"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """Results and failures that were committed together."""

    time: float
    """Seconds since 1970."""
    images: int
    """Processed since the previous commit, including failures."""
    files: int
    size: int
    """Of the files, in bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TableStatus:
    """How far the run of one table of results was at its last commit; the keys of `--json`."""

    table: str
    """Name: `labels` or `segments`."""
    uri: str
    state: State
    """`running` until the next commit is overdue, so a run that was killed just now counts as running."""
    listed: int | None
    """Images of the listing; None where no commit of the run is in the log."""
    done: int
    """Images with results."""
    failed: int
    images_per_second: float | None
    """Over the commits of the last run that were read, including failures; None before it is known."""
    images_per_second_run: float | None
    """Over the last run, since its first image reached a model."""
    since_commit_s: float | None
    """Seconds since the last commit."""
    commits: tuple[Commit, ...]
    """The last commits, newest first."""
    verb: str
    """The command: `label`, `segment` or `name`; empty where the table does not contain it."""
    digest: str
    """Of the run."""
    run: Mapping[str, str]
    """The parts of the digest."""
    listing: str
    """Digest of the listing; empty where no commit of the run is in the log."""
    changed_by: str
    """Operation of another tool that has changed rows since the last commit; empty if there is none."""
    other_files: Mapping[str, int]
    """Extension → number of files in the folder of images that are none; "" counts those without one."""

    @property
    def left(self) -> int | None:
        """Images of the listing that have neither results nor a failure."""
        return None if self.listed is None else max(0, self.listed - self.done - self.failed)

    @property
    def left_s(self) -> float | None:
        """Seconds that the remaining images take at the speed of the last commits."""
        if not self.left:
            return None if self.left is None else 0.0
        speed = self.images_per_second or self.images_per_second_run
        return self.left / speed if speed else None


def status(out: str, now: float | None = None) -> list[TableStatus]:
    """How far the runs are whose tables are below `out`; reads, writes nothing.

    Args:
        out: the --out of a run.
        now: seconds since 1970; by default the time of this machine.

    Raises:
        FileNotFoundError: there is no table of results.
        ValueError: a table cannot be read, or is not one of this version of zs3.
    """
    now = time.time() if now is None else now
    failures = existing_table(table_uri(out, "failures"))
    tables = {name: existing_table(table_uri(out, name)) for name in RESULTS}
    statuses = [_status(name, table, failures, now) for name, table in tables.items() if table is not None]
    if not statuses:
        raise FileNotFoundError(
            f"no table at {' or '.join(table_uri(out, name) for name in RESULTS)}; give the --out of a run of "
            "`zs3 label`, `zs3 segment` or `zs3 name`"
        )
    return statuses


def refuse_other_version(table: DeltaTable, name: str) -> None:
    """Refuse a table that was not made by this version of zs3.

    Args:
        name: the table's expected name.

    Raises:
        ValueError: it is another table.
    """
    schema, uri = {**RESULTS, "failures": FAILURES}[name], table_folder(table)
    if table.metadata().name != name or not provenance_of(table).get("run"):
        raise ValueError(f"{uri} is a table called {table.metadata().name!r}, not {name!r} of zs3")
    columns = [field.name for field in table.schema().fields]
    if columns != schema.names and (name, columns) != ("labels", PANOPTIC_LABELS.names):
        raise ValueError(
            f"{uri} was made by another version of zs3, with other columns; use that version to read it"
        )


def _status(name: str, table: DeltaTable, failures: DeltaTable | None, now: float) -> TableStatus:
    refuse_other_version(table, name)
    provenance = provenance_of(table)
    if failures is not None and provenance_of(failures).get("run") != provenance["run"]:
        failures = None  # of an earlier run that this one replaces
    if failures is not None:
        refuse_other_version(failures, "failures")
    digest = str(provenance.get("digest", ""))
    entries, changed_by = _entries([each for each in (table, failures) if each is not None], digest)
    last: Mapping[str, Any] = (
        entries[-1]["progress"] if entries else {"done": _images(table), "failed": _images(failures)}
    )
    commits = _of_last_run([list(group) for _, group in itertools.groupby(entries, key=_counts)])
    since_s = now - entries[-1]["timestamp"] / 1000 if entries else None
    return TableStatus(
        table=name,
        uri=table_folder(table),
        state=_state(last, commits, since_s),
        listed=last.get("listed"),
        done=last["done"],
        failed=last["failed"],
        images_per_second=_recent_speed(commits),
        images_per_second_run=_speed(last.get("this_run", 0), last.get("seconds", 0.0)),
        since_commit_s=since_s,
        commits=tuple(_commits(commits)),
        verb=str(provenance.get("asked", {}).get("verb", "")),
        digest=digest,
        run=provenance["run"],
        listing=last.get("listing", ""),
        changed_by=changed_by,
        other_files=last.get("other_files", {}),
    )


def _entries(tables: Sequence[DeltaTable], digest: str) -> tuple[list[dict[str, Any]], str]:
    """Log entries of a run with its counts, oldest first, and the operation that changed a table after them.

    Each entry gets the key `folder`, that of its table. Entries from before a table was created anew are left out.
    """
    entries: list[dict[str, Any]] = []
    changed_by = ""
    for table in tables:
        is_newest = True
        for entry in log_entries(table, MAX_ENTRIES):
            operation = str(entry.get("operation", ""))
            if "CREATE" in operation:
                break
            if "progress" in entry and entry.get("run") == digest:
                is_newest = False
                entries.append({**entry, "folder": table_folder(table)})
            elif is_newest and operation.startswith(CHANGING):
                changed_by = changed_by or operation
    return sorted(entries, key=lambda entry: entry["timestamp"]), changed_by


def _counts(entry: Mapping[str, Any]) -> tuple[int, ...]:
    """Equal for the transactions of one commit: one of the results, and one of the failures."""
    progress = entry["progress"]
    return progress["this_run"], progress["of"], progress["done"], progress["failed"]


Transactions = list[dict[str, Any]]


def _of_last_run(commits: Sequence[Transactions]) -> list[Transactions]:
    """The commits since the last one with which a run began, that one included; all where the log begins later."""
    begins = [index for index, commit in enumerate(commits) if not commit[0]["progress"]["this_run"]]
    return list(commits[begins[-1] if begins else 0 :])


def _recent_speed(commits: Sequence[Transactions]) -> float | None:
    """Images per second between the first and the last commit, by the time that passed at the models.

    Not by the times of commits: the last files of a run may be committed within milliseconds.
    """
    points = [
        (commit[-1]["progress"]["this_run"], commit[-1]["progress"].get("seconds", 0.0)) for commit in commits
    ]
    if len(points) < 2:
        points = [(0, 0.0), *points]
    (first, start), (latest, end) = points[0], points[-1]
    return _speed(latest - first, end - start)


def _speed(images: int, seconds: float) -> float | None:
    return images / seconds if images and seconds > 0 else None


def _state(last: Mapping[str, Any], commits: Sequence[Transactions], since_s: float | None) -> State:
    if last.get("listed") == last["done"] + last["failed"]:
        return "complete"
    if since_s is None or last["this_run"] >= last["of"]:
        return "stopped"
    times = [commit[-1]["timestamp"] / 1000 for commit in commits]
    pauses = [later - earlier for earlier, later in itertools.pairwise(times)]
    longest_s = max([*pauses, commits[0][-1]["progress"].get("seconds", 0.0)])
    return "running" if since_s < max(MIN_RUNNING_S, RUNNING_PAUSES * longest_s) else "stopped"


def _commits(commits: Sequence[Transactions]) -> list[Commit]:
    """The last commits with images, newest first."""
    listed, previous = [], 0
    for transactions in commits:
        last = transactions[-1]
        images, previous = last["progress"]["this_run"] - previous, last["progress"]["this_run"]
        if images:
            listed.append((last["timestamp"] / 1000, images, transactions))
    result = []
    for time_s, images, transactions in listed[: -MAX_COMMITS - 1 : -1]:
        sizes = [size for entry in transactions for size in _file_sizes(entry["folder"], entry["version"])]
        result.append(Commit(time=time_s, images=images, files=len(sizes), size=sum(sizes)))
    return result


def _file_sizes(folder: str, version: int) -> list[int]:
    """Bytes of each file that one transaction added; empty where a checkpoint has replaced its log file."""
    try:
        lines = read_bytes(f"{folder}/_delta_log/{version:020}.json").splitlines()
    except OSError:
        return []
    return [action["add"]["size"] for action in map(json.loads, lines) if "add" in action]


def _images(table: DeltaTable | None) -> int:
    """Images that have a row, counted file by file; all rows of an image are in one file."""
    return sum(batch.num_rows for batch in rows_of_images(table))
