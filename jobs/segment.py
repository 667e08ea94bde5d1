"""Segment images and store the segments: `zs3 segment`, `python jobs/segment.py`, or on a cluster

    ray job submit --working-dir . -- python jobs/segment.py \\
        --images s3://bucket/photos --checkpoint zs3-mini --out s3://bucket/run
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from jobs.cli.exit_codes import guarded
from jobs.cli.options import request_from
from jobs.cli.progress import progress_bar
from jobs.cli.run_options import RunOptions, TableRunOptions, parse_run_options
from jobs.cli.run_output import print_dry_run, print_summary, query, work_summary
from pipelines.labelling.segment import (
    PreparedSegment,
    SegmentExporterFactory,
    SegmentRequest,
    prepare_segment,
    segment,
)

SEGMENTS_QUERY = (
    "SELECT count(*) AS images, sum(num_segments) AS segments, avg(octet_length(masks)) AS mask_bytes FROM t"
)
"""A query of the table `segments`."""


@dataclass(frozen=True, kw_only=True)
class SegmentOptions(SegmentRequest, TableRunOptions):
    """Run the networks over images once and store their segments; `zs3 name` then labels them with any class list.

    Writes the Delta Lake tables `segments` and `failures` below --out. The same command continues a run that was
    stopped. Exit codes: 0 all images are done, 1 stopped by an error, 2 wrong usage, 3 some images failed.
    """


def main(argv: Sequence[str] | None = None, *, model: SegmentExporterFactory | None = None) -> int:
    """The exit code of `zs3 segment`; tests replace the segment exporter by `model`."""
    return guarded(lambda: _run(parse_run_options(SegmentOptions, "zs3 segment", argv), model))


def _run(options: SegmentOptions, model: SegmentExporterFactory | None) -> int:
    request = request_from(options, SegmentRequest)
    if not options.dry_run:
        return carry_out(request, options, model)
    prepared = prepare_segment(request, model)
    return print_dry_run(prepared.work, options, _dry_run_lines(prepared))


def carry_out(
    request: SegmentRequest, options: RunOptions, model: SegmentExporterFactory | None = None
) -> int:
    """Carry out a request, print a summary, and return the exit code."""
    with progress_bar("segmenting") as show:
        result = segment(request, options.execution, model=model, on_progress=show)
    next_steps = [
        f"look at them:        {query(result.out, 'segments', SEGMENTS_QUERY)}",
        f"label them:          zs3 name --segments {shlex.quote(result.out)} --classes voc --out labelled/",
    ]
    return print_summary(result, options, "segmented", next_steps)


def _dry_run_lines(prepared: PreparedSegment) -> list[str]:
    request, work = prepared.request, prepared.work
    masks = []
    if prepared.masks:
        count = sum(image_id in prepared.masks.of_image for image_id, _ in work.pending)
        masks = [
            f"masks       {prepared.masks.kind} at {request.masks}, "
            f"for {count} of the {len(work.pending)} images to segment"
        ]
    return [
        f"images      {work_summary(work, request.images, 'segment')}",
        *masks,
        f"checkpoint  {request.checkpoint}, run {work.target.digest[:12]}",
    ]


if __name__ == "__main__":
    sys.exit(main())
