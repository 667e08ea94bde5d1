"""What a run would cost. A sample of its images is processed as the run would process them; no table is written.

images to be processed ─► random sample ─► read, decode, actor (in a worker of the run's Ray) ─► totals, intervals
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.execution import DECODE_CPUS, ActorPlan, Execution, actor_plan, images_per_file
from pipelines.forecast.bootstrap import ZERO, Interval, percentile_interval
from pipelines.forecast.measure import Measured, bytes_in_files, measure_on_ray
from pipelines.forecast.sample import Sample, draw
from pipelines.labelling import label, segment
from pipelines.labelling.external_masks import read_with_masks
from pipelines.labelling.image_stage import read_and_decode
from pipelines.labelling.label import LabelActor, LabellerFactory, LabelRequest, prepare_label
from pipelines.labelling.segment import SegmentExporterFactory, SegmentRequest, prepare_segment
from pipelines.ray_session import cluster_nodes, start_ray
from pipelines.runs.resume import RemainingWork

SECONDS_PER_HOUR = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEstimate:
    """What a run would cost."""

    images: int
    """To be processed."""
    listed: int
    skipped: int
    """Processed before."""
    sample: int = 0
    """Images measured."""
    failed_in_sample: int = 0
    actors: ActorPlan | None = None
    """None where no image is to be processed."""
    startup_s: float = 0.0
    """Listing, reading class names, starting or joining Ray and loading a model, as measured here."""
    seconds: Interval = ZERO
    """From the first image at a model to the end."""
    actor_hours: Interval = ZERO
    gpu_hours: Interval = ZERO
    bytes_read: Interval = ZERO
    """Of image files."""
    bytes_written: Interval = ZERO
    """Of the files of the table of results. Its log and the table of failures add some kilobytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasurableRun:
    """A prepared run of `label` or `segment`, as far as measuring a sample of it needs."""

    work: RemainingWork
    actor: type
    arguments: Callable[[ActorPlan], dict[str, Any]]
    """Of the actor's constructor."""
    read: Callable[[pa.Table], Iterable[pa.Table]]
    """Reads and decodes."""
    masks: Mapping[str, str] | None
    """Image id → where its external masks are; None where the model finds masks itself."""
    max_images_per_file: int


def label_run(request: LabelRequest, model: LabellerFactory | None = None) -> MeasurableRun:
    """The run of `zs3 label`.

    Raises:
        ValueError, FileNotFoundError: as of `prepare_label`.
    """
    prepared = prepare_label(request, model)
    factory = model or LabellerFactory()
    if prepared.work.pending:
        factory = factory.with_names(prepared.info)
    digest = prepared.work.target.digest
    return MeasurableRun(
        work=prepared.work,
        actor=LabelActor,
        arguments=lambda actors: label.label_arguments(prepared, factory, actors),
        read=functools.partial(read_and_decode, max_pixels=request.max_pixels, run=digest),
        masks=None,
        max_images_per_file=label.MAX_IMAGES_PER_FILE,
    )


def segment_run(request: SegmentRequest, model: SegmentExporterFactory | None = None) -> MeasurableRun:
    """The run of `zs3 segment`.

    Raises:
        ValueError, FileNotFoundError: as of `prepare_segment`.
    """
    prepared = prepare_segment(request, model)
    read = read_and_decode if prepared.masks is None else read_with_masks
    digest = prepared.work.target.digest
    return MeasurableRun(
        work=prepared.work,
        actor=segment.SegmentActor,
        arguments=lambda actors: segment.segment_arguments(
            prepared, model or SegmentExporterFactory(), actors
        ),
        read=functools.partial(read, max_pixels=request.max_pixels, run=digest),
        masks=prepared.masks.of_image if prepared.masks else None,
        max_images_per_file=segment.MAX_IMAGES_PER_FILE,
    )


def estimate_run(
    prepare: Callable[[], MeasurableRun],
    execution: Execution | None = None,
    *,
    sample: int = 64,
    seed: int = 0,
    measuring: Callable[..., Measured] = measure_on_ray,
) -> RunEstimate:
    """Measure a sample of the images and estimate what the run would cost.

    Args:
        prepare: gives the run; its duration counts as start-up.
        execution: how the run would be executed; the sample is measured on the same Ray.
        sample: images to measure.
        seed: the same seed draws the same images.
        measuring: as `measure_on_ray`; tests measure in their own process.

    Raises:
        ValueError, FileNotFoundError: the request cannot be carried out, or the sample is too small.
        ray.exceptions.RayError: the measuring worker failed.
    """
    started, execution = time.time(), execution or Execution()
    run = prepare()
    pending = run.work.pending
    estimate = RunEstimate(images=len(pending), listed=run.work.listed, skipped=run.work.skipped)
    if not pending:
        return estimate
    drawn = draw(pending, sample, seed)
    start_ray(execution)
    nodes = cluster_nodes()
    actors = actor_plan(execution, nodes)
    images = drawn.images
    if run.masks is not None:
        masks = [run.masks.get(image_id, "") for image_id in images["image_id"].to_pylist()]
        images = images.append_column("masks_at", pa.array(masks, pa.large_string()))
    ready_s = time.time() - started
    measured = measuring(functools.partial(run.actor, **run.arguments(actors)), run.read, images, actors)
    seconds = run_seconds(drawn, measured, actors, sum(node.get("CPU", 0.0) for node in nodes))
    actor_hours = seconds.times(actors.num_actors / SECONDS_PER_HOUR)
    return replace(
        estimate,
        sample=images.num_rows,
        failed_in_sample=sum(map(bool, measured.rows["failures"].to_pylist())),
        actors=actors,
        startup_s=ready_s + measured.load_s,
        seconds=seconds,
        actor_hours=actor_hours,
        gpu_hours=actor_hours.times(actors.gpus),
        bytes_read=drawn.bytes_read(),
        bytes_written=bytes_written(drawn, measured, run, execution),
    )


def run_seconds(sample: Sample, measured: Measured, actors: ActorPlan, cpus: float) -> Interval:
    """Seconds from the first image at a model to the end, with all actors at work.

    On GPUs decoding runs in parallel with the models, so the slower of the two decides. On CPUs the two share the
    cores, so they add up, decoding spread over the cores of an actor.

    Args:
        cpus: logical CPUs of the Ray in use.
    """
    model, decode = sample.totals(measured.model_s), sample.totals(measured.decode_s)
    if actors.gpus:
        decode_tasks = max(1.0, (cpus - actors.num_actors * actors.cpus) / DECODE_CPUS)
        return percentile_interval(np.maximum(model / actors.num_actors, decode / decode_tasks))
    threads = actors.threads or max(1.0, actors.cpus)
    return percentile_interval((model + decode / threads) / actors.num_actors)


def bytes_written(sample: Sample, measured: Measured, run: MeasurableRun, execution: Execution) -> Interval:
    """Size of the files of the table of results.

    The last file of each writing task may be part full, so the upper bound allows for twice the files that are needed;
    the lower bound counts a part-full file as a part.
    """
    target, images = run.work.target, len(run.work.pending)
    in_file = images_per_file(execution, images, run.max_images_per_file)
    of_images, per_file = bytes_in_files(measured.rows, target.results, target.schema, in_file)
    content, files = percentile_interval(sample.totals(of_images)), -(-images // in_file)
    return Interval(
        estimate=content.estimate + files * per_file,
        low=content.low + images / in_file * per_file,
        high=content.high + 2 * files * per_file,
    )
