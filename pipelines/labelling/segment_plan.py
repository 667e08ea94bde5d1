"""What a segmenting run would do: the request, the exporter's description, and the images still to be segmented."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pipelines.labelling.external_masks import Proposals, list_proposals
from pipelines.runs.catalogue import catalogue_of
from pipelines.runs.resume import Remaining, Target, asked, remaining
from zs3.images.codec import DEFAULT_MAX_PIXELS
from zs3.segmentation.segments import Segments
from zs3.tables import SEGMENTS

DEFAULT_STORE = "compact"


class SegmentExporterProtocol(Protocol):
    """What groups pictures; `zs3.inference.segment_exporter.SegmentExporterProtocol` in earnest."""

    digest: str

    def segment(self, pictures: Sequence[NDArray[np.uint8]], /) -> Sequence[tuple[Segments, float]]:
        """(H, W, 3) uint8 pictures → the segments of each, and how far its branches disagree."""

    def segment_with_masks(
        self, picture: NDArray[np.uint8], given: NDArray[np.int8], /
    ) -> tuple[Segments, float]:
        """The same of one picture with (G, H, W) int8 logits of given masks instead of its own."""


def describe_segment_exporter(checkpoint: str, store: str) -> dict[str, str]:
    """What defines the segments of a checkpoint of zs3, part by part.

    Raises:
        ValueError: there is no such checkpoint, or it makes no segments, or there is no such mask store.
    """
    from zs3.checkpoint import load_checkpoint  # with torch, which takes seconds, so only when it is time
    from zs3.classification.provenance import segments_provenance

    return segments_provenance(load_checkpoint(checkpoint), store)


def load_segment_exporter(checkpoint: str, store: str, device: str) -> SegmentExporterProtocol:
    """The exporter of a checkpoint of zs3, loaded."""
    from zs3.inference.segment_exporter import load_segment_exporter as load

    return load(checkpoint, store, device)


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentExporterFactory:
    """The two ways to an exporter; both travel to other processes, so closures do, instances need not."""

    describe: Callable[[str, str], Mapping[str, str]] = describe_segment_exporter
    load: Callable[[str, str, str], SegmentExporterProtocol] = load_segment_exporter


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentRequest:
    """What to segment, with what, to where."""

    images: str
    """Folder, glob, text file of uris, or Parquet table with a column `uri`."""
    checkpoint: str
    """Shipped name, folder or uri."""
    out: str
    """Folder or uri that gets the tables `segments` and `failures`."""
    masks: str | None = None
    """COCO's JSON or a folder of PNGs: masks to embed instead of the network's own
    (`pipelines.labelling.external_masks`)."""
    store: str = DEFAULT_STORE
    """How segments are kept: a name in `zs3.masks.store.STORES`."""
    limit: int | None = None
    """Images to take from the listing; none takes all."""
    max_pixels: int = DEFAULT_MAX_PIXELS
    """Pictures of more pixels than this become failures."""
    retry_failures: bool = False
    """Process the images that failed before, and only these."""
    replace: bool = False
    """Start a new version of tables that are of another run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentPlan:
    """What a run would do."""

    request: SegmentRequest
    target: Target
    left: Remaining
    exporter: str
    """Digest of the exporter, which is the run's where no masks are given."""
    proposals: Proposals | None
    """The given masks."""


def plan_segment(request: SegmentRequest, model: SegmentExporterFactory | None = None) -> SegmentPlan:
    """What `segment` would do; reads, writes nothing.

    Raises:
        ValueError, FileNotFoundError: the images, masks, checkpoint, mask store or tables cannot be used as they are.
    """
    from zs3.config import digest_of
    from zs3.masks.store import mask_store

    if request.max_pixels < 1:
        raise ValueError(f"max_pixels is {request.max_pixels}; expected at least 1")
    mask_store(request.store)
    images = catalogue_of(request.images, request.limit)
    parts = dict((model or SegmentExporterFactory()).describe(request.checkpoint, request.store))
    exporter, proposals = digest_of(parts), None
    if request.masks is not None:
        ids = [image_id for batch in images.rows() for image_id in batch["image_id"].to_pylist()]
        proposals = list_proposals(request.masks, ids)
        parts["proposals"] = proposals.digest
    digest = digest_of(parts)
    target = Target(
        out=request.out,
        results="segments",
        schema=SEGMENTS,
        provenance={
            "run": parts,
            "digest": digest,
            "checkpoint": request.checkpoint,
            "asked": asked("segment", request),
        },
        digest=digest,
        replace=request.replace,
    )
    return SegmentPlan(
        request=request,
        target=target,
        left=remaining(images, target, retry_failures=request.retry_failures),
        exporter=exporter,
        proposals=proposals,
    )
