"""How far a run is, from its tables: `zs3 status`, `python jobs/status.py`; it needs no Ray, and may be asked anywhere.

zs3 status --out s3://bucket/run
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from jobs.cli.exit_codes import DONE, guarded
from jobs.cli.progress import clock
from jobs.cli.run_options import TableOptions, parse_run_options
from pipelines.runs.status import Commit, TableStatus, status


@dataclass(frozen=True, kw_only=True)
class Arguments(TableOptions):
    """Say how far a run is, from its tables alone, while it runs or afterwards.

    Every commit tells how many images of the listing are done and how many failed, so this reads a few entries of the
    log and costs the same for any number of images. Exit code 0, whatever the run is at; 1: there is no such table.
    """


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code of one look at a run.

    Args:
        argv: the command line after the verb; by default the process's own.
    """
    return guarded(lambda: _run(list(sys.argv[1:] if argv is None else argv)))


def _run(argv: list[str]) -> int:
    arguments = parse_run_options(Arguments, "zs3 status", argv)
    tables = status(arguments.out)
    if arguments.json:
        sys.stdout.write(
            json.dumps({"out": arguments.out, "tables": [_values(table) for table in tables]}) + "\n"
        )
    else:
        sys.stdout.write("\n".join(line for table in tables for line in _lines(table, arguments.out)) + "\n")
    return DONE


def _values(table: TableStatus) -> dict[str, object]:
    """A table as JSON values; times as in ISO 8601."""
    return {
        **asdict(table),
        "left": table.left,
        "left_seconds": table.left_s,
        "commits": [{**asdict(commit), "time": _time(commit.time)} for commit in table.commits],
    }


def _lines(table: TableStatus, out: str) -> list[str]:
    """A table for a reader."""
    done = f"{table.done:,}" + (f" of {table.listed:,}" if table.listed is not None else "")
    left = f", {table.left:,} left" if table.left is not None else "; no commit tells how many are left"
    parts = [f"{part} {value[:12]}" for part, value in sorted(table.run.items())]
    told = [
        ("images", f"{done} done, {table.failed:,} failed{left}"),
        ("speed", _speed(table)),
        ("time left", _time_left(table)),
        ("run", " ".join(filter(None, [table.verb, table.digest[:12]])) + f": {', '.join(parts)}"),
        ("listing", table.listing[:12]),
        *(
            ("last commits" if index == 0 else " ", _commit(commit))
            for index, commit in enumerate(table.commits)
        ),
        ("note", f"another tool changed the table since: {table.changed_by}" if table.changed_by else ""),
        ("next", _next(table, out)),
    ]
    return [f"{table.uri}: {_state(table)}", *(f"  {name:13}{text}" for name, text in told if text)]


def _state(table: TableStatus) -> str:
    """Whether something is at work, and what that is taken from."""
    since = (
        f"the last commit was {clock(table.since_commit_s)} ago" if table.since_commit_s is not None else ""
    )
    if table.state == "complete":
        return f"complete; {since}"
    if not since:
        return "nothing is committed by a run yet" if not table.done else "no run at work"
    return f"running; {since}" if table.state == "running" else f"not running, it seems; {since}"


def _speed(table: TableStatus) -> str:
    """How fast images came."""
    speeds = (
        (table.images_per_second, "over the last commits"),
        (table.images_per_second_run, "over the last run"),
    )
    return ", ".join(f"{speed:.3g} images/s {over}" for speed, over in speeds if speed)


def _time_left(table: TableStatus) -> str:
    if table.left_s is None or not table.left:
        return ""
    return clock(table.left_s) + ("" if table.state == "running" else " once it is at work again")


def _commit(commit: Commit) -> str:
    """One commit in a line."""
    files = f"{commit.files} file" + ("" if commit.files == 1 else "s")
    return f"{_time(commit.time)}  {commit.images:6,} images  {files}, {commit.size / 1000:,.0f} kB"


def _next(table: TableStatus, out: str) -> str:
    """What may be done now."""
    if table.state == "stopped" and table.left != 0:
        return "the command that started the run continues it"
    if table.failed and table.state != "running":
        return f"zs3 retry --out {shlex.quote(out)} tries again what failed"
    return ""


def _time(seconds: float) -> str:
    """Seconds since 1970 as ISO 8601 in UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


if __name__ == "__main__":
    sys.exit(main())
