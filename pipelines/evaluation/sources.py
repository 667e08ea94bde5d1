"""What an evaluation scores: a label table, a checkpoint, or a segments table; each as the same few things."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pipelines.evaluation.accumulator import EvaluationAccumulator
from pipelines.evaluation.from_checkpoint import (
    checkpoint_scores_graph,
    described_checkpoint,
    relabelled_images,
)
from pipelines.evaluation.from_segments import described_names, error_graph, renamed_segments
from pipelines.evaluation.ground_truth import Truth
from pipelines.evaluation.image_scores import image_scores_graph
from pipelines.evaluation.request import EvaluateRequest
from pipelines.execution import Execution
from pipelines.labelling.label import LabellerFactory
from pipelines.labelling.name import NameRequest, SegmentClassifierFactory
from pipelines.tables.label_table import Labels, failed_images, open_labels
from zs3.metrics import Protocol
from zs3.vocabulary import Vocabulary, load_vocabulary

if TYPE_CHECKING:
    import ray.data

Rows = list[dict[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One thing to score."""

    labels: Labels
    """Its labels, or what a table of them would say of itself."""
    graph: Callable[[Truth, Mapping[str, int]], ray.data.Dataset]
    """Split, and labelled name → class id of the data set, to the lazy dataset of sketches."""
    pictures: Callable[[Truth, Sequence[str], EvaluationAccumulator], Mapping[str, str | Rows]]
    """Image ids to the file that holds the labels of each, or its label rows; for the gallery."""
    failed: Callable[[], Iterator[pa.Table]]
    """Columns `image_id` and `message` of images that an earlier run is known to have failed on, some at a time."""
    outside: Callable[[Truth], Iterable[str]] = lambda truth: ()
    """Ids of images that the graph leaves out, because they are not in the split."""
    verb: str = "label"
    """What has to be done to an image before it can be scored."""
    done: str = "labelled"
    lost: str = "could not be labelled"
    """What is said of images that failed."""


def open_source(
    request: EvaluateRequest,
    vocabulary: Vocabulary,
    protocol: Protocol,
    model: LabellerFactory,
    names: SegmentClassifierFactory,
    execution: Execution,
) -> Source:
    """What the request asks to score.

    Args:
        vocabulary: of the data set.
        protocol: which pixels oracles count, where there are segments.
        model: how to come by a labeller. names: how to come by a classifier.

    Raises:
        FileNotFoundError, ValueError: it cannot be used as it is.
    """
    if request.labels is not None:
        return table_source(request.labels)
    named = load_vocabulary(request.classes) if request.classes else vocabulary
    if request.segments is not None:
        return segments_source(request, named, protocol, names, execution)
    assert request.checkpoint is not None
    return model_source(request.checkpoint, named, model, execution)


def table_source(labels: str) -> Source:
    """The labels of a table."""
    held = open_labels(labels)
    return Source(
        labels=held,
        graph=lambda truth, matches: image_scores_graph(held, truth, matches),
        pictures=lambda truth, ids, tally: tally.files(ids),
        failed=lambda: failed_images(labels),
        lost="are in the table of failures",
    )


def model_source(
    checkpoint: str, vocabulary: Vocabulary, model: LabellerFactory, execution: Execution
) -> Source:
    """The labels that a checkpoint gives to the images of the data set."""
    held, model = described_checkpoint(checkpoint, vocabulary, model)

    def pictures(truth: Truth, ids: Sequence[str], tally: EvaluationAccumulator) -> Mapping[str, Rows]:
        return relabelled_images(held, list(truth.find(ids).values()), model, execution)

    return Source(
        labels=held,
        graph=lambda truth, matches: checkpoint_scores_graph(held, truth, matches, model, execution),
        pictures=pictures,
        failed=lambda: iter(()),
    )


def segments_source(
    request: EvaluateRequest,
    vocabulary: Vocabulary,
    protocol: Protocol,
    model: SegmentClassifierFactory,
    execution: Execution,
) -> Source:
    """The labels that stored segments get, with where their error is as the protocol counts."""
    assert request.segments is not None
    segments = request.segments
    asked = NameRequest(
        segments=segments,
        classes=vocabulary.name,
        out=request.out,
        checkpoint=request.checkpoint,
        naming=request.naming,
        settings=request.settings,
    )
    held = described_names(asked, vocabulary, model)
    return Source(
        labels=held.labels,
        graph=lambda truth, matches: error_graph(held, truth, matches, protocol, execution),
        pictures=lambda truth, ids, tally: renamed_segments(held, ids, execution),
        failed=lambda: failed_images(segments),
        outside=lambda truth: truth.not_in_split(held.ids()),
        verb="segment",
        done="segmented",
        lost="could not be segmented or named",
    )
