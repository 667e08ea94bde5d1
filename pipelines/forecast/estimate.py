"""What a run would cost. A sample of its images is processed as the run would process them; no table is written.

images to be processed ─► random sample ─► read, decode, actor (in a worker of the run's Ray) ─► totals, intervals
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from pipelines.execution import DECODE_CPUS, ActorPlan, Execution, actor_plan, images_per_file
from pipelines.forecast.bootstrap import ZERO, Interval, percentile_interval
from pipelines.forecast.measure import Measured, bytes_in_files, measure_on_ray
from pipelines.forecast.sample import Sample, draw
from pipelines.labelling.image_stage import ImageRun
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


class PreparedImages(Protocol):
    """A prepared request of `label` or `segment`."""

    @property
    def work(self) -> RemainingWork: ...

    def image_run(self) -> ImageRun: ...


def estimate_run(
    prepare: Callable[[], PreparedImages],
    execution: Execution | None = None,
    *,
    sample: int = 64,
    seed: int = 0,
    measuring: Callable[..., Measured] = measure_on_ray,
) -> RunEstimate:
    """Measure a sample of the images and estimate what the run would cost.

    Args:
        prepare: prepares the request; its duration counts as start-up.
        execution: how the run would be executed; the sample is measured on the same Ray.
        sample: images to measure.
        seed: the same seed draws the same images.
        measuring: as `measure_on_ray`; tests measure in their own process.

    Raises:
        ValueError, FileNotFoundError: the request cannot be carried out, or the sample is too small.
        ray.exceptions.RayError: the measuring worker failed.
    """
    started, execution = time.monotonic(), execution or Execution()
    prepared = prepare()
    work, pending = prepared.work, prepared.work.pending
    estimate = RunEstimate(images=len(pending), listed=work.listed, skipped=work.skipped)
    if not pending:
        return estimate
    run = prepared.image_run()
    drawn = draw(pending, sample, seed)
    start_ray(execution)
    nodes = cluster_nodes()
    actors = actor_plan(execution, nodes)
    images = run.with_masks(drawn.images)
    ready_s = time.monotonic() - started
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


def bytes_written(sample: Sample, measured: Measured, run: ImageRun, execution: Execution) -> Interval:
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
