"""`zs3 label`: the request, the images that remain, and the graph that processes them.

    images ─► read_and_decode (CPU tasks) ─► LabelActor (one model each) ─► write_tables (tasks) ─► commits
    (driver)

Class names are embedded and checked once, on the driver, and sent to the actors.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.execution import ActorPlan, Execution
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
from zs3.images.codec import Alpha
from zs3.label_rows import label_rows
from zs3.tables import FAILURES, LABELS, PANOPTIC_LABELS
from zs3.text.confusable import confusable_warnings
from zs3.vocabulary import Vocabulary, load_vocabulary
from zs3.wording import printable, redacted

if TYPE_CHECKING:
    from ray.data import Dataset

    from zs3.classification.classifier import SegmentClassifier
    from zs3.config import NamingSettings
    from zs3.inference.labeller import Labeller, PixelLabeller

logger = logging.getLogger(__name__)

TABLES = {"labels": LABELS, "failures": FAILURES}
"""The tables of images that a labelling run writes below its --out."""

MAX_IMAGES_PER_FILE = 1024
"""Images in one file of labels, which then takes some megabytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelRequest(ImagesRequest):
    """The options of `zs3 label` that define its tables."""

    classes: str
    """Class list: a shipped name such as voc or ade20k_150, or a .txt or .json file."""
    allow_confusable: bool = False
    """Run although two classes have the same embedding, so that one of them gets the segments of both."""
    panoptic: bool = False
    """Make panoptic maps, in which things are instances of their own: a row for each, with its instance_id. The class
    list has to say which classes are things. By default what the checkpoint's naming settings say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """What is known about a labeller before its network is loaded."""

    digest: str
    """Of all that defines a label."""
    provenance: Mapping[str, str]
    """The parts of the digest, by name."""
    seen: Mapping[int, bool]
    """Class id → whether the checkpoint had masks of the class and the class list does not mark it unseen."""
    trained: frozenset[str] | None = None
    """Concepts (`zs3.vocabulary.concept`) that the checkpoint had masks of; None where that is not known."""
    names: Callable[[bool], SegmentClassifier] | None = field(default=None, compare=False)
    """Embeds and checks the class names, for `LabellerFactory.load`; None where a labeller embeds no names. Its
    argument is whether two classes may have the same embedding."""
    schema: pa.Schema = LABELS
    """Of the table that its labels go to."""


def describe_labeller(checkpoint: str, vocabulary: Vocabulary, *, panoptic: bool = False) -> ModelInfo:
    """What is known about a checkpoint with this vocabulary, with panoptic maps if so wished."""
    import torch  # imports that take seconds wait until a request needs them

    from zs3.checkpoint import load_checkpoint
    from zs3.classification.classifier import SegmentClassifier
    from zs3.classification.provenance import provenance
    from zs3.config import digest_of

    loaded = load_checkpoint(checkpoint)
    naming = replace(loaded.recipe.naming, output="panoptic") if panoptic else loaded.recipe.naming
    parts = provenance(loaded, vocabulary, naming=naming)
    seen = loaded.seen(vocabulary.candidates)

    def names(allow_confusable: bool) -> SegmentClassifier:
        classifier = SegmentClassifier(loaded, vocabulary, naming, device=torch.device("cpu"))
        warn_about_confusable(classifier, allow_confusable)
        return classifier

    return ModelInfo(
        digest=digest_of(parts), provenance=parts, seen=seen, trained=loaded.trained_concepts, names=names,
        schema=label_schema(naming),
    )  # fmt: skip


def load_labeller(
    checkpoint: str, vocabulary: Vocabulary, device: str, names: SegmentClassifier | None = None
) -> Labeller | PixelLabeller:
    """The labeller of a checkpoint; `names` are embedded class names, which are then not embedded again."""
    from zs3.inference.labeller import load_labeller as load

    return load(checkpoint, vocabulary, device, names)


def warn_about_confusable(names: SegmentClassifier, allow_confusable: bool) -> None:
    """Warn about names that cannot be read and classes that are hard to tell apart.

    Raises:
        ValueError: two have the same embedding, and `allow_confusable` is off.
    """
    pairs = functools.partial(names.confusable, allow_identical=allow_confusable)
    for lines in (names.unread_names, lambda: confusable_warnings(pairs())):
        for line in lines():
            logger.warning("zs3: warning: %s", printable(redacted(line)))


@dataclass(frozen=True, slots=True, kw_only=True)
class LabellerFactory:
    """How a run describes its labeller and loads it. Both functions are sent to other processes."""

    describe: Callable[..., ModelInfo] = describe_labeller
    """Checkpoint, vocabulary, and `panoptic` where that is wished → what is known."""
    load: Callable[..., Labeller | PixelLabeller] = load_labeller
    """Checkpoint, vocabulary, device, and `names` where `ModelInfo` has them → the labeller."""

    def with_names(self, info: ModelInfo, *, allow_confusable: bool = False) -> LabellerFactory:
        """This factory with the class names embedded now, once for all labellers."""
        if info.names is None:
            return self
        return replace(self, load=functools.partial(self.load, names=info.names(allow_confusable)))


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedLabel:
    """A request that was checked, and what it leaves to do."""

    request: LabelRequest
    vocabulary: Vocabulary
    info: ModelInfo
    """Of the labeller, with the digest of the run."""
    labeller_digest: str
    model: LabellerFactory
    work: RemainingWork

    def image_run(self) -> ImageRun:
        """The run; embeds the class names, once for all actors."""
        model = self.model.with_names(self.info, allow_confusable=self.request.allow_confusable)
        digest = self.info.digest
        return ImageRun(
            work=self.work,
            actor=LabelActor,
            arguments=lambda actors: {
                "model": model,
                "checkpoint": self.request.checkpoint,
                "vocabulary": self.vocabulary,
                "run": digest,
                "schema": self.info.schema,
                "labeller_digest": self.labeller_digest,
                "actors": actors,
            },
            read=functools.partial(
                read_and_decode, max_pixels=self.request.max_pixels, run=digest, alpha=self.request.alpha
            ),
            max_images_per_file=MAX_IMAGES_PER_FILE,
        )

    def graph(self, execution: Execution) -> Callable[[Chunk], Dataset]:
        """See `run.PreparedRun`."""
        return functools.partial(image_graph, self.image_run(), execution)


def prepare_label(request: LabelRequest, model: LabellerFactory | None = None) -> PreparedLabel:
    """Check a request and find what is left to do; reads, writes nothing.

    Raises:
        ValueError, FileNotFoundError: the images, class list, checkpoint or tables cannot be used as they are.
    """
    vocabulary = load_vocabulary(request.classes)
    request.refuse_unusable()
    model = model or LabellerFactory()
    labeller = model.describe(
        request.checkpoint, vocabulary, **({"panoptic": True} if request.panoptic else {})
    )
    info = info_with_alpha(labeller, request.alpha)
    images = request.catalogue()
    target = Target(
        out=request.out,
        results="labels",
        schema=info.schema,
        provenance=label_provenance(info, request.checkpoint, vocabulary)
        | {"asked": stored_request("label", request)},
        digest=info.digest,
        replace=request.replace,
    )
    work = remaining_work(images, target, retry_failures=request.retry_failures)
    return PreparedLabel(
        request=request,
        vocabulary=vocabulary,
        info=info,
        labeller_digest=labeller.digest,
        model=model,
        work=work,
    )


def label_schema(naming: NamingSettings) -> pa.Schema:
    """The schema of the label rows that these settings make."""
    return PANOPTIC_LABELS if naming.output == "panoptic" else LABELS


def info_with_alpha(info: ModelInfo, alpha: Alpha) -> ModelInfo:
    """What is known about the labels of a labeller that sees pictures without their transparency."""
    from zs3.config import digest_of

    parts = with_alpha(info.provenance, alpha)
    return info if parts == info.provenance else replace(info, provenance=parts, digest=digest_of(parts))


def label_provenance(info: ModelInfo, checkpoint: str, vocabulary: Vocabulary) -> dict[str, Any]:
    """What a label table records about its making; `run` must agree between runs into the same table."""
    return {
        "run": dict(info.provenance),
        "digest": info.digest,
        "checkpoint": checkpoint,
        "vocabulary": vocabulary.to_json(),
        "seen": {str(class_id): seen for class_id, seen in info.seen.items()},
        "trained": None if info.trained is None else sorted(info.trained),
        "score": "probability",
    }


def label(
    request: LabelRequest,
    execution: Execution | None = None,
    *,
    model: LabellerFactory | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> RunResult:
    """Label every image that has no labels yet, and commit tables as the run goes.

    Args:
        model: replaces the labeller; for tests.
        execution, on_progress, and all that is raised: see `run.run_table`.
    """
    return run_table(lambda: prepare_label(request, model), execution, on_progress)


class LabelActor:
    """One loaded model that turns batches of pixels into rows of `labels` and `failures`."""

    def __init__(
        self,
        *,
        model: LabellerFactory,
        checkpoint: str,
        vocabulary: Vocabulary,
        run: str,
        schema: pa.Schema = LABELS,
        labeller_digest: str | None = None,
        actors: ActorPlan,
        journal_id: str | None = None,
    ) -> None:
        self._model = ModelThread(
            lambda device: model.load(checkpoint, vocabulary, device),
            origin=checkpoint,
            actors=actors,
            digest=labeller_digest or run,
        )
        self._runner = BatchRunner(results="labels", stage="label", run=run, journal_id=journal_id)
        self._vocabulary, self._run = vocabulary, run
        self._schemas = TABLES | {"labels": schema}

    def __call__(self, batch: pa.Table) -> pa.Table:
        """One row per image: its rows of `labels`, or its row of `failures`."""
        rows_of = functools.partial(self._model.call, self._rows, batch)
        return self._runner.table(batch, rows_of, self._schemas)

    def _rows(
        self,
        labeller: Labeller | PixelLabeller,
        batch: pa.Table,
        images: Sequence[Image],
        indices: Sequence[int],
    ) -> list[Rows]:
        """The label rows of some images, each with its row number in the batch."""
        pictures = [picture_at(batch, index) for index in indices]
        labelled = labeller.label(pictures)
        for picture, (label_map_HW, _) in zip(pictures, labelled, strict=True):
            if label_map_HW.shape != picture.shape[:2]:
                raise ValueError(f"label map has shape {label_map_HW.shape}, its picture {picture.shape[:2]}")
        return [
            rows_of_map(
                image, label_map_HW, scores, seen=labeller.seen, vocabulary=self._vocabulary, run=self._run
            )
            for image, (label_map_HW, scores) in zip(images, labelled, strict=True)
        ]


def rows_of_map(
    image: Image,
    label_map_HW: NDArray[np.integer],
    scores: Mapping[int, float],
    *,
    seen: Mapping[int, bool],
    vocabulary: Vocabulary,
    run: str,
) -> Rows:
    """The label rows of one image, whose label map holds class ids of a vocabulary."""
    return label_rows(
        image["image_id"],
        image["uri"],
        label_map_HW,
        {entry.id: entry.name for entry in vocabulary.candidates},
        seen,
        scores,
        run,
        ignore_id=vocabulary.ignore_id,
        etag=image.get("etag", ""),
    )
