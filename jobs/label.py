"""Label images: `zs3 label`, `python jobs/label.py`, or on a cluster

    ray job submit --working-dir . -- python jobs/label.py \\
        --images s3://bucket/photos --classes voc --checkpoint zs3-mini --out s3://bucket/run
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Annotated

import tyro

from jobs.errors import DONE, SOME_FAILED, guarded
from jobs.progress import progress, run_summary
from pipelines.commit import table_uri
from pipelines.execution import Execution
from pipelines.label import label
from pipelines.label_plan import LabelPlan, LabelRequest, Model, plan_label
from pipelines.table_run import RunResult
from zs3.class_checks import ClosePair
from zs3.images import DEFAULT_MAX_PIXELS

REASONS = "SELECT image_id, stage, message FROM t"
AREAS = "SELECT class_name, count(*) AS images, sum(area) AS pixels FROM t GROUP BY 1 ORDER BY 3 DESC"
"""Queries that the summary offers, of a table called `t`."""

SHOWN = 12
"""Class names that a dry run spells out in a line."""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Label images with a list of class names, seen in training or not.

    Writes the Delta Lake tables `labels` and `failures` below --out. A run that was stopped continues when
    the same command is given again. Exit code 0: all was done; 3: some images failed; 1: stopped by an error;
    2: wrong usage.
    """

    images: str
    """Folder, glob, text file of uris, Parquet table with a column `uri`, or one image; local, s3:// or
    gs://."""
    classes: str
    """Class list: voc, coco_stuff, ade20k_full, or a .txt or .json file."""
    checkpoint: str
    """Shipped name (zs3-mini), folder or uri of a checkpoint."""
    out: str
    """Folder or uri that gets the tables."""
    limit: int | None = None
    """Take only the first images of the listing."""
    dry_run: bool = False
    """Say what would be done, and write nothing."""
    json: bool = False
    """Print the result as one line of JSON, the last of standard output."""
    max_pixels: int = DEFAULT_MAX_PIXELS
    """Pictures of more pixels become failures instead of being decoded."""
    execution: Annotated[Execution, tyro.conf.arg(name="")] = field(default_factory=Execution)
    """How to run; changes no result."""


def main(argv: Sequence[str] | None = None, *, model: Model | None = None) -> int:
    """The exit code of one labelling run.

    Args:
        argv: the command line after the verb; by default the process's own.
        model: how to come by the labeller; tests put their own here.
    """
    return guarded(lambda: _run(list(sys.argv[1:] if argv is None else argv), model))


def _run(argv: list[str], model: Model | None) -> int:
    arguments = tyro.cli(
        Arguments,
        prog="zs3 label",
        args=argv,
        config=(tyro.conf.FlagCreatePairsOff, tyro.conf.OmitSubcommandPrefixes),
    )
    request = LabelRequest(
        images=arguments.images,
        classes=arguments.classes,
        checkpoint=arguments.checkpoint,
        out=arguments.out,
        limit=arguments.limit,
        max_pixels=arguments.max_pixels,
    )
    if arguments.dry_run:
        plan = plan_label(request, model)
        names = plan.description.names() if plan.description.names else None
        pairs = names.confusable() if names else []
        sys.stdout.write(
            json.dumps(_plan_values(plan, pairs)) + "\n" if arguments.json else _plan_text(plan, arguments)
        )
        return DONE
    with progress("labelling") as show:
        result = label(request, arguments.execution, model=model, on_progress=show)
    sys.stderr.write(_summary(result))
    if arguments.json:
        sys.stdout.write(json.dumps(asdict(result)) + "\n")
    return SOME_FAILED if result.failed else DONE


def _summary(result: RunResult) -> str:
    """What was done and how to look at it, in a few lines."""
    lines = [run_summary(result, "labelled")]
    if result.failed:
        lines.append(f"why they failed:     {query(result.out, 'failures', REASONS)}")
    lines.append(f"look at the labels:  {query(result.out, 'labels', AREAS)}")
    return "\n".join(lines) + "\n"


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


def _plan_values(plan: LabelPlan, pairs: Sequence[ClosePair]) -> dict[str, object]:
    """A dry run as JSON values."""
    return {
        "dry_run": True,
        "images": len(plan.left.todo),
        "skipped": plan.left.skipped,
        "retried": len(plan.left.retried),
        "out": plan.request.out,
        "classes": [
            {"id": entry.id, "name": entry.name, "seen": plan.description.seen[entry.id]}
            for entry in plan.vocabulary.candidates
        ],
        "digest": plan.description.digest,
        "warnings": [asdict(pair) for pair in pairs],
    }


def _plan_text(plan: LabelPlan, arguments: Arguments) -> str:
    """A dry run for a reader."""
    names: dict[bool, list[str]] = {True: [], False: []}
    for entry in plan.vocabulary.candidates:
        names[plan.description.seen[entry.id]].append(entry.name)
    found = len(plan.left.todo) + plan.left.skipped
    retried = f", {len(plan.left.retried)} of them failed before" if plan.left.retried else ""
    lines = [
        f"images      {found} at {arguments.images}: {len(plan.left.todo)} to label{retried}, {plan.left.skipped} done",
        *(f"            {image_id}  {uri}" for image_id, uri in plan.left.todo[:3]),
        f"classes     {arguments.classes}: {len(plan.vocabulary.candidates)}",
        f"  seen      {len(names[True])}: {_some(names[True])}",
        f"  unseen    {len(names[False])}: {_some(names[False])}",
        f"checkpoint  {arguments.checkpoint}, run {plan.description.digest[:12]}",
        *(f"            {part} {value[:12]}" for part, value in sorted(plan.description.provenance.items())),
        f"max pixels  {arguments.max_pixels}",
        "execution   "
        + ", ".join(f"{k} {v}" for k, v in asdict(arguments.execution).items() if v is not None),
        f"tables      {table_uri(arguments.out, 'labels')}, {table_uri(arguments.out, 'failures')}",
        "nothing was written: this was a dry run",
    ]
    return "\n".join(lines) + "\n"


def _some(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f", and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


if __name__ == "__main__":
    sys.exit(main())
