"""Keep what the networks know of images: `zs3 segment`, `python jobs/segment.py`, or on a cluster

    ray job submit --working-dir . -- python jobs/segment.py \\
        --images s3://bucket/photos --checkpoint zs3-mini --out s3://bucket/run
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from jobs.cli.exit_codes import DONE, guarded
from jobs.cli.progress import progress, run_summary
from jobs.cli.run_options import (
    RunOptions,
    TableRunOptions,
    parsed,
    query,
    remaining_text,
    remaining_values,
    target_lines,
    told,
)
from pipelines.labelling.segment import segment
from pipelines.labelling.segment_plan import (
    DEFAULT_STORE,
    SegmentExporterFactory,
    SegmentPlan,
    SegmentRequest,
    plan_segment,
)
from pipelines.runs.run import RunResult
from zs3.images.codec import DEFAULT_MAX_PIXELS

SIZES = (
    "SELECT count(*) AS images, sum(num_segments) AS segments, avg(octet_length(masks)) AS mask_bytes FROM t"
)
"""A query that the summary offers, of the table called `t`."""


@dataclass(frozen=True, kw_only=True)
class Arguments(TableRunOptions):
    """Run the networks over images once, and keep their segments; `zs3 name` then labels them with any class list.

    Writes the Delta Lake tables `segments` and `failures` below --out. A run that was stopped continues when
    the same command is given again. Exit code 0: all was done; 3: some images failed; 1: stopped by an error;
    2: wrong usage.
    """

    images: str
    """Folder, glob, text file of uris, Parquet table with a column `uri`, or one image; local, s3:// or
    gs://."""
    checkpoint: str
    """Shipped name (zs3-mini), folder or uri of a checkpoint."""
    masks: str | None = None
    """Masks from elsewhere, which take the place of the network's own: COCO's JSON (annotations or results), a
    folder of label PNGs (<image id>.png), or one with a folder of a PNG for each mask per image."""
    store: str = DEFAULT_STORE
    """How segments are kept: `compact`, or `lossless`, with which naming gives the labels of `zs3 label` bit
    for bit."""
    max_pixels: int = DEFAULT_MAX_PIXELS
    """Pictures of more pixels become failures instead of being decoded."""


def main(argv: Sequence[str] | None = None, *, model: SegmentExporterFactory | None = None) -> int:
    """The exit code of one segmenting run.

    Args:
        argv: the command line after the verb; by default the process's own.
        model: how to come by the exporter; tests put their own here.
    """
    return guarded(lambda: _run(list(sys.argv[1:] if argv is None else argv), model))


def _run(argv: list[str], model: SegmentExporterFactory | None) -> int:
    arguments = parsed(Arguments, "zs3 segment", argv)
    request = SegmentRequest(
        images=arguments.images,
        checkpoint=arguments.checkpoint,
        out=arguments.out,
        masks=arguments.masks,
        store=arguments.store,
        limit=arguments.limit,
        retry_failures=arguments.retry_failures,
        replace=arguments.replace,
        max_pixels=arguments.max_pixels,
    )
    if arguments.dry_run:
        plan = plan_segment(request, model)
        sys.stdout.write(
            json.dumps(remaining_values(plan.left, plan.target)) + "\n"
            if arguments.json
            else _plan_text(plan)
        )
        return DONE
    return carried_out(request, arguments, model)


def carried_out(
    request: SegmentRequest, options: RunOptions, model: SegmentExporterFactory | None = None
) -> int:
    """Carry out a request, tell what was done, and give the exit code."""
    with progress("segmenting") as show:
        result = segment(request, options.execution, model=model, on_progress=show)
    return told(result, options, _summary(result))


def _summary(result: RunResult) -> list[str]:
    """What was done, how to look at it, and what to do next."""
    return [
        run_summary(result, "segmented"),
        f"look at them:        {query(result.out, 'segments', SIZES)}",
        f"label them:          zs3 name --segments {shlex.quote(result.out)} --classes voc --out labelled/",
    ]


def _plan_text(plan: SegmentPlan) -> str:
    """A dry run for a reader."""
    lines = [
        f"images      {remaining_text(plan.left, plan.request.images, 'segment')}",
        *_masks_text(plan),
        f"checkpoint  {plan.request.checkpoint}, run {plan.target.digest[:12]}",
        *target_lines(plan.target, plan.left),
    ]
    return "\n".join(lines) + "\n"


def _masks_text(plan: SegmentPlan) -> list[str]:
    """What masks are given, for how many of the images to segment."""
    if plan.proposals is None:
        return []
    given = sum(image_id in plan.proposals.of_image for image_id, _ in plan.left.todo)
    return [
        f"masks       {plan.proposals.kind} at {plan.request.masks}, "
        f"for {given} of the {len(plan.left.todo)} images to segment"
    ]


if __name__ == "__main__":
    sys.exit(main())
