"""What a run would cost, from a sample of its images that is measured as the run would process them; writes no table.

    images left to do ─► sample, by file size ─► read, decode, actor (in a worker of the run's Ray) ─► totals, intervals

The arithmetic is `pipelines/forecast/estimate.py`.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipelines.execution import DECODE_CPUS, ActorPlan, Execution, actor_plan
from pipelines.forecast.estimate import Interval, exactly, larger
from pipelines.forecast.measure import Measured, files, measure_on_ray, written
from pipelines.forecast.sample import Sample, draw
from pipelines.labelling import label, segment
from pipelines.labelling.external_masks import read_with_masks
from pipelines.labelling.image_stage import read_and_decode
from pipelines.labelling.label import LabelActor, LabellerFactory, LabelRequest, prepare_label
from pipelines.labelling.segment import SegmentExporterFactory, SegmentRequest, prepare_segment
from pipelines.ray_session import cluster_nodes, start_ray
from pipelines.runs.resume import RemainingWork, Target
from pipelines.runs.run import Chunk

SECONDS_PER_HOUR = 3600.0

NEIGHBOURS = 0.02
"""By how much more files may hold than the sampling error says: rows of neighbours in a listing repeat more of each
other than those of a sample do, 1 % of a row of 400 bytes and less of longer ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What a run would cost."""

    images: int
    """To be processed."""
    listed: int
    skipped: int
    """Processed before."""
    sample: int
    """Images measured."""
    failed_in_sample: int
    strata: int
    by_size: bool
    """Whether strata are of files of like size; else they are stretches of the listing."""
    actors: ActorPlan | None
    """None where nothing is to be processed."""
    startup_s: float
    """Of listing, reading class names, starting or joining Ray, and loading a model, as it took here."""
    seconds: Interval
    """From the first image at a model to the end."""
    actor_hours: Interval
    gpu_hours: Interval
    bytes_read: Interval
    """Of image files."""
    bytes_written: Interval
    """Of the files of the table of results; its log, and failures, are some kilobytes beside."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a run would do, whatever its verb."""

    target: Target
    left: RemainingWork
    actor: type
    arguments: Callable[[ActorPlan], dict[str, Any]]
    """Of the actor's constructor."""
    read: Callable[[pa.Table], Iterable[pa.Table]]
    """Reads and decodes."""
    proposals: dict[str, str] | None
    """Given masks, see `proposals.Proposals`."""
    max_images_per_file: int

    def per_file(self, execution: Execution) -> int:
        """Images in a file."""
        images = self.left.pending
        chunk = Chunk(
            images=pa.table({}),
            total=len(images),
            journal_id="",
            requested_per_file=execution.images_per_file,
        )
        return chunk.images_per_file(self.max_images_per_file)


def label_work(request: LabelRequest, model: LabellerFactory | None = None) -> Work:
    """What `label` would do.

    Raises:
        ValueError, FileNotFoundError: as of `label.prepare_label`.
    """
    plan = prepare_label(request, model)
    if plan.work.pending:
        model = (model or LabellerFactory()).with_names(plan.info)
    return Work(
        target=plan.work.target,
        left=plan.work,
        actor=LabelActor,
        arguments=lambda actors: label.label_arguments(plan, model or LabellerFactory(), actors),
        read=functools.partial(read_and_decode, max_pixels=request.max_pixels, run=plan.work.target.digest),
        proposals=None,
        max_images_per_file=label.MAX_IMAGES_PER_FILE,
    )


def segment_work(request: SegmentRequest, model: SegmentExporterFactory | None = None) -> Work:
    """What `segment` would do.

    Raises:
        ValueError, FileNotFoundError: as of `segment.prepare_segment`.
    """
    plan = prepare_segment(request, model)
    read = read_and_decode if plan.masks is None else read_with_masks
    return Work(
        target=plan.work.target,
        left=plan.work,
        actor=segment.SegmentActor,
        arguments=lambda actors: segment.segment_arguments(plan, model or SegmentExporterFactory(), actors),
        read=functools.partial(read, max_pixels=request.max_pixels, run=plan.work.target.digest),
        proposals=dict(plan.masks.of_image) if plan.masks else None,
        max_images_per_file=segment.MAX_IMAGES_PER_FILE,
    )


