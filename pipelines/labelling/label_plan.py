"""What a labelling run would do: the request, the labeller's description, and the images still to be
labelled.

All of it is cheap and writes nothing, so that whatever is wrong with a request is said before anything
starts.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pipelines.labelling.class_lists import ClassNames, warn_of_confusable
from pipelines.runs.catalogue import catalogue_of
from pipelines.runs.resume import Remaining, Target, asked, remaining
from zs3.images.codec import DEFAULT_MAX_PIXELS
from zs3.tables import FAILURES, LABELS
from zs3.vocabulary import Vocabulary, load_vocabulary

TABLES = {"labels": LABELS, "failures": FAILURES}
"""What a labelling run leaves below its --out."""


class LabellerProtocol(Protocol):
    """What labels pictures; `zs3.inference.labeller.LabellerProtocol` in earnest."""

    seen: dict[int, bool]
    digest: str

    def label(
        self, pictures: Sequence[NDArray[np.uint8]], /
    ) -> Sequence[tuple[NDArray[np.integer], Mapping[int, float]]]:
        """(H, W, 3) uint8 pictures → (H, W) class ids, and a score for each class that occurs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """What is known of a labeller before its network is loaded."""

    digest: str
    """Of all that defines a label."""
    provenance: Mapping[str, str]
    """The parts of the digest, by name."""
    seen: Mapping[int, bool]
    """Class id → whether the checkpoint had masks of the class."""
    names: Callable[[], ClassNames] | None = field(default=None, compare=False)
    """Embeds and checks the class names, for `LabellerFactory.load`; none where a labeller has none to embed."""


def describe_labeller(checkpoint: str, vocabulary: Vocabulary) -> ModelInfo:
    """The description of a checkpoint of zs3 with this vocabulary.

    Raises:
        ValueError: there is no such checkpoint, or it is none of ours.
    """
    import torch  # takes seconds, so only when it is time

    from zs3.checkpoint import load_checkpoint
    from zs3.classification.classifier import SegmentClassifier
    from zs3.classification.provenance import provenance
    from zs3.config import digest_of
    from zs3.vocabulary import known

    held = load_checkpoint(checkpoint)
    parts = provenance(held, vocabulary)
    seen = {entry.id: known(entry, held.seen_concepts) for entry in vocabulary.candidates}

    def names() -> SegmentClassifier:
        classifier = SegmentClassifier(held, vocabulary, device=torch.device("cpu"))
        warn_of_confusable(classifier)
        return classifier

    return ModelInfo(digest=digest_of(parts), provenance=parts, seen=seen, names=names)


def load_labeller(
    checkpoint: str, vocabulary: Vocabulary, device: str, names: Any = None
) -> LabellerProtocol:
    """The labeller of a checkpoint of zs3, loaded.

    Args:
        names: what the description's `names` gave, so that no name is embedded again.
    """
    from zs3.inference.labeller import load_labeller as load

    return load(checkpoint, vocabulary, device, names)


@dataclass(frozen=True, slots=True, kw_only=True)
class LabellerFactory:
    """The two ways to a labeller; both travel to other processes, so closures do, instances need not."""

    describe: Callable[[str, Vocabulary], ModelInfo] = describe_labeller
    load: Callable[..., LabellerProtocol] = load_labeller
    """Checkpoint, vocabulary, device, and `names` where the description has them → the labeller."""

    def with_names(self, description: ModelInfo) -> LabellerFactory:
        """This model with its class names embedded here, once for all labellers.

        Raises:
            ValueError: two classes cannot be told apart at all.
        """
        if description.names is None:
            return self
        return replace(self, load=functools.partial(self.load, names=description.names()))


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelRequest:
    """What to label, with what, to where."""

    images: str
    """Folder, glob, text file of uris, or Parquet table with a column `uri`."""
    classes: str
    """Shipped class list, or a file."""
    checkpoint: str
    """Shipped name, folder or uri."""
    out: str
    """Folder or uri that gets the tables `labels` and `failures`."""
    limit: int | None = None
    """Images to take from the listing; none takes all."""
    max_pixels: int = DEFAULT_MAX_PIXELS
    """Pictures of more pixels than this become failures."""
    retry_failures: bool = False
    """Process the images that failed before, and only these."""
    replace: bool = False
    """Start a new version of tables that are of another run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelPlan:
    """What a run would do."""

    request: LabelRequest
    vocabulary: Vocabulary
    description: ModelInfo
    left: Remaining
    """What is to be done."""

    @property
    def target(self) -> Target:
        """The tables that the run adds to."""
        return _target(self.request, self.vocabulary, self.description)


def plan_label(request: LabelRequest, model: LabellerFactory | None = None) -> LabelPlan:
    """What `label` would do; reads, writes nothing.

    Raises:
        ValueError, FileNotFoundError: the images, class list, checkpoint or tables cannot be used as they
        are.
    """
    if request.max_pixels < 1:
        raise ValueError(f"max_pixels is {request.max_pixels}; expected at least 1")
    vocabulary = load_vocabulary(request.classes)
    images = catalogue_of(request.images, request.limit)
    description = (model or LabellerFactory()).describe(request.checkpoint, vocabulary)
    left = remaining(images, _target(request, vocabulary, description), retry_failures=request.retry_failures)
    return LabelPlan(request=request, vocabulary=vocabulary, description=description, left=left)


def _target(request: LabelRequest, vocabulary: Vocabulary, description: ModelInfo) -> Target:
    return Target(
        out=request.out,
        results="labels",
        schema=LABELS,
        provenance=label_provenance(description, request.checkpoint, vocabulary)
        | {"asked": asked("label", request)},
        digest=description.digest,
        replace=request.replace,
    )


def label_provenance(description: ModelInfo, checkpoint: str, vocabulary: Vocabulary) -> dict[str, Any]:
    """What a label table says of itself; `run` must agree between runs into the same table."""
    return {
        "run": dict(description.provenance),
        "digest": description.digest,
        "checkpoint": checkpoint,
        "vocabulary": vocabulary.to_json(),
        "seen": {str(class_id): seen for class_id, seen in description.seen.items()},
    }
