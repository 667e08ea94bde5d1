"""Label stored segments with a class list: `zs3 name`, `python jobs/name.py`, or on a cluster

    ray job submit --working-dir . -- python jobs/name.py \\
        --segments s3://bucket/run --classes voc --out s3://bucket/labelled
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

from jobs.cli.exit_codes import guarded
from jobs.cli.naming_options import NamingChanges
from jobs.cli.options import request_from
from jobs.cli.progress import progress_bar
from jobs.cli.run_options import RunOptions, TableRunOptions, parse_run_options
from jobs.cli.run_output import (
    LABELS_QUERY,
    class_values,
    print_dry_run,
    print_summary,
    query,
    work_summary,
)
from pipelines.labelling.name import NameRequest, PreparedName, SegmentClassifierFactory, name, prepare_name


@dataclass(frozen=True, kw_only=True)
class NameOptions(NameRequest, TableRunOptions):
    """Label stored segments with a list of class names, on CPUs, without images or networks.

    Writes the Delta Lake tables `labels` and `failures` below --out, as `zs3 label` does. The same command continues a
    run that was stopped. Exit codes: 0 all images are done, 1 stopped by an error, 2 wrong usage, 3 some images failed.
    """

    naming: NamingChanges = field(default_factory=NamingChanges)  # type: ignore[assignment]  # one option a setting
    """Naming settings that replace the checkpoint's own."""


def main(argv: Sequence[str] | None = None, *, model: SegmentClassifierFactory | None = None) -> int:
    """The exit code of `zs3 name`; tests replace the classifier by `model`."""
    return guarded(lambda: _run(parse_run_options(NameOptions, "zs3 name", argv), model))


def _run(options: NameOptions, model: SegmentClassifierFactory | None) -> int:
    request = request_from(options, NameRequest, naming=options.naming.changes())
    if not options.dry_run:
        return carry_out(request, options, model)
    prepared = prepare_name(request, model)
    pairs = prepared.classifier().confusable(allow_identical=request.allow_confusable)
    values = class_values(prepared.vocabulary, prepared.info.seen, pairs)
    return print_dry_run(prepared.work, options, _dry_run_lines(prepared), values)


def carry_out(
    request: NameRequest, options: RunOptions, model: SegmentClassifierFactory | None = None
) -> int:
    """Carry out a request, print a summary, and return the exit code."""
    with progress_bar("naming") as show:
        result = name(request, options.execution, model=model, on_progress=show)
    look = f"look at the labels:  {query(result.out, 'labels', LABELS_QUERY)}"
    return print_summary(result, options, "named", [look])


def _dry_run_lines(prepared: PreparedName) -> list[str]:
    request = prepared.request
    changes = ", ".join(f"{key} {value}" for key, value in prepared.naming.items()) or "the checkpoint's own"
    if request.settings:
        changes += f" (tuned on {prepared.work.target.provenance['tuning']['title']})"
    return [
        f"segments    {work_summary(prepared.work, request.segments, 'name')}",
        f"classes     {request.classes}: {len(prepared.vocabulary.candidates)}",
        f"naming      {changes}",
        f"checkpoint  {prepared.checkpoint}, run {prepared.work.target.digest[:12]}",
    ]


if __name__ == "__main__":
    sys.exit(main())
