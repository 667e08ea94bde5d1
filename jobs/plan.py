"""What a run would cost: `zs3 plan`, `python jobs/plan.py`, or, measured on the cluster's own machines,

    ray job submit --working-dir . -- python jobs/plan.py \\
        --images s3://bucket/photos --classes voc --checkpoint zs3-mini --out s3://bucket/run
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Literal

from jobs.cli.exit_codes import DONE, guarded
from jobs.cli.options import print_json
from jobs.cli.progress import clock
from jobs.cli.run_options import RequestOptions, parse_run_options
from pipelines.forecast.estimate import Interval
from pipelines.forecast.forecast import Forecast, Work, forecast, label_work, segment_work
from pipelines.labelling.label import LabelRequest
from pipelines.labelling.segment import DEFAULT_STORE, SegmentRequest
from zs3.images.codec import DEFAULT_MAX_PIXELS


@dataclass(frozen=True, kw_only=True)
class Arguments(RequestOptions):
    """Measure a sample of the images that are left to do, and forecast time, hours of machines and bytes.

    The sample goes through the real decoding and the real model, on the Ray that the run would use; --out is read, and
    nothing is written to it. Each forecast has a 95 % interval: of a hundred samples, about 95 have one that holds the
    truth, as long as machines stay as they are now.
    """

    verb: Literal["label", "segment"] = "label"
    """What would be done with the images."""
    images: str
    """Folder, glob, text file of uris, Parquet table with a column `uri`, or one image; local, s3:// or
    gs://."""
    checkpoint: str
    """Shipped name (zs3-mini), folder or uri of a checkpoint."""
    classes: str | None = None
    """Class list, for label: voc, coco_stuff, ade20k_full, or a .txt or .json file."""
    masks: str | None = None
    """Masks from elsewhere, for segment."""
    store: str | None = None
    """How segments are kept, for segment: `compact`, or `lossless`."""
    max_pixels: int = DEFAULT_MAX_PIXELS
    """Pictures of more pixels become failures instead of being decoded."""
    sample: int = 64
    """Images to measure, at least 2. Four times as many halve the intervals."""
    seed: int = 0
    """The same seed draws the same images."""


def main(argv: Sequence[str] | None = None, *, models: Mapping[str, Any] | None = None) -> int:
    """The exit code of one forecast.

    Args:
        argv: the command line after the verb; by default the process's own.
        models: verb → how to come by its model; tests put their own here.
    """
    return guarded(lambda: _run(list(sys.argv[1:] if argv is None else argv), models or {}))


def _run(argv: list[str], models: Mapping[str, Any]) -> int:
    arguments = parse_run_options(Arguments, "zs3 plan", argv)
    told = forecast(
        partial(_work, arguments, models.get(arguments.verb)),
        arguments.execution,
        sample=arguments.sample,
        seed=arguments.seed,
    )
    if arguments.json:
        print_json(_values(told, arguments))
    else:
        sys.stdout.write("\n".join(_lines(told, arguments)) + "\n")
    return DONE


def _work(arguments: Arguments, model: Any) -> Work:
    """What the run would do.

    Raises:
        ValueError: an option is for the other verb, or missing.
    """
    foreign = ("masks", "store") if arguments.verb == "label" else ("classes",)
    given = [name for name in foreign if getattr(arguments, name) is not None]
    if given:
        raise ValueError(f"--{given[0]} is nothing for --verb {arguments.verb}; leave it out")
    if arguments.verb == "segment":
        return segment_work(
            SegmentRequest(
                images=arguments.images,
                checkpoint=arguments.checkpoint,
                out=arguments.out,
                masks=arguments.masks,
                store=arguments.store or DEFAULT_STORE,
                limit=arguments.limit,
                retry_failures=arguments.retry_failures,
                replace=arguments.replace,
                max_pixels=arguments.max_pixels,
            ),
            model,
        )
    if arguments.classes is None:
        raise ValueError("--classes is missing; give the class list of the run, or --verb segment")
    return label_work(
        LabelRequest(
            images=arguments.images,
            classes=arguments.classes,
            checkpoint=arguments.checkpoint,
            out=arguments.out,
            limit=arguments.limit,
            retry_failures=arguments.retry_failures,
            replace=arguments.replace,
            max_pixels=arguments.max_pixels,
        ),
        model,
    )


def _values(told: Forecast, arguments: Arguments) -> dict[str, object]:
    """A forecast as JSON values."""
    actors = told.actors
    return {
        "verb": arguments.verb,
        "images": told.images,
        "listed": told.listed,
        "skipped": told.skipped,
        "sample": told.sample,
        "failed_in_sample": told.failed_in_sample,
        "strata": told.strata,
        "stratified_by": "size" if told.by_size else "place",
        "seed": arguments.seed,
        "confidence": 0.95,
        "actors": actors.num_actors if actors else 0,
        "gpus_per_actor": actors.gpus if actors else 0.0,
        "startup_seconds": told.startup_s,
        "seconds": asdict(told.seconds),
        "actor_hours": asdict(told.actor_hours),
        "gpu_hours": asdict(told.gpu_hours),
        "bytes_read": asdict(told.bytes_read),
        "bytes_written": asdict(told.bytes_written),
        "out": arguments.out,
    }


def _lines(told: Forecast, arguments: Arguments) -> list[str]:
    """A forecast for a reader."""
    images = f"{told.images:,} to {arguments.verb}, {told.skipped:,} done before"
    if told.actors is None:
        return [f"images       {images}; the run would do nothing"]
    actors, seconds = told.actors, told.seconds
    by = "file size" if told.by_size else "place in the listing"
    drawn = f"{told.sample:,} in {told.strata} strata by {by}, {told.failed_in_sample:,} failed"
    speeds = [told.images / value for value in (seconds.estimate, seconds.high, seconds.low)]
    each = f"{actors.gpus:g} GPU" if actors.gpus else f"{actors.cpus:g} CPUs"
    table = "labels" if arguments.verb == "label" else "segments"
    return [
        f"images       {images}",
        f"measured     {drawn}",
        f"actors       {actors.num_actors} of {each}",
        f"time         {_text(seconds, clock)}, after {clock(told.startup_s)} of start-up as here",
        f"speed        {speeds[0]:.3g} images/s ({speeds[1]:.3g} to {speeds[2]:.3g})",
        f"actor-hours  {_text(told.actor_hours, _number)}",
        *([f"GPU-hours    {_text(told.gpu_hours, _number)}"] if actors.gpus else []),
        f"read         {_text(told.bytes_read, _bytes)} of image files",
        f"written      {_text(told.bytes_written, _bytes)} of {table}",
        "In brackets, 95 % intervals. Nothing was written.",
    ]


def _text(interval: Interval, shown: Any) -> str:
    """An estimate and its bounds, where they differ."""
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