def forecast(
    work: Callable[[], Work],
    execution: Execution | None = None,
    *,
    sample: int = 64,
    seed: int = 0,
    measuring: Callable[..., Measured] = measure_on_ray,
) -> Forecast:
    """What the run would cost.

    Args:
        work: finds out what it would do.
        execution: how it would do it; the sample is measured on the Ray that it means.
        sample: images to measure.
        seed: the same gives the same images.
        measuring: how to measure; tests do so in their own process.

    Raises:
        ValueError, FileNotFoundError: the request cannot be carried out, or the sample is too small.
        ray.exceptions.RayError: the worker that measures failed.
    """
    called, execution = time.time(), execution or Execution()
    todo = work()
    if not todo.left.pending:
        return _nothing(todo.left)
    drawn = draw(todo.left.pending, sample, seed)
    start_ray(execution)
    nodes = cluster_nodes()
    actors = actor_plan(execution, nodes)
    images = drawn.images
    if todo.proposals is not None:
        given = [todo.proposals.get(image_id, "") for image_id in images["image_id"].to_pylist()]
        images = images.append_column("masks_at", pa.array(given, pa.large_string()))
    ready = time.time() - called
    make_actor = functools.partial(todo.actor, **todo.arguments(actors))
    measured = measuring(make_actor, todo.read, images, actors)
    cpus = sum(node.get("CPU", 0.0) for node in nodes)
    seconds = seconds_of(drawn, measured, actors, cpus)
    hours = seconds.times(actors.num_actors / SECONDS_PER_HOUR)
    return Forecast(
        images=len(todo.left.pending),
        listed=todo.left.listed,
        skipped=todo.left.skipped,
        sample=drawn.images.num_rows,
        failed_in_sample=sum(map(bool, measured.done["failures"].to_pylist())),
        strata=len(drawn.sizes),
        by_size=drawn.by_size,
        actors=actors,
        startup_s=ready + measured.load_s,
        seconds=seconds,
        actor_hours=hours,
        gpu_hours=hours.times(actors.gpus),
        bytes_read=drawn.bytes_read(),
        bytes_written=bytes_written(drawn, measured, todo, execution),
    )


def seconds_of(drawn: Sample, measured: Measured, actors: ActorPlan, cpus: float) -> Interval:
    """How long the images take once models are loaded, on as many actors as there are to be.

    On GPUs, decoding goes on beside the models: the run takes as long as the slower of the two. On CPUs it takes cores
    away from them: the run takes as long as both, decoding spread over the cores of an actor.

    Args:
        cpus: logical CPUs of the Ray in use.
    """
    if actors.gpus:
        tasks = max(1.0, (cpus - actors.num_actors * actors.cpus) / DECODE_CPUS)
        at_models = drawn.total(list(measured.model_s)).times(1 / actors.num_actors)
        return larger(at_models, drawn.total(list(measured.decode_s)).times(1 / tasks))
    threads = actors.threads or max(1.0, actors.cpus)
    both = [
        model + decode / threads for model, decode in zip(measured.model_s, measured.decode_s, strict=True)
    ]
    return drawn.total(both).times(1 / actors.num_actors)


def bytes_written(drawn: Sample, measured: Measured, work: Work, execution: Execution) -> Interval:
    """Of the files of the table of results."""
    per_file = work.per_file(execution)
    name, schema = work.target.results, work.target.schema
    adds, remainder = written(measured.done, name, schema, per_file)
    told = drawn.total(adds).plus(files(len(work.left.pending), per_file).times(remainder))
    return Interval(
        estimate=told.estimate, low=told.low * (1 - NEIGHBOURS), high=told.high * (1 + NEIGHBOURS)
    )


def _nothing(left: RemainingWork) -> Forecast:
    """Of a run that has nothing to do."""
    zero = exactly(0.0)
    return Forecast(
        images=0,
        listed=left.listed,
        skipped=left.skipped,
        sample=0,
        failed_in_sample=0,
        strata=0,
        by_size=False,
        actors=None,
        startup_s=0.0,
        seconds=zero,
        actor_hours=zero,
        gpu_hours=zero,
        bytes_read=zero,
        bytes_written=zero,
    )
