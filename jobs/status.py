"""Show how far a run is: `zs3 status`, `python jobs/status.py`. It needs no Ray and runs on any machine.

zs3 status --out s3://bucket/run
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from jobs.cli.exit_codes import DONE, guarded
from jobs.cli.options import print_json
from jobs.cli.progress import clock
from jobs.cli.run_options import TableOptions, parse_run_options
from jobs.cli.terminal import write_lines
from pipelines.runs.listing import files_in_words
from pipelines.runs.status import Commit, TableStatus, status
from zs3.wording import number_of


@dataclass(frozen=True, kw_only=True)
class StatusOptions(TableOptions):
    """Show how far a run is, from its tables alone, while it runs or afterwards.

    Every commit contains the number of images that are done and that failed. This command reads a few commits, so it
    takes the same time for any number of images.
    Exit codes: 0 the status was printed, 1 there is no such table, 2 wrong usage.
    """


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code of `zs3 status`.

    Args:
        argv: the command line after the command; by default the process's own.
    """
    return guarded(lambda: _run(parse_run_options(StatusOptions, "zs3 status", argv)))


def _run(options: StatusOptions) -> int:
    tables = status(options.out)
    if options.json:
        print_json({"out": options.out, "tables": [_values(table) for table in tables]})
    else:
        write_lines(line for table in tables for line in _lines(table, options.out))
    return DONE


def _values(table: TableStatus) -> dict[str, object]:
    """A table as JSON values; times in ISO 8601."""
    return {
        **asdict(table),
        "left": table.left,
        "left_seconds": table.left_s,
        "commits": [{**asdict(commit), "time": _time(commit.time)} for commit in table.commits],
    }


def _lines(table: TableStatus, out: str) -> list[str]:
    """A table as lines of text."""
    done = f"{table.done:,}" + (f" of {table.listed:,}" if table.listed is not None else "")
    left = f", {table.left:,} left" if table.left is not None else "; how many are left is not known"
    parts = [f"{part} {value[:12]}" for part, value in sorted(table.run.items())]
    fields = [
        ("images", f"{done} done, {table.failed:,} failed{left}"),
        ("speed", _speed(table)),
        ("time left", _time_left(table)),
        ("run", " ".join(filter(None, [table.verb, table.digest[:12]])) + f": {', '.join(parts)}"),
        ("listing", table.listing[:12]),
        ("left out", f"{others}: no images" if (others := files_in_words(table.other_files)) else ""),
        *(
            ("last commits" if index == 0 else " ", _commit(commit))
            for index, commit in enumerate(table.commits)
        ),
        ("note", f"another tool changed the table since: {table.changed_by}" if table.changed_by else ""),
        ("next", _next(table, out)),
    ]
    return [f"{table.uri}: {_state(table)}", *(f"  {name:13}{text}" for name, text in fields if text)]


def _state(table: TableStatus) -> str:
    """The state, and the age of the last commit from which it is derived."""
    since = (
        f"the last commit was {clock(table.since_commit_s)} ago" if table.since_commit_s is not None else ""
    )
    if table.state == "complete":
        return f"complete; {since}"
    if not since:
        return "no run has committed anything yet" if not table.done else "no run is at work"
    return f"running; {since}" if table.state == "running" else f"stopped, it seems; {since}"


def _speed(table: TableStatus) -> str:
    """Images per second."""
    speeds = (
        (table.images_per_second, "over the last commits"),
        (table.images_per_second_run, "over the last run"),
    )
    return ", ".join(f"{speed:.3g} images/s {over}" for speed, over in speeds if speed)


def _time_left(table: TableStatus) -> str:
    if table.left_s is None or not table.left:
        return ""
    return clock(table.left_s) + ("" if table.state == "running" else " once the run is continued")


def _commit(commit: Commit) -> str:
    """One commit in a line."""
    return (
        f"{_time(commit.time)}  {number_of(commit.images, 'image'):>13}  {number_of(commit.files, 'file')}, "
        f"{commit.size / 1000:,.0f} kB"
    )


def _next(table: TableStatus, out: str) -> str:
    """What to do next."""
    if table.state == "stopped" and table.left != 0:
        return "run the same command again to continue"
    if table.failed and table.state != "running":
        return f"zs3 retry --out {shlex.quote(out)} processes the failed images again"
    return ""


def _time(seconds: float) -> str:
    """Seconds since 1970 as ISO 8601 in UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


if __name__ == "__main__":
    sys.exit(main())
