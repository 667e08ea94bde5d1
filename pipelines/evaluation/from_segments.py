"""Scoring a segments table: each image is named, scored, and scored again with oracles; no label is written.

files of the segments table ─► read_segments (tasks) ─► ErrorActor (text banks, truth) ─► driver

The same classifier and the same sketches as naming first and scoring the table: the same numbers. No picture is opened
but those of the gallery, and no GPU is used.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.evaluation.ground_truth import Truth
from pipelines.evaluation.image_scores import IMAGE_SCORES, failed_image_scores, scores_of_image
from pipelines.evaluation.in_memory_labels import in_memory_labels
from pipelines.execution import Execution
from pipelines.labelling.label import rows_of_map
from pipelines.labelling.name import (
    NameActor,
    NameRequest,
    SegmentClassifierFactory,
)
from pipelines.labelling.segments_table import segments_graph, stored_segments
from pipelines.labelling.tuned_settings import refuse_other_weights, tuned_settings
from pipelines.runs.rows import BatchRunner, Rows
from pipelines.tables.delta_reader import provenance_of
from pipelines.tables.label_table import Labels
from zs3.evaluation.oracles import candidates, error_split
from zs3.metrics import Confusion, Protocol
from zs3.segmentation.segments import Segments
from zs3.segmentation.table import segments_at
from zs3.tables import LABELS
from zs3.vocabulary import Vocabulary

if TYPE_CHECKING:
    import ray.data

    from zs3.classification.classifier import SegmentClassifier


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedSegments:
    """A segments table at one version, and what a table of its labels would say of itself."""

    files: tuple[str, ...]
    ids: Callable[[], Iterator[pa.Table]]
    """A column `image_id`, some rows at a time."""
    labels: Labels
    classifier: Callable[[], SegmentClassifier]
    """Encodes the text banks, the first time it is called."""


def described_names(
    request: NameRequest, vocabulary: Vocabulary, model: SegmentClassifierFactory
) -> NamedSegments:
    """The segments of a request and their labels to be.

    Args:
        request: what would be named; where to does not matter.
        vocabulary: to name with, in the place of the request's class list.

    Raises:
        FileNotFoundError, ValueError: the segments, checkpoint or settings cannot be used as they are.
    """
    uri, table = stored_segments(request.segments)
    held = provenance_of(table)
    checkpoint = request.checkpoint or held["checkpoint"]
    tuned = tuned_settings(request.settings, request.naming)
    naming = tuned.changes if tuned else request.naming
    description = model.describe(checkpoint, vocabulary, naming, held["run"])
    if tuned:
        refuse_other_weights(tuned, request.settings, description.provenance.get("checkpoint"))
    rows = table.to_pyarrow_dataset()
    if not rows.count_rows():
        raise ValueError(f"segments table {uri} is empty; did the segmenting run fail for every image?")
    labels = in_memory_labels(
        description,
        vocabulary,
        {
            "checkpoint": checkpoint,
            "segments": {"uri": uri, "version": table.version()},
            "naming": dict(naming),
            **({"tuning": dict(tuned.tuned_on)} if tuned else {}),
        },
    )
    return NamedSegments(
        files=tuple(sorted(table.file_uris())),
        ids=lambda: (pa.Table.from_batches([ids]) for ids in rows.scanner(columns=["image_id"]).to_batches()),
        labels=labels,
        classifier=functools.cache(functools.partial(model.load, checkpoint, vocabulary, naming)),
    )


def error_graph(
    held: NamedSegments,
    truth: Truth,
    matches: Mapping[str, int],
    protocol: Protocol,
    execution: Execution,
) -> ray.data.Dataset:
    """The lazy dataset of one sketch, with oracles, per image of the data set that has segments."""
    more = {"truth": truth, "matches": matches, "protocol": protocol}
    return segments_graph(held.files, truth, ErrorActor, _classifier(held) | more, execution)


def renamed_segments(
    held: NamedSegments, image_ids: Sequence[str], execution: Execution
) -> dict[str, list[dict[str, Any]]]:
    """The label rows of a few images, for pictures of them: image id -> rows."""
    found = {}
    if image_ids:
        graph = segments_graph(held.files, frozenset(image_ids), NameActor, _classifier(held), execution)
        for row in graph.iter_rows():
            if row["labels"]:
                found[row["labels"][0]["image_id"]] = row["labels"]
    return found


class ErrorActor:
    """Turns batches of segments into sketches of their labels, each with the confusions of its oracles.

    Args:
        classifier: names.
        vocabulary: that it names with.
        run: digest of the labels.
        truth: the split.
        matches: labelled name -> class id of the data set, or `UNKNOWN`.
        protocol: which pixels oracles count.
        threads: of torch.

    Raises:
        RuntimeError: naming fails for every image.
    """

    def __init__(
        self,
        *,
        classifier: SegmentClassifier,
        vocabulary: Vocabulary,
        run: str,
        truth: Truth,
        matches: Mapping[str, int],
        protocol: Protocol,
        threads: int,
    ) -> None:
        import torch

        torch.set_num_threads(threads)
        self._classifier, self._vocabulary, self._run = classifier, vocabulary, run
        self._truth, self._matches, self._protocol = truth, matches, protocol
        self._candidates = candidates(
            classifier.entries, classifier.seen, matches, truth.vocabulary, protocol
        )
        self._index = {entry.id: index for index, entry in enumerate(classifier.entries)} | {
            vocabulary.ignore_id: -1
        }
        self._guard = BatchRunner(results="sketches", stage="name", run=run)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """One row per image, in the schema of sketches."""
        images = batch.select(["image_id", "uri"]).to_pylist()
        outcomes = self._guard.outcomes(images, range(batch.num_rows), functools.partial(self._rows, batch))
        rows = [
            held["sketches"][0] if "sketches" in held else failed_image_scores(held["failures"][0])
            for held in outcomes
        ]
        return pa.Table.from_pylist(rows, schema=IMAGE_SCORES)

    def _rows(self, batch: pa.Table, images: Sequence[Mapping[str, Any]], rows: Sequence[int]) -> list[Rows]:
        """The sketch of each of some images, each with its row in the batch."""
        return [
            [self._sketch(image, segments_at(batch, row))] for image, row in zip(images, rows, strict=True)
        ]

    def _sketch(self, image: Mapping[str, Any], segments: Segments) -> dict[str, Any]:
        """The row of one image."""
        label_map_HW, scores = self._classifier.name(segments)
        rows = rows_of_map(
            image,
            label_map_HW,
            scores,
            seen=self._classifier.seen,
            vocabulary=self._vocabulary,
            run=self._run,
        )
        # A label table holds scores as 32-bit floats; a report of these labels must not differ by the rest.
        stored = pa.Table.from_pylist(rows, schema=LABELS).to_pylist()
        return scores_of_image(
            {"image_id": image["image_id"], "file": "", "rows": stored},
            self._truth.find([image["image_id"]]).get(image["image_id"]),
            self._truth,
            self._matches,
            functools.partial(self._oracles, segments, label_map_HW),
        )

    def _oracles(
        self, segments: Segments, label_map_HW: NDArray[np.integer], truth_HW: NDArray[np.integer]
    ) -> dict[str, Confusion]:
        """The oracles' confusions of one image."""
        ids, places = np.unique(label_map_HW, return_inverse=True)
        index = np.array([self._index[class_id] for class_id in ids.tolist()], np.int64)
        return error_split(
            segments,
            self._classifier.scores(segments),
            index[places.reshape(label_map_HW.shape)],
            truth_HW,
            self._candidates,
            self._classifier.settings,
            self._truth.vocabulary,
            self._protocol,
        )


def _classifier(held: NamedSegments) -> dict[str, Any]:
    """What an actor that names is made with."""
    (run,) = held.labels.runs
    return {"classifier": held.classifier(), "vocabulary": held.labels.vocabulary, "run": run}
