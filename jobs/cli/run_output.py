"""What commands that fill tables print: a dry run before, a summary after, each for people or as one line of JSON."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from jobs.cli.exit_codes import DONE, SOME_FAILED
from jobs.cli.options import print_json
from jobs.cli.run_options import TableOptions
from jobs.cli.terminal import write_lines, write_messages
from pipelines.ray_session import ray_job
from pipelines.runs.listing import files_in_words
from pipelines.runs.resume import RemainingWork
from pipelines.runs.run import RunResult
from pipelines.tables.delta_reader import delta_uri, table_uri
from zs3.text.confusable import ClosePair
from zs3.vocabulary import Vocabulary
from zs3.wording import map_texts, number_of, redacted

FAILURES_QUERY = "SELECT image_id, stage, message FROM t"
"""A query of the table `failures`."""

LABELS_QUERY = "SELECT class_name, count(*) AS images, sum(area) AS pixels FROM t GROUP BY 1 ORDER BY 3 DESC"
"""A query of the table `labels`."""


def print_summary(
    result: RunResult, options: TableOptions, participle: str, next_steps: Sequence[str] = ()
) -> int:
    """Print what a run did and what to do next; returns the exit code.

    Args:
        participle: what was done to the images, as `labelled`.
        next_steps: further lines for people.
    """
    failed = result.failed or result.failed_before
    retry = f" ({result.failed_before} of them failed, for `zs3 retry --out {shlex.quote(result.out)}`)"
    lines = [
        f"{number_of(result.images, 'image')} {participle}, {result.failed} failed, {result.skipped} skipped as "
        "done before"
        f"{retry if result.failed_before else ''}; "
        f"{result.seconds:.1f} s, {result.images_per_second:.2f} images/s, "
        f"after {result.startup_seconds:.1f} s of start-up",
        *([f"left out, as no images: {others}"] if (others := files_in_words(result.other_files)) else []),
        *([f"why they failed:     {query(result.out, 'failures', FAILURES_QUERY)}"] if failed else []),
        *next_steps,
    ]
    write_messages(lines)
    if options.json:
        print_json(asdict(result))
    return SOME_FAILED if failed else DONE


def query(out: str, table: str, statement: str) -> str:
    """A shell command that runs a query on one table of a run, which the query calls `t`.

    It reads the table through its log, so files without a commit do not count, and needs no DuckDB extension.
    """
    uri, literal = table_uri(out, table), partial(json.dumps, ensure_ascii=False)  # the shell quotes with '
    uri = delta_uri(uri) if "://" in uri else uri
    program = (
        f"import duckdb, deltalake; t = deltalake.DeltaTable({literal(uri)}).to_pyarrow_dataset(); "
        f"print(duckdb.sql({literal(statement)}))"
    )
    # A Ray job prints this to people whose machine has no such interpreter.
    python = sys.executable if ray_job() is None else "python"
    return f"{shlex.quote(python)} -c {shlex.quote(program)}"


def print_dry_run(
    work: RemainingWork, options: TableOptions, lines: Iterable[str], values: Mapping[str, Any] | None = None
) -> int:
    """Print what a run would do; returns the exit code.

    Args:
        lines: for people.
        values: for `--json`, besides the counts that all commands have.
    """
    if options.json:
        counts = {
            "dry_run": True,
            "images": len(work.pending),
            "skipped": work.skipped,
            "failed_before": work.failed_before,
            "retried": work.retried,
            "changed": work.changed,
            "replaces": work.replaces,
            "other_files": work.other_files,
            "out": work.target.out,
            "digest": work.target.digest,
        }
        sys.stdout.write(json.dumps(map_texts({**counts, **(values or {})}, redacted)) + "\n")
        return DONE
    parts = sorted(work.target.provenance["run"].items())
    version = ", of which a new version is started" if work.replaces else ""
    table_lines = [
        *(f"            {part} {value[:12]}" for part, value in parts),
        f"tables      {', '.join(work.target.uris.values())}{version}",
        "nothing was written: this was a dry run",
    ]
    write_lines([*lines, *table_lines])
    return DONE


def work_summary(work: RemainingWork, source: str, verb: str) -> str:
    """The counts of a dry run, in one line.

    Args:
        source: where the images are.
        verb: what would be done to them, as `label`.
    """
    parts = [f"{len(work.pending)} to {verb}", f"{work.skipped - work.failed_before} done"]
    if work.changed:
        parts[0] += f" ({work.changed} of them changed since)"
    if work.retried:
        parts[0] += f" ({work.retried} of them failed before)"
    if work.untouched:
        parts.append(f"{work.untouched} not tried yet, for a run without --retry-failures")
    if work.failed_before:
        parts.append(f"{work.failed_before} failed before, for --retry-failures")
    others = files_in_words(work.other_files)
    left_out = f"; left out, as no images: {others}" if others else ""
    return f"{work.listed} at {source}: {', '.join(parts)}{left_out}"


def class_values(
    vocabulary: Vocabulary, seen: Mapping[int, bool], pairs: Sequence[ClosePair]
) -> dict[str, Any]:
    """The classes of a dry run, and the pairs that are hard to tell apart, for `--json`."""
    return {
        "classes": [
            {"id": entry.id, "name": entry.name, "seen": seen[entry.id]} for entry in vocabulary.candidates
        ],
        "warnings": [asdict(pair) for pair in pairs],
    }
