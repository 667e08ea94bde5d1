"""What an evaluation scores: a label table (here), a checkpoint, or stored segments, all behind one interface."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pipelines.evaluation.accumulator import EvaluationAccumulator
from pipelines.evaluation.ground_truth import Truth
from pipelines.evaluation.image_scores import score_table_images
from pipelines.labelling.label import ModelInfo
from pipelines.tables.label_table import (
    Labels,
    failed_images,
    label_rows_graph,
    listed_masks,
    open_labels,
)
from zs3.vocabulary import Vocabulary

if TYPE_CHECKING:
    import ray.data

Rows = list[dict[str, Any]]


class Source(ABC):
    """Something to score.

    Attributes:
        labels: its label table, or the description that a table of its labels would have.
        verb, done, failed: how messages speak of it.
    """

    labels: Labels
    verb, done, failed = "label", "labelled", "could not be labelled"

    @abstractmethod
    def graph(self, truth: Truth, matches: Mapping[str, int]) -> ray.data.Dataset:
        """The lazy dataset of `IMAGE_SCORES`.

        Args:
            matches: labelled name -> class id of the data set, or `UNKNOWN`.
        """

    @abstractmethod
    def gallery_labels(
        self, truth: Truth, ids: Sequence[str], accumulator: EvaluationAccumulator
    ) -> Mapping[str, str | Rows]:
        """Image id -> the file that holds its labels, or its label rows, of a few images."""

    def failures(self) -> Iterator[pa.Table]:
        """Columns `image_id` and `message` of the images that an earlier run failed on, some at a time."""
        return iter(())

    def outside(self, truth: Truth) -> Iterable[str]:
        """Ids of images that the graph leaves out, because they are not in the split."""
        return ()


class LabelTableSource(Source):
    """The labels of a table.

    Raises:
        FileNotFoundError, ValueError: the table cannot be used.
    """

    failed = "are in the table of failures"

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self.labels = open_labels(uri)

    def graph(self, truth: Truth, matches: Mapping[str, int]) -> ray.data.Dataset:
        return label_rows_graph(self.labels.files).map_batches(
            functools.partial(score_table_images, truth=truth, matches=matches),
            batch_size=None,
            batch_format="pyarrow",
        )

    def gallery_labels(
        self, truth: Truth, ids: Sequence[str], accumulator: EvaluationAccumulator
    ) -> Mapping[str, str | Rows]:
        return accumulator.files(ids)

    def failures(self) -> Iterator[pa.Table]:
        return failed_images(self._uri)


def in_memory_labels(model: ModelInfo, vocabulary: Vocabulary, made_of: Mapping[str, Any]) -> Labels:
    """The description of labels that are scored without being written.

    Args:
        model: that labels.
        vocabulary: to label with.
        made_of: further provenance, such as where the checkpoint lies.
    """
    return Labels(
        uri=None,
        version=None,
        files=(),
        rows=0,
        runs=(model.digest,),
        seen={entry.name: model.seen[entry.id] for entry in vocabulary.candidates},
        trained=model.trained,
        listed=listed_masks(vocabulary, model.seen),
        ids={entry.name: entry.id for entry in vocabulary.candidates},
        vocabulary=vocabulary,
        provenance={"run": dict(model.provenance), "digest": model.digest, **made_of},
    )


def labels_by_image(graph: ray.data.Dataset) -> dict[str, Rows]:
    """Image id -> label rows, of the few images of a labelling graph that did not fail."""
    labelled = (row["labels"] for row in graph.iter_rows() if row["labels"])
    return {rows[0]["image_id"]: rows for rows in labelled}
