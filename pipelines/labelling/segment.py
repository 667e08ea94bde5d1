"""`zs3 segment`: the request, the images that remain, and the graph that processes them.

    images ─► read_and_decode (CPU tasks) ─► SegmentActor (one model each) ─► write_tables (tasks) ─► commits
    (driver)

Segments know no class name; `pipelines/labelling/name.py` labels them with any class list. External masks are read with
the images (`pipelines/labelling/external_masks.py`) and embedded instead of the network's own.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pipelines.execution import ActorPlan, Execution
from pipelines.labelling.external_masks import ExternalMasks, list_masks, read_with_masks
from pipelines.labelling.image_stage import (
    ImageRun,
    ImagesRequest,
    ModelThread,
    image_graph,
    picture_at,
    read_and_decode,
    with_alpha,
)
from pipelines.runs.resume import RemainingWork, Target, remaining_work, stored_request
from pipelines.runs.rows import BatchRunner, Image, Rows
from pipelines.runs.run import Chunk, Progress, RunResult, run_table
from zs3.masks.binary import unpack_masks
from zs3.segmentation.segments import Segments
from zs3.segmentation.table import segments_row
from zs3.tables import FAILURES, SEGMENTS

if TYPE_CHECKING:
    from ray.data import Dataset

    from zs3.inference.segment_exporter import SegmentExporter

DEFAULT_STORE = "compact"

TABLES = {"segments": SEGMENTS, "failures": FAILURES}
"""The tables of images that a segmenting run writes below its --out."""

MAX_IMAGES_PER_FILE = 128
"""Images in one file of segments: 5 MB in the compact store, 80 MB in the lossless one. One task of `name` reads one
file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentRequest(ImagesRequest):
    """The options of `zs3 segment` that define its tables."""

    masks: str | None = None
    """External masks instead of predicted ones: COCO JSON, label PNGs, or one folder per image, one PNG per mask."""
    store: str = DEFAULT_STORE
    """How segments are stored: compact, or lossless. With lossless, names equal those of `zs3 label` bit for bit."""


def describe_segment_exporter(checkpoint: str, store: str) -> dict[str, str]:
    """All that defines the segments of a checkpoint, part by part."""
    from zs3.checkpoint import load_checkpoint  # imports torch, which takes seconds
    from zs3.classification.provenance import segments_provenance

    return segments_provenance(load_checkpoint(checkpoint), store)


def load_segment_exporter(checkpoint: str, store: str, device: str) -> SegmentExporter:
    """The segment exporter of a checkpoint."""
    from zs3.inference.segment_exporter import load_segment_exporter as load

    return load(checkpoint, store, device)


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentExporterFactory:
    """How a run describes its exporter and loads it. Both functions are sent to other processes."""

    describe: Callable[[str, str], Mapping[str, str]] = describe_segment_exporter
    load: Callable[[str, str, str], SegmentExporter] = load_segment_exporter


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedSegment:
    """A request that was checked, and what it leaves to do."""

    request: SegmentRequest
    work: RemainingWork
    exporter_digest: str
    """Digest of the exporter; equals the run's where there are no external masks."""
    masks: ExternalMasks | None
    model: SegmentExporterFactory

    def image_run(self) -> ImageRun:
        """The run."""
        request, digest = self.request, self.work.target.digest
        read = read_with_masks if self.masks else read_and_decode
        return ImageRun(
            work=self.work,
            actor=SegmentActor,
            arguments=lambda actors: {
                "model": self.model,
                "checkpoint": request.checkpoint,
                "store": request.store,
                "run": digest,
                "exporter_digest": self.exporter_digest,
                "actors": actors,
            },
            read=functools.partial(read, max_pixels=request.max_pixels, run=digest, alpha=request.alpha),
            max_images_per_file=MAX_IMAGES_PER_FILE,
            masks=self.masks.of_image if self.masks else None,
        )

    def graph(self, execution: Execution) -> Callable[[Chunk], Dataset]:
        """See `run.PreparedRun`."""
        return functools.partial(image_graph, self.image_run(), execution)


def prepare_segment(request: SegmentRequest, model: SegmentExporterFactory | None = None) -> PreparedSegment:
    """Check a request and find what is left to do; reads, writes nothing.

    Raises:
        ValueError, FileNotFoundError: the images, masks, checkpoint, mask store or tables cannot be used as they are.
    """
    from zs3.config import digest_of
    from zs3.masks.store import mask_store

    mask_store(request.store)
    request.refuse_unusable()
    model = model or SegmentExporterFactory()
    parts = dict(model.describe(request.checkpoint, request.store))
    images = request.catalogue()
    exporter_digest, masks = digest_of(parts), None
    parts = with_alpha(parts, request.alpha)
    if request.masks is not None:
        ids = [image_id for batch in images.rows() for image_id in batch["image_id"].to_pylist()]
        masks = list_masks(request.masks, ids)
        parts["proposals"] = masks.digest
    digest = digest_of(parts)
    target = Target(
        out=request.out,
        results="segments",
        schema=SEGMENTS,
        provenance={
            "run": parts,
            "digest": digest,
            "checkpoint": request.checkpoint,
            "asked": stored_request("segment", request),
        },
        digest=digest,
        replace=request.replace,
    )
    work = remaining_work(images, target, retry_failures=request.retry_failures)
    return PreparedSegment(
        request=request, work=work, exporter_digest=exporter_digest, masks=masks, model=model
    )


def segment(
    request: SegmentRequest,
    execution: Execution | None = None,
    *,
    model: SegmentExporterFactory | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> RunResult:
    """Segment every image that has no segments yet, and commit tables as the run goes; as `label.label`."""
    return run_table(lambda: prepare_segment(request, model), execution, on_progress)


class SegmentActor:
    """One loaded model that turns batches of pixels, with external masks if any, into rows of segments and failures."""

    def __init__(
        self,
        *,
        model: SegmentExporterFactory,
        checkpoint: str,
        store: str,
        run: str,
        exporter_digest: str,
        actors: ActorPlan,
        journal_id: str | None = None,
    ) -> None:
        self._model = ModelThread(
            lambda device: model.load(checkpoint, store, device),
            origin=checkpoint,
            actors=actors,
            digest=exporter_digest,
        )
        self._runner = BatchRunner(results="segments", stage="segment", run=run, journal_id=journal_id)
        self._store, self._run = store, run

    def __call__(self, batch: pa.Table) -> pa.Table:
        """One row per image: its row of `segments`, or its row of `failures`."""
        return self._runner.table(batch, functools.partial(self._model.call, self._rows, batch), TABLES)

    def _rows(
        self,
        exporter: SegmentExporter,
        batch: pa.Table,
        images: Sequence[Image],
        indices: Sequence[int],
    ) -> list[Rows]:
        """The row of each of some images, each with its row number in the batch."""
        pictures = [picture_at(batch, index) for index in indices]
        if "masks" not in batch.column_names:
            segmented = exporter.segment(pictures)
            return [[self._row(image, *result)] for image, result in zip(images, segmented, strict=True)]
        rows: list[Rows] = []
        for image, picture, index in zip(images, pictures, indices, strict=True):
            # One by one: external masks have a cell for each pixel, up to a gigabyte for one picture.
            masks = unpack_masks(batch["masks"][index].as_py(), *picture.shape[:2])
            rows.append([self._row(image, *exporter.segment_with_masks(picture, masks))])
        return rows

    def _row(self, image: Image, segments: Segments, disagreement: float) -> dict[str, Any]:
        return segments_row(
            image["image_id"],
            image["uri"],
            segments,
            disagreement,
            self._run,
            store=self._store,
            etag=image["etag"],
        )
