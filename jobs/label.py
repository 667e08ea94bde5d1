"""Label images: `zs3 label`, `python jobs/label.py`, or on a cluster

    ray job submit --working-dir . -- python jobs/label.py \\
        --images s3://bucket/photos --classes voc --checkpoint zs3-mini --out s3://bucket/run
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from jobs.cli.exit_codes import guarded
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
from pipelines.labelling.label import LabellerFactory, LabelRequest, PreparedLabel, label, prepare_label
from zs3.wording import first_names

MAX_NAMES = 12
"""Class names that a dry run prints in one line."""


@dataclass(frozen=True, kw_only=True)
class LabelOptions(LabelRequest, TableRunOptions):
    """Label images with a list of class names, seen in training or not.

    Writes the Delta Lake tables `labels` and `failures` below --out. The same command continues a run that was stopped.
    Exit codes: 0 all images are done, 1 stopped by an error, 2 wrong usage, 3 some images failed.
    """


def main(argv: Sequence[str] | None = None, *, model: LabellerFactory | None = None) -> int:
    """The exit code of `zs3 label`; tests replace the labeller by `model`."""
    return guarded(lambda: _run(parse_run_options(LabelOptions, "zs3 label", argv), model))


def _run(options: LabelOptions, model: LabellerFactory | None) -> int:
    request = request_from(options, LabelRequest)
    if not options.dry_run:
        return carry_out(request, options, model)
    prepared = prepare_label(request, model)
    allowed, names = request.allow_confusable, prepared.info.names
    pairs = names(allowed).confusable(allow_identical=allowed) if names else []
    values = class_values(prepared.vocabulary, prepared.info.seen, pairs)
    return print_dry_run(prepared.work, options, _dry_run_lines(prepared, options), values)


def carry_out(request: LabelRequest, options: RunOptions, model: LabellerFactory | None = None) -> int:
    """Carry out a request, print a summary, and return the exit code."""
    with progress_bar("labelling") as show:
        result = label(request, options.execution, model=model, on_progress=show)
    look = f"look at the labels:  {query(result.out, 'labels', LABELS_QUERY)}"
    return print_summary(result, options, "labelled", [look])


def _dry_run_lines(prepared: PreparedLabel, options: LabelOptions) -> list[str]:
    request, classes = prepared.request, prepared.vocabulary.candidates
    names: dict[bool, list[str]] = {True: [], False: []}
    for entry in classes:
        names[prepared.info.seen[entry.id]].append(entry.name)
    settings = [f"{key} {value}" for key, value in asdict(options.execution).items() if value is not None]
    return [
        f"images      {work_summary(prepared.work, request.images, 'label')}",
        *(f"            {image_id}  {uri}" for image_id, uri in itertools.islice(prepared.work.pending, 3)),
        f"classes     {request.classes}: {len(classes)}",
        f"  seen      {len(names[True])}: {first_names(names[True], MAX_NAMES)}",
        f"  unseen    {len(names[False])}: {first_names(names[False], MAX_NAMES)}",
        f"checkpoint  {request.checkpoint}, run {prepared.info.digest[:12]}",
        f"max pixels  {request.max_pixels}",
        f"execution   {', '.join(settings)}",
    ]


if __name__ == "__main__":
    sys.exit(main())
