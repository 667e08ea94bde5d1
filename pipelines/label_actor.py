"""What runs inside the tasks and actors of the labelling graph: one loaded model, and the writer behind
it."""

from __future__ import annotations

import importlib
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipelines.commit import write_part
from pipelines.execution import ActorPlan, cores
from pipelines.label_plan import TABLES, Labeller, Model
from zs3.tables import FAILURES, LABELS, failure_row, label_rows
from zs3.vocabulary import Vocabulary

HOPELESS = 32
"""Failures of the model in a row after which an actor stops the run: the model is broken, not the images."""

_LABELLED = pa.schema(
    {
        "started": pa.float64(),
        "labels": pa.list_(pa.struct(list(LABELS))),
        "failures": pa.list_(pa.struct(list(FAILURES))),
    }
)
_WRITTEN = pa.schema(
    {
        "table": pa.string(),
        "path": pa.string(),
        "size": pa.int64(),
        "rows": pa.int64(),
        "stats": pa.string(),
        "images": pa.int64(),
        "started": pa.float64(),
    }
)


class LabelActor:
    """One loaded model that turns batches of pixels into label rows and failure rows.

    Raises:
        RuntimeError: the model here is not the one the run was planned with, or it fails for every image.
    """

    def __init__(
        self, *, model: Model, checkpoint: str, vocabulary: Vocabulary, run: str, actors: ActorPlan
    ) -> None:
        # The model lives in one thread. Ray constructs an actor in one and calls it from another; OpenMP would then
        # keep a pool of threads for each, more threads than cores, and stop spinning at its barriers: 0.83 of the
        # speed that one pool has.
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._labeller = self._thread.submit(self._load, model, checkpoint, vocabulary, actors).result()
        if self._labeller.digest != run:
            here = self._labeller.digest[:12]
            raise RuntimeError(
                f"checkpoint {checkpoint!r} has digest {here} here, but the run was planned with {run[:12]}; "
                f"do all machines see the same checkpoint and the same version of zs3?"
            )
        self._names = {entry.id: entry.name for entry in vocabulary.candidates}
        self._ignore_id, self._run = vocabulary.ignore_id, run
        self._failed_in_a_row = 0

    @staticmethod
    def _load(model: Model, checkpoint: str, vocabulary: Vocabulary, actors: ActorPlan) -> Labeller:
        """The labeller, and the number of threads that it computes with."""
        torch = importlib.import_module("torch") if actors.device == "cpu" else None
        if torch:
            torch.set_num_threads(actors.threads or max(1, cores() // actors.per_machine))
        return model.load(checkpoint, vocabulary, actors.device)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """One row per image: when its batch began, its rows of `labels`, its rows of `failures`; as lists, so
        that the rows of an image stay in one file and one commit."""
        started = time.time()
        images = batch.drop_columns("pixels").to_pylist()
        done = [{"started": started, "labels": [], "failures": image["failures"]} for image in images]
        readable = [index for index, image in enumerate(images) if not image["failures"]]
        pictures = [_picture(batch, index) for index in readable]
        for index, outcome in zip(
            readable, self._label([images[i] for i in readable], pictures), strict=True
        ):
            done[index] |= outcome
        return pa.Table.from_pylist(done, schema=_LABELLED)

    def _label(
        self, images: list[dict[str, Any]], pictures: list[NDArray[np.uint8]]
    ) -> list[dict[str, list[dict[str, Any]]]]:
        """Per image its rows of one table; a batch that fails is tried one by one, to find the image that
        does it."""
        try:
            painted = self._thread.submit(self._labeller.label, pictures).result() if pictures else []
            outcomes = [
                {"labels": self._rows(image, picture, *one)}
                for image, picture, one in zip(images, pictures, painted, strict=True)
            ]
        except Exception as error:
            if len(images) > 1:
                return [
                    self._label([image], [picture])[0]
                    for image, picture in zip(images, pictures, strict=True)
                ]
            self._failed_in_a_row += 1
            if self._failed_in_a_row >= HOPELESS:
                raise RuntimeError(
                    f"the model failed on {HOPELESS} images in a row, the last time with "
                    f"{type(error).__name__}: {error}"
                ) from error
            return [
                {
                    "failures": [
                        failure_row(images[0]["image_id"], images[0]["uri"], "label", error, self._run)
                    ]
                }
            ]
        if outcomes:
            self._failed_in_a_row = 0
        return outcomes

    def _rows(
        self,
        image: Mapping[str, Any],
        picture: NDArray[np.uint8],
        label_map_HW: NDArray[np.integer],
        scores: Mapping[int, float],
    ) -> list[dict[str, Any]]:
        """The label rows of one image."""
        if label_map_HW.shape != picture.shape[:2]:
            raise ValueError(f"label map has shape {label_map_HW.shape}, its picture {picture.shape[:2]}")
        return label_rows(
            image["image_id"],
            image["uri"],
            label_map_HW,
            self._names,
            self._labeller.seen,
            scores,
            self._run,
            ignore_id=self._ignore_id,
        )


def write_tables(batch: pa.Table, *, uris: Mapping[str, str]) -> pa.Table:
    """Write the rows of these images, one file per table that has any; one row per file.

    Args:
        batch: as `LabelActor` gives it.
        uris: where each table lies.
    """
    started = pc.min(batch["started"]).as_py()
    written = []
    for name, schema in TABLES.items():
        lists = batch[name].combine_chunks()
        rows = pa.Table.from_struct_array(lists.flatten()).cast(schema)
        if rows.num_rows:
            images = int(pc.sum(pc.greater(pc.list_value_length(lists), 0)).as_py())
            part = asdict(write_part(uris[name], rows))
            written.append({"table": name, "images": images, "started": started, **part})
    return pa.Table.from_pylist(written, schema=_WRITTEN)


def _picture(batch: pa.Table, index: int) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 view of the pixels of one row."""
    height, width = batch["height"][index].as_py(), batch["width"][index].as_py()
    return np.frombuffer(batch["pixels"][index].as_buffer(), dtype=np.uint8).reshape(height, width, 3)
