"""Scoring a segments table: each image is named, scored, and scored again with oracles; no label is written.

    files of the segments table ─► read_segments (tasks) ─► ScoringActor (text banks, truth) ─► driver

The classifier and the score rows are those of naming first and scoring the table: the same numbers. Only the
photographs of the gallery are opened, and no GPU is used.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.evaluation.accumulator import EvaluationAccumulator
from pipelines.evaluation.ground_truth import Truth
from pipelines.evaluation.image_scores import IMAGE_SCORES, failed_image, score_image
from pipelines.evaluation.source import Rows, Source, in_memory_labels, labels_by_image
from pipelines.execution import ActorSettings
from pipelines.labelling.label import rows_of_map
from pipelines.labelling.name import (
    NameActor,
    NameRequest,
    SegmentClassifierFactory,
)
from pipelines.labelling.segments_table import segments_graph, stored_segments
from pipelines.labelling.tuned_settings import refuse_other_weights, tuned_settings
from pipelines.runs.rows import BatchRunner
from pipelines.tables.delta_reader import file_uris, provenance_of, row_batches
from pipelines.tables.label_table import failed_images
from zs3.evaluation.oracles import candidates_of, error_split
from zs3.label_rows import class_ids
from zs3.metrics import Confusion, Protocol
from zs3.segmentation.segments import Segments
from zs3.segmentation.table import segments_at
from zs3.tables import LABELS
from zs3.vocabulary import Vocabulary

if TYPE_CHECKING:
    import ray.data

    from zs3.classification.classifier import SegmentClassifier


class SegmentsSource(Source):
    """The labels that stored segments get, with the confusions of oracles under a protocol.

    Args:
        request: how to name; its class list and --out are not used.
        vocabulary: to name with.
        protocol: which pixels oracles count.

    Raises:
        FileNotFoundError, ValueError: the segments, checkpoint or settings cannot be used.
    """

    verb, done, failed = "segment", "segmented", "could not be segmented or named"

    def __init__(
        self,
        request: NameRequest,
        vocabulary: Vocabulary,
        protocol: Protocol,
        model: SegmentClassifierFactory,
        execution: ActorSettings,
    ) -> None:
        uri, table = stored_segments(request.segments)
        provenance = provenance_of(table)
        checkpoint = request.checkpoint or provenance["checkpoint"]
        tuned = tuned_settings(request.settings, request.naming)
        naming = tuned.changes if tuned else request.naming
        info = model.describe(checkpoint, vocabulary, naming, provenance["run"])
        if tuned:
            refuse_other_weights(tuned, request.settings, info.provenance.get("checkpoint"))
        self._table = table
        if not any(batch.num_rows for batch in row_batches(table, ["image_id"])):
            raise ValueError(f"segments table {uri} is empty; did the segmenting run fail for every image?")
        self.labels = in_memory_labels(
            info,
            vocabulary,
            {
                "checkpoint": checkpoint,
                "segments": {"uri": uri, "version": table.version()},
                "naming": dict(naming),
                **({"tuning": dict(tuned.tuned_on)} if tuned else {}),
            },
        )
        self._segments, self._files = request.segments, tuple(file_uris(table))
        self._protocol, self._execution = protocol, execution
        self.classifier: Callable[[], SegmentClassifier] = functools.cache(
            functools.partial(
                model.load, checkpoint, vocabulary, naming, allow_confusable=request.allow_confusable
            )
        )

    def graph(self, truth: Truth, matches: Mapping[str, int]) -> ray.data.Dataset:
        arguments = {"truth": truth, "matches": matches, "protocol": self._protocol}
        return segments_graph(self._files, truth, ScoringActor, self._naming() | arguments, self._execution)

    def gallery_labels(
        self, truth: Truth, ids: Sequence[str], accumulator: EvaluationAccumulator
    ) -> Mapping[str, str | Rows]:
        if not ids:
            return {}
        return labels_by_image(
            segments_graph(self._files, frozenset(ids), NameActor, self._naming(), self._execution)
        )

    def failures(self) -> Iterator[pa.Table]:
        return failed_images(self._segments)

    def outside(self, truth: Truth) -> Iterable[str]:
        batches = row_batches(self._table, ["image_id"])
        return truth.not_in_split(pa.Table.from_batches([batch]) for batch in batches)

    def _naming(self) -> dict[str, Any]:
        """The constructor arguments of an actor that names; encodes the text banks, the first time."""
        (run,) = self.labels.runs
        return {"classifier": self.classifier(), "vocabulary": self.labels.vocabulary, "run": run}


class ScoringActor:
    """Turns batches of segments into `IMAGE_SCORES`, with the confusions of oracles.

    Args:
        vocabulary: that the classifier names with.
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
        self._candidates = candidates_of(
            classifier.entries, classifier.seen, matches, truth.vocabulary, protocol
        )
        indices = {entry.id: index for index, entry in enumerate(classifier.entries)}
        self._index = indices | {vocabulary.ignore_id: -1}
        self._runner = BatchRunner(results="scores", stage="name", run=run)

    def __call__(self, batch: pa.Table) -> pa.Table:
        images = batch.select(["image_id", "uri"]).to_pylist()
        segments = range(batch.num_rows)
        outcomes = self._runner.outcomes(images, segments, functools.partial(self._score_batch, batch))
        rows = [
            outcome["scores"][0] if "scores" in outcome else failed_image(outcome["failures"][0])
            for outcome in outcomes
        ]
        return pa.Table.from_pylist(rows, schema=IMAGE_SCORES)

    def _score_batch(
        self, batch: pa.Table, images: Sequence[Mapping[str, Any]], rows: Sequence[int]
    ) -> list[Rows]:
        """Per image a list of its one score row; `rows` are the images' rows in the batch."""
        return [
            [self._score(image, segments_at(batch, row))] for image, row in zip(images, rows, strict=True)
        ]

    def _score(self, image: Mapping[str, Any], segments: Segments) -> dict[str, Any]:
        label_map_HW, scores = self._classifier.name(segments)
        rows = rows_of_map(
            image,
            label_map_HW,
            scores,
            seen=self._classifier.seen,
            vocabulary=self._vocabulary,
            run=self._run,
        )
        # A label table holds scores as 32-bit floats; rounding here gives the same report as its table would.
        stored = pa.Table.from_pylist(rows, schema=LABELS).to_pylist()
        image_id = image["image_id"]
        return score_image(
            image_id,
            stored,
            self._truth.find([image_id]).get(image_id),
            self._truth,
            self._matches,
            functools.partial(self._oracles, segments, label_map_HW),
        )

    def _oracles(
        self, segments: Segments, label_map_HW: NDArray[np.integer], truth_HW: NDArray[np.integer]
    ) -> dict[str, Confusion]:
        ids, places = np.unique(class_ids(label_map_HW), return_inverse=True)
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
