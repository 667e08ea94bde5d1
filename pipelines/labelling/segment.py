"""The segmenting graph: list, read and decode, group, write, commit.

    images ─► read_and_decode (CPU tasks) ─► SegmentActor (one model each) ─► write_tables (tasks) ─► commits
    (driver)

What it leaves knows no class name; `pipelines/labelling/name.py` labels it with any class list. Masks from elsewhere
are read with the pictures (`pipelines/labelling/external_masks.py`) and embedded instead of the network's own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pipelines.execution import ActorPlan, Execution, actor_plan
from pipelines.labelling.image_stage import Image, ModelThread, Picture, picture_graph
from pipelines.labelling.segment_plan import (
    SegmentExporterFactory,
    SegmentExporterProtocol,
    SegmentPlan,
    SegmentRequest,
    plan_segment,
)
from pipelines.ray_session import cluster_nodes
from pipelines.runs.rows import Rows
from pipelines.runs.run import Chunk, Progress, RunResult, run_graph
from zs3.masks.binary import unpack_masks
from zs3.segmentation.segments import Segments
from zs3.segmentation.table import segments_row
from zs3.tables import FAILURES, SEGMENTS

if TYPE_CHECKING:
    from ray.data import Dataset

MAX_IMAGES_PER_FILE = 128
"""Images in one file of segments: 5 MB in the compact store, 80 MB in the lossless one. A file is also what one task
of `name` reads."""

TABLES = {"segments": SEGMENTS, "failures": FAILURES}
"""What a segmenting run leaves below its --out."""


def segment(
    request: SegmentRequest,
    execution: Execution | None = None,
    *,
    model: SegmentExporterFactory | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> RunResult:
    """Segment every image that has no segments yet, and commit tables as the run goes.

    Args:
        request: what to segment.
        execution: how; changes no result.
        model: how to come by the exporter; tests put their own here.
        on_progress: called in this process whenever a file of rows has been written.

    Raises:
        ValueError, FileNotFoundError: the request cannot be carried out.
        ray.exceptions.RayError: the run was stopped; what was finished is committed, and the same call continues.
    """
    called = time.time()
    execution, model = execution or Execution(), model or SegmentExporterFactory()
    plan = plan_segment(request, model)
    return run_graph(
        plan.target,
        plan.left,
        lambda chunk: segment_graph(plan, chunk, model, execution),
        execution,
        called=called,
        on_progress=on_progress,
    )


def segment_graph(
    plan: SegmentPlan, chunk: Chunk, model: SegmentExporterFactory, execution: Execution
) -> Dataset:
    """The lazy dataset whose rows tell of the files written below the plan's --out."""
    actors = actor_plan(execution, cluster_nodes())
    return picture_graph(
        SegmentActor,
        target=plan.target,
        chunk=chunk,
        max_pixels=plan.request.max_pixels,
        max_images_per_file=MAX_IMAGES_PER_FILE,
        actors=actors,
        execution=execution,
        arguments=actor_arguments(plan, model, actors),
        proposals=plan.proposals.of_image if plan.proposals else None,
    )


def actor_arguments(plan: SegmentPlan, model: SegmentExporterFactory, actors: ActorPlan) -> dict[str, Any]:
    """What the run's actors are made with."""
    return {
        "model": model,
        "checkpoint": plan.request.checkpoint,
        "store": plan.request.store,
        "run": plan.target.digest,
        "planned": plan.exporter,
        "actors": actors,
    }


class SegmentActor:
    """One loaded model that turns batches of pixels, and given masks if there are, into rows of segments and failures.

    Raises:
        RuntimeError: the model here is not the one the run was planned with, or it fails for every image.
    """

    def __init__(
        self,
        *,
        model: SegmentExporterFactory,
        checkpoint: str,
        store: str,
        run: str,
        actors: ActorPlan,
        planned: str | None = None,
        notes: str | None = None,
    ) -> None:
        self._model = ModelThread(
            lambda device: model.load(checkpoint, store, device),
            origin=checkpoint,
            actors=actors,
            run=run,
            results="segments",
            stage="segment",
            planned=planned,
            notes=notes,
        )
        self._store, self._run = store, run

    def __call__(self, batch: pa.Table) -> pa.Table:
        """One row per image: its row of `segments`, or its row of `failures`."""
        return self._model.rows(batch, self._rows, TABLES)

    def _rows(
        self, exporter: SegmentExporterProtocol, images: Sequence[Image], pictures: Sequence[Picture]
    ) -> list[Rows]:
        """The row of each image."""
        if "masks" not in images[0]:
            return [
                [self._row(image, *one)]
                for image, one in zip(images, exporter.segment(pictures), strict=True)
            ]
        rows: list[Rows] = []
        for image, picture in zip(images, pictures, strict=True):
            # One by one: given masks have a cell for each pixel, up to a gigabyte for one picture.
            given = unpack_masks(image["masks"], *picture.shape[:2])
            rows.append([self._row(image, *exporter.segment_with_masks(picture, given))])
        return rows

    def _row(self, image: Image, segments: Segments, disagreement: float) -> dict[str, Any]:
        return segments_row(
            image["image_id"],
            image["uri"],
            segments,
            disagreement,
            self._run,
            store=self._store,
            etag=image.get("etag", ""),
        )
