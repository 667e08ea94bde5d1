"""Label images: `zs3 label`, `python jobs/label.py`, or on a cluster

    ray job submit --working-dir . -- python jobs/label.py \\
        --images s3://bucket/photos --classes voc --checkpoint zs3-mini --out s3://bucket/run
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from jobs.cli.exit_codes import DONE, guarded
from jobs.cli.progress import progress, run_summary
from jobs.cli.run_options import (
    AREAS,
    RunOptions,
    TableRunOptions,
    parsed,
    query,
    remaining_text,
    remaining_values,
    target_lines,
    told,
)
from pipelines.labelling.label import label
from pipelines.labelling.label_plan import LabellerFactory, LabelPlan, LabelRequest, plan_label
from pipelines.runs.run import RunResult
from zs3.images.codec import DEFAULT_MAX_PIXELS
from zs3.text.confusable import ClosePair

SHOWN = 12
"""Class names that a dry run spells out in a line."""


@dataclass(frozen=True, kw_only=True)
class Arguments(TableRunOptions):
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
    max_pixels: int = DEFAULT_MAX_PIXELS
    """Pictures of more pixels become failures instead of being decoded."""


def main(argv: Sequence[str] | None = None, *, model: LabellerFactory | None = None) -> int:
    """The exit code of one labelling run.

    Args:
        argv: the command line after the verb; by default the process's own.
        model: how to come by the labeller; tests put their own here.
    """
    return guarded(lambda: _run(list(sys.argv[1:] if argv is None else argv), model))


def _run(argv: list[str], model: LabellerFactory | None) -> int:
    arguments = parsed(Arguments, "zs3 label", argv)
    request = LabelRequest(
        images=arguments.images,
        classes=arguments.classes,
        checkpoint=arguments.checkpoint,
        out=arguments.out,
        limit=arguments.limit,
        retry_failures=arguments.retry_failures,
        replace=arguments.replace,
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
    return carried_out(request, arguments, model)


def carried_out(request: LabelRequest, options: RunOptions, model: LabellerFactory | None = None) -> int:
    """Carry out a request, tell what was done, and give the exit code."""
    with progress("labelling") as show:
        result = label(request, options.execution, model=model, on_progress=show)
    return told(result, options, _summary(result))


def _summary(result: RunResult) -> list[str]:
    """What was done and how to look at it."""
    return [run_summary(result, "labelled"), f"look at the labels:  {query(result.out, 'labels', AREAS)}"]


def _plan_values(plan: LabelPlan, pairs: Sequence[ClosePair]) -> dict[str, object]:
    """A dry run as JSON values."""
    return {
        **remaining_values(plan.left, plan.target),
        "classes": [
            {"id": entry.id, "name": entry.name, "seen": plan.description.seen[entry.id]}
            for entry in plan.vocabulary.candidates
        ],
        "warnings": [asdict(pair) for pair in pairs],
    }


def _plan_text(plan: LabelPlan, arguments: Arguments) -> str:
    """A dry run for a reader."""
    names: dict[bool, list[str]] = {True: [], False: []}
    for entry in plan.vocabulary.candidates:
        names[plan.description.seen[entry.id]].append(entry.name)
    lines = [
        f"images      {remaining_text(plan.left, arguments.images, 'label')}",
        *(f"            {image_id}  {uri}" for image_id, uri in plan.left.todo[:3]),
        f"classes     {arguments.classes}: {len(plan.vocabulary.candidates)}",
        f"  seen      {len(names[True])}: {_some(names[True])}",
        f"  unseen    {len(names[False])}: {_some(names[False])}",
        f"checkpoint  {arguments.checkpoint}, run {plan.description.digest[:12]}",
        f"max pixels  {arguments.max_pixels}",
        "execution   "
        + ", ".join(f"{k} {v}" for k, v in asdict(arguments.execution).items() if v is not None),
        *target_lines(plan.target, plan.left),
    ]
    return "\n".join(lines) + "\n"


def _some(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f", and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


if __name__ == "__main__":
    sys.exit(main())
