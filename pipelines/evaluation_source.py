"""What an evaluation scores: a label table, a checkpoint, or a segments table; each as the same few things."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipelines.evaluate_model import described_labels, labelled_again, model_sketch_graph
from pipelines.evaluate_segments import described_names, error_graph, named_again
from pipelines.evaluation_request import EvaluateRequest
from pipelines.execution import Execution
from pipelines.label_plan import Model
from pipelines.labels import Labels, failure_reasons, open_labels
from pipelines.name_plan import NameModel, NameRequest
from pipelines.sketches import Tally, sketch_graph
from zs3.datasets import Dataset
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
    graph: Callable[[Mapping[str, int]], ray.data.Dataset]
    """Labelled name → class id of the data set, to the lazy dataset of sketches."""
    pictures: Callable[[Sequence[str], Tally], Mapping[str, str | Rows]]
    """Image ids to the file that holds the labels of each, or its label rows; for the gallery."""
    failed: Callable[[], Mapping[str, str]]
    """Ids of images that an earlier run is known to have failed on, each with what was wrong."""
    outside: tuple[str, ...] = ()
    """Ids of images that the graph leaves out, because they are not in the split."""
    verb: str = "label"
    """What has to be done to an image before it can be scored."""
    done: str = "labelled"
    lost: str = "could not be labelled"
    """What is said of images that failed."""


def open_source(
    request: EvaluateRequest,
    dataset: Dataset,
    protocol: Protocol,
    model: Model,
    names: NameModel,
    execution: Execution,
) -> Source:
    """What the request asks to score.

    Args:
        protocol: which pixels oracles count, where there are segments.
        model: how to come by a labeller. names: how to come by a namer.

    Raises:
        FileNotFoundError, ValueError: it cannot be used as it is.
    """
    if request.labels is not None:
        return table_source(request.labels, dataset)
    vocabulary = load_vocabulary(request.classes) if request.classes else dataset.vocabulary
    if request.segments is not None:
        return segments_source(request, vocabulary, dataset, protocol, names, execution)
    assert request.checkpoint is not None
    return model_source(request.checkpoint, vocabulary, dataset, model, execution)


def table_source(labels: str, dataset: Dataset) -> Source:
    """The labels of a table."""
    held = open_labels(labels)
    return Source(
        labels=held,
        graph=lambda matches: sketch_graph(held, dataset, matches),
        pictures=lambda ids, tally: {image_id: tally.scored[image_id]["file"] for image_id in ids},
        failed=lambda: failure_reasons(labels),
        lost="are in the table of failures",
    )


def model_source(
    checkpoint: str, vocabulary: Vocabulary, dataset: Dataset, model: Model, execution: Execution
) -> Source:
    """The labels that a checkpoint gives to the images of the data set."""
    held, model = described_labels(checkpoint, vocabulary, model)

    def pictures(ids: Sequence[str], tally: Tally) -> Mapping[str, Rows]:
        return labelled_again(held, [ref for ref in dataset.refs if ref.id in ids], model, execution)

    return Source(
        labels=held,
        graph=lambda matches: model_sketch_graph(held, dataset, matches, model, execution),
        pictures=pictures,
        failed=dict,
    )


def segments_source(
    request: EvaluateRequest,
    vocabulary: Vocabulary,
    dataset: Dataset,
    protocol: Protocol,
    model: NameModel,
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
        graph=lambda matches: error_graph(held, dataset, matches, protocol, execution),
        pictures=lambda ids, tally: named_again(held, ids, execution),
        failed=lambda: failure_reasons(segments),
        outside=tuple(sorted(held.image_ids - {ref.id for ref in dataset.refs})),
        verb="segment",
        done="segmented",
        lost="could not be segmented or named",
    )
