"""What the doors that fill a table image by image have in common: options, the words of a dry run, the result."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Annotated, TypeVar

import tyro

from jobs.cli.exit_codes import DONE, SOME_FAILED
from jobs.cli.options import parse_command_line, print_json
from pipelines.execution import Execution
from pipelines.runs.resume import Remaining, Target
from pipelines.runs.run import RunResult
from pipelines.storage.objects import use_storage_options
from pipelines.tables.delta_reader import table_uri

REASONS = "SELECT image_id, stage, message FROM t"
"""A query that the summary offers, of the table `failures`."""

AREAS = "SELECT class_name, count(*) AS images, sum(area) AS pixels FROM t GROUP BY 1 ORDER BY 3 DESC"
"""A query that the summary offers, of the table `labels`."""


@dataclass(frozen=True, kw_only=True)
class TableOptions:
    """Options of every verb that asks for the tables of a run."""

    out: str
    """Folder or uri of the tables: the --out of the run."""
    storage_options: tuple[str, ...] = ()
    """name=value pairs for object stores: endpoint, region, profile, key, secret, token, or variables that begin with
    AWS_, GOOGLE_ or AZURE_. They are neither printed nor stored. By default the environment, a profile or the machine's
    role."""
    json: bool = False
    """Print the result as one line of JSON, the last of standard output."""


@dataclass(frozen=True, kw_only=True)
class RunOptions(TableOptions):
    """Options of every verb that computes on images."""

    execution: Annotated[Execution, tyro.conf.arg(name="")] = field(default_factory=Execution)
    """How to run; changes no result."""


@dataclass(frozen=True, kw_only=True)
class RequestOptions(RunOptions):
    """Options that say which images, and which tables."""

    out: str
    """Folder or uri that gets the tables."""
    limit: int | None = None
    """Take only the first images, in order of their uris."""
    retry_failures: bool = False
    """Process the images that failed before, and only these."""
    replace: bool = False
    """Where --out holds tables of other weights, settings or classes, start a new version of them; the old one stays
    readable by its version. Without it such tables are refused."""


@dataclass(frozen=True, kw_only=True)
class TableRunOptions(RequestOptions):
    """Options of every verb that fills a table."""

    dry_run: bool = False
    """Say what would be done, and write nothing. `zs3 plan` says how long it would take."""


A = TypeVar("A", bound=TableOptions)


def parsed(kind: type[A], prog: str, argv: Sequence[str]) -> A:
    """The options of a command line; storage options are in effect afterwards.

    Raises:
        SystemExit: wrong usage, or --help.
        ValueError: a storage option is none.
    """
    options = parse_command_line(kind, prog, argv)
    use_storage_options(options.storage_options)
    return options


def told(result: RunResult, options: TableOptions, lines: Sequence[str]) -> int:
    """Say what a run did, and give its exit code.

    Args:
        lines: for people; the first says it all.
    """
    failed = result.failed or result.failed_before
    shown = [
        *lines[:1],
        *([f"why they failed:     {query(result.out, 'failures', REASONS)}"] if failed else []),
    ]
    sys.stderr.write("\n".join([*shown, *lines[1:]]) + "\n")
    if options.json:
        print_json(asdict(result))
    return SOME_FAILED if failed else DONE


def query(out: str, table: str, statement: str) -> str:
    """A shell command that shows a query of one table of a run, called `t` in it.

    It reads the table through its log, so files that no commit names do not count, and needs no DuckDB
    extension.
    """
    uri = table_uri(out, table)
    program = (
        f"import duckdb, deltalake; t = deltalake.DeltaTable({uri!r}).to_pyarrow_dataset(); "
        f"print(duckdb.sql({statement!r}))"
    )
    return f"{shlex.quote(sys.executable)} -c {shlex.quote(program)}"


def remaining_values(left: Remaining, target: Target) -> dict[str, object]:
    """What is left to do, as JSON values of a dry run."""
    return {
        "dry_run": True,
        "images": len(left.todo),
        "skipped": left.skipped,
        "failed_before": left.failed_before,
        "retried": left.retried,
        "changed": left.changed,
        "replaces": left.replaces,
        "out": target.out,
        "digest": target.digest,
    }


def remaining_text(left: Remaining, source: str, doing: str) -> str:
    """What is left to do, in words.

    Args:
        source: where the images are.
        doing: what is to be done to them, as `label`.
    """
    parts = [f"{len(left.todo)} to {doing}", f"{left.skipped - left.failed_before} done"]
    if left.changed:
        parts[0] += f" ({left.changed} of them changed since)"
    if left.retried:
        parts[0] += f" ({left.retried} of them failed before)"
    if left.untouched:
        parts.append(f"{left.untouched} not tried yet, for a run without --retry-failures")
    if left.failed_before:
        parts.append(f"{left.failed_before} failed before, for --retry-failures")
    return f"{left.listed} at {source}: {', '.join(parts)}"


def target_lines(target: Target, left: Remaining) -> list[str]:
    """Where a run writes to, for a dry run."""
    return [
        *(f"            {part} {value[:12]}" for part, value in sorted(target.provenance["run"].items())),
        f"tables      {', '.join(target.uris.values())}"
        + (", of which a new version is started" if left.replaces else ""),
        "nothing was written: this was a dry run",
    ]
