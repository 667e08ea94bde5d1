"""Label stored segments with a class list: `zs3 name`, `python jobs/name.py`, or on a cluster

    ray job submit --working-dir . -- python jobs/name.py \\
        --segments s3://bucket/run --classes voc --out s3://bucket/labelled
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from jobs.cli.exit_codes import DONE, guarded
from jobs.cli.naming_options import NamingChanges
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
from pipelines.labelling.name import name
from pipelines.labelling.name_plan import NamePlan, NameRequest, SegmentClassifierFactory, plan_name
from pipelines.runs.run import RunResult
from zs3.text.confusable import ClosePair


@dataclass(frozen=True, kw_only=True)
class Arguments(TableRunOptions):
    """Label stored segments with a list of class names, on CPUs, without a picture or a network.

    Writes the Delta Lake tables `labels` and `failures` below --out, as `zs3 label` does. A run that was stopped
    continues when the same command is given again. Exit code 0: all was done; 3: some images failed; 1: stopped by an
    error; 2: wrong usage.
    """

    segments: str
    """The --out of a `zs3 segment` run, or its segments table; local, s3:// or gs://."""
    classes: str
    """Class list: voc, coco_stuff, ade20k_full, or a .txt or .json file."""
    checkpoint: str | None = None
    """The checkpoint that made the segments; by default the place that it was read from then."""
    naming: NamingChanges = field(default_factory=NamingChanges)
    """Naming settings that differ from the checkpoint's own."""
    settings: str | None = None
    """The --out of a `zs3 tune` run, or its tune.json: name with the tuned settings. The label table then says on which
    split they were tuned, and so do reports of it."""


def main(argv: Sequence[str] | None = None, *, model: SegmentClassifierFactory | None = None) -> int:
    """The exit code of one naming run.

    Args:
        argv: the command line after the verb; by default the process's own.
        model: how to come by the classifier; tests put their own here.
    """
    return guarded(lambda: _run(list(sys.argv[1:] if argv is None else argv), model))


def _run(argv: list[str], model: SegmentClassifierFactory | None) -> int:
    arguments = parsed(Arguments, "zs3 name", argv)
    request = NameRequest(
        segments=arguments.segments,
        classes=arguments.classes,
        out=arguments.out,
        checkpoint=arguments.checkpoint,
        naming=arguments.naming.given(),
        settings=arguments.settings,
        limit=arguments.limit,
        retry_failures=arguments.retry_failures,
        replace=arguments.replace,
    )
    if arguments.dry_run:
        plan = plan_name(request, model)
        classifier = (model or SegmentClassifierFactory()).load(plan.checkpoint, plan.vocabulary, plan.naming)
        values = _plan_values(plan, classifier.confusable())
        sys.stdout.write(json.dumps(values) + "\n" if arguments.json else _plan_text(plan))
        return DONE
    return carried_out(request, arguments, model)


def carried_out(
    request: NameRequest, options: RunOptions, model: SegmentClassifierFactory | None = None
) -> int:
    """Carry out a request, tell what was done, and give the exit code."""
    with progress("naming") as show:
        result = name(request, options.execution, model=model, on_progress=show)
    return told(result, options, _summary(result))


def _summary(result: RunResult) -> list[str]:
    """What was done and how to look at it."""
    return [run_summary(result, "named"), f"look at the labels:  {query(result.out, 'labels', AREAS)}"]


def _plan_values(plan: NamePlan, pairs: Sequence[ClosePair]) -> dict[str, object]:
    """A dry run as JSON values."""
    return {
        **remaining_values(plan.left, plan.target),
        "classes": [
            {"id": entry.id, "name": entry.name, "seen": plan.description.seen[entry.id]}
            for entry in plan.vocabulary.candidates
        ],
        "warnings": [asdict(pair) for pair in pairs],
    }


def _plan_text(plan: NamePlan) -> str:
    """A dry run for a reader."""
    request = plan.request
    changes = ", ".join(f"{key} {value}" for key, value in plan.naming.items()) or "the checkpoint's own"
    if request.settings:
        changes += f" (tuned on {plan.target.provenance['tuning']['title']})"
    lines = [
        f"segments    {remaining_text(plan.left, request.segments, 'name')}",
        f"classes     {request.classes}: {len(plan.vocabulary.candidates)}",
        f"naming      {changes}",
        f"checkpoint  {plan.checkpoint}, run {plan.target.digest[:12]}",
        *target_lines(plan.target, plan.left),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
