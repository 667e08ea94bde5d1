"""Estimate what a run would cost: `zs3 plan`, `python jobs/plan.py`, or, measured on the machines of a cluster,

    ray job submit --working-dir . -- python jobs/plan.py \\
        --images s3://bucket/photos --classes voc --checkpoint zs3-mini --out s3://bucket/run
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Literal

from jobs.cli.exit_codes import DONE, guarded
from jobs.cli.options import print_json, request_from
from jobs.cli.progress import clock
from jobs.cli.run_options import RunOptions, parse_run_options
from jobs.cli.terminal import write_lines
from pipelines.forecast.bootstrap import CONFIDENCE, Interval
from pipelines.forecast.estimate import PreparedImages, RunEstimate, estimate_run
from pipelines.labelling.image_stage import ImagesRequest
from pipelines.labelling.label import LabelRequest, prepare_label
from pipelines.labelling.segment import DEFAULT_STORE, SegmentRequest, prepare_segment


@dataclass(frozen=True, kw_only=True)
class PlanOptions(ImagesRequest, RunOptions):
    """Measure a random sample of the remaining images and estimate time, machine hours and bytes of a run.

    The sample goes through the real decoding and the real model, on the Ray that the run would use. --out is read, and
    nothing is written to it. Each estimate has a 95 % confidence interval, which holds as long as machines stay as fast
    as they are now.
    """

    verb: Literal["label", "segment"] = "label"
    """The command whose run is estimated."""
    classes: str | None = None
    """Class list, for label: a shipped name such as voc or ade20k_150, or a .txt or .json file."""
    allow_confusable: bool = False
    """Run although two classes have the same embedding, for label."""
    panoptic: bool = False
    """Make panoptic maps, for label."""
    masks: str | None = None
    """External masks, for segment."""
    store: str | None = None
    """How segments are stored, for segment: `compact` or `lossless`."""
    sample: int = 64
    """Images to measure, at least 2. Four times as many halve the intervals."""
    seed: int = 0
    """The same seed draws the same images."""


def main(argv: Sequence[str] | None = None, *, models: Mapping[str, Any] | None = None) -> int:
    """The exit code of one estimate.

    Args:
        argv: the command line after the command; by default the process's own.
        models: command → factory of its model; for tests.
    """
    return guarded(lambda: _run(parse_run_options(PlanOptions, "zs3 plan", argv), models or {}))


def _run(options: PlanOptions, models: Mapping[str, Any]) -> int:
    estimate = estimate_run(
        partial(_prepare, options, models.get(options.verb)),
        options.execution,
        sample=options.sample,
        seed=options.seed,
    )
    if options.json:
        print_json(_values(estimate, options))
    else:
        write_lines(_lines(estimate, options.verb))
    return DONE


def _prepare(options: PlanOptions, model: Any) -> PreparedImages:
    """The run to be measured.

    Raises:
        ValueError: an option belongs to the other command, or `--classes` is missing.
    """
    other = ("masks", "store") if options.verb == "label" else ("classes",)
    not_used = [name for name in other if getattr(options, name) is not None]
    if not_used:
        raise ValueError(f"--{not_used[0]} has no effect with --verb {options.verb}; leave it out")
    if options.verb == "segment":
        store = options.store or DEFAULT_STORE
        return prepare_segment(request_from(options, SegmentRequest, store=store), model)
    if options.classes is None:
        raise ValueError("--classes is missing; give the class list of the run, or --verb segment")
    return prepare_label(request_from(options, LabelRequest), model)


def _values(estimate: RunEstimate, options: PlanOptions) -> dict[str, object]:
    """An estimate as JSON values. The sample is a simple random one, so there is one stratum."""
    actors = estimate.actors
    return {
        "verb": options.verb,
        "images": estimate.images,
        "listed": estimate.listed,
        "skipped": estimate.skipped,
        "sample": estimate.sample,
        "failed_in_sample": estimate.failed_in_sample,
        "strata": int(estimate.sample > 0),
        "stratified_by": "none",
        "seed": options.seed,
        "confidence": CONFIDENCE,
        "actors": actors.num_actors if actors else 0,
        "gpus_per_actor": actors.gpus if actors else 0.0,
        "startup_seconds": estimate.startup_s,
        "seconds": asdict(estimate.seconds),
        "actor_hours": asdict(estimate.actor_hours),
        "gpu_hours": asdict(estimate.gpu_hours),
        "bytes_read": asdict(estimate.bytes_read),
        "bytes_written": asdict(estimate.bytes_written),
        "out": options.out,
    }


def _lines(estimate: RunEstimate, verb: str) -> list[str]:
    """An estimate as lines of text."""
    images = f"{estimate.images:,} to {verb}, {estimate.skipped:,} done before"
    actors, seconds = estimate.actors, estimate.seconds
    if actors is None:
        return [f"images       {images}; the run would do nothing"]
    speeds = [estimate.images / value for value in (seconds.estimate, seconds.high, seconds.low)]
    each = f"{actors.gpus:g} GPU" if actors.gpus else f"{actors.cpus:g} CPU{'' if actors.cpus == 1 else 's'}"
    return [
        f"images       {images}",
        f"measured     {estimate.sample:,} drawn at random, {estimate.failed_in_sample:,} failed",
        f"actors       {actors.num_actors} of {each}",
        f"time         {_text(seconds, clock)}, after {clock(estimate.startup_s)} of start-up as measured here",
        f"speed        {speeds[0]:.3g} images/s ({speeds[1]:.3g} to {speeds[2]:.3g})",
        f"actor-hours  {_text(estimate.actor_hours, _number)}",
        *([f"GPU-hours    {_text(estimate.gpu_hours, _number)}"] if actors.gpus else []),
        f"read         {_text(estimate.bytes_read, _bytes)} of image files",
        f"written      {_text(estimate.bytes_written, _bytes)} of {verb}s",
        "In brackets, 95 % intervals. Nothing was written.",
    ]


def _text(interval: Interval, shown: Callable[[float], str]) -> str:
    """An estimate, with its bounds where they differ."""
    bounds = f" ({shown(interval.low)} to {shown(interval.high)})" if interval.low < interval.high else ""
    return f"{shown(interval.estimate)}{bounds}"


def _number(value: float) -> str:
    return f"{value:.3g}"


def _bytes(value: float) -> str:
    """Bytes in the unit that leaves one to four digits before the point."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(value) < 1000 or unit == "TB":
            return f"{value:.3g} {unit}" if unit != "B" else f"{value:.0f} B"
        value /= 1000
    raise AssertionError("the last unit returns")


if __name__ == "__main__":
    sys.exit(main())
