"""What runs inside the actors of the labelling graph: one loaded labeller."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.execution import ActorPlan
from pipelines.labelling.image_stage import Image, ModelThread, Picture
from pipelines.labelling.label_plan import TABLES, LabellerFactory, LabellerProtocol
from pipelines.runs.rows import Rows
from zs3.tables import label_rows
from zs3.vocabulary import Vocabulary


class LabelActor:
    """One loaded model that turns batches of pixels into label rows and failure rows.

    Raises:
        RuntimeError: the model here is not the one the run was planned with, or it fails for every image.
    """

    def __init__(
        self,
        *,
        model: LabellerFactory,
        checkpoint: str,
        vocabulary: Vocabulary,
        run: str,
        actors: ActorPlan,
        notes: str | None = None,
    ) -> None:
        self._model = ModelThread(
            lambda device: model.load(checkpoint, vocabulary, device),
            origin=checkpoint,
            actors=actors,
            run=run,
            results="labels",
            stage="label",
            notes=notes,
        )
        self._vocabulary, self._run = vocabulary, run

    def __call__(self, batch: pa.Table) -> pa.Table:
        """One row per image: its rows of `labels`, or its row of `failures`."""
        return self._model.rows(batch, self._rows, TABLES)

    def _rows(
        self, labeller: LabellerProtocol, images: Sequence[Image], pictures: Sequence[Picture]
    ) -> list[Rows]:
        """The label rows of each image."""
        painted = labeller.label(pictures)
        for picture, (label_map_HW, _) in zip(pictures, painted, strict=True):
            if label_map_HW.shape != picture.shape[:2]:
                raise ValueError(f"label map has shape {label_map_HW.shape}, its picture {picture.shape[:2]}")
        return [
            rows_of_map(image, *one, seen=labeller.seen, vocabulary=self._vocabulary, run=self._run)
            for image, one in zip(images, painted, strict=True)
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
    """The label rows of one image that was painted with a vocabulary."""
    names = {entry.id: entry.name for entry in vocabulary.candidates}
    return label_rows(
        image["image_id"],
        image["uri"],
        label_map_HW,
        names,
        seen,
        scores,
        run,
        ignore_id=vocabulary.ignore_id,
        etag=image.get("etag", ""),
    )
