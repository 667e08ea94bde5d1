"""Sketches: what is kept of one labelled image, made in tasks and summed on the driver
(`pipelines.evaluation.accumulator`).

files ─► image_graph ─► sketches ─► EvaluationAccumulator
images ─► read_and_decode ─► LabelActor ─► scores_of_labels ─► EvaluationAccumulator
files ─► read_segments ─► ErrorActor (pipelines/evaluation/from_segments.py) ─► EvaluationAccumulator
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.evaluation.ground_truth import Truth
from pipelines.storage.objects import read_bytes
from pipelines.tables.label_table import Labels, image_graph
from zs3.datasets import ImageRef, read_truth
from zs3.evaluation.image_scores import image_score_row
from zs3.metrics import Confusion
from zs3.tables import SCORES

if TYPE_CHECKING:
    import ray.data

_NAMED_CONFUSION = pa.struct(
    {"name": pa.string(), **dict.fromkeys(Confusion.__slots__, pa.list_(pa.int64()))}
)
IMAGE_SCORES = pa.schema(
    [
        *SCORES,
        pa.field("file", pa.string()),
        pa.field("miou", pa.float64()),
        pa.field("truth_digest", pa.string()),
        pa.field("has_truth", pa.bool_()),
        pa.field("names", pa.list_(pa.string())),
        pa.field("failure", pa.string()),
        pa.field("error", pa.string()),
        pa.field("oracles", pa.list_(_NAMED_CONFUSION)),
    ]
)


def image_scores_graph(labels: Labels, truth: Truth, matches: Mapping[str, int]) -> ray.data.Dataset:
    """The lazy dataset of one sketch per labelled image."""
    return image_graph(labels.files).map_batches(
        functools.partial(sketches, truth=truth, matches=matches), batch_size=None, batch_format="pyarrow"
    )


def sketches(batch: pa.Table, *, truth: Truth, matches: Mapping[str, int]) -> pa.Table:
    """One row per labelled image: its confusion, or why there is none."""
    refs = truth.find(batch["image_id"].to_pylist())
    rows = [
        scores_of_image(image, refs.get(image["image_id"]), truth, matches) for image in batch.to_pylist()
    ]
    return pa.Table.from_pylist(rows, schema=IMAGE_SCORES)


def scores_of_labels(batch: pa.Table, *, truth: Truth, matches: Mapping[str, int]) -> pa.Table:
    """One row per image that a labelling actor was given: its sketch, or why it could not be labelled."""
    images = batch.to_pylist()
    refs = truth.find(image["labels"][0]["image_id"] for image in images if not image["failures"])
    rows = []
    for image in images:
        if image["failures"]:
            rows.append(failed_image_scores(image["failures"][0]))
        else:
            image_id = image["labels"][0]["image_id"]
            labelled = {"image_id": image_id, "file": "", "rows": image["labels"]}
            rows.append(scores_of_image(labelled, refs.get(image_id), truth, matches))
    return pa.Table.from_pylist(rows, schema=IMAGE_SCORES)


_EMPTY: dict[str, Any] = {name: [] for name in SCORES.names if name != "image_id"}


def failed_image_scores(failure: Mapping[str, Any]) -> dict[str, Any]:
    """The row of an image that could not be labelled, from its row of `failures`."""
    told = {"image_id": failure["image_id"], "failure": failure["message"], "has_truth": True}
    return {**_EMPTY, **told, "names": []}


def scores_of_image(
    image: Mapping[str, Any],
    ref: ImageRef | None,
    truth: Truth,
    matches: Mapping[str, int],
    oracles: Callable[[NDArray[np.int32]], Mapping[str, Confusion]] | None = None,
) -> dict[str, Any]:
    """The row of one image.

    Args:
        image: `image_id`, its label `rows`, and the `file` that holds them.
        ref: the image in the data set; none where it is not in it.
        truth: the split.
        matches: labelled name -> class id of the data set, or `UNKNOWN`.
        oracles: truth -> further confusions to keep, by name.
    """
    names = sorted({row["class_name"] for row in image["rows"] if row["area"]})
    row: dict[str, Any] = {**_EMPTY, "image_id": image["image_id"], "names": names}
    row |= {"file": image["file"], "has_truth": ref is not None}
    if ref is None:
        return row
    try:
        if ref.truth_uri is None:
            raise ValueError(f"image {ref.id!r} has no truth file in the data set; choose a split with truth")
        data = read_bytes(ref.truth_uri)
        truth_HW = read_truth(truth.name, data, truth.vocabulary)
        columns, miou = image_score_row(image["rows"], truth_HW, truth.vocabulary, matches)
    except (ValueError, OSError) as error:
        named = repr(image["image_id"]) in str(error)
        return row | {"error": str(error) if named else f"image {image['image_id']!r}: {error}"}
    row |= columns | {"miou": miou, "truth_digest": hashlib.sha256(data).hexdigest()}
    if oracles:
        row["oracles"] = [
            {"name": name, **{key: getattr(held, key) for key in Confusion.__slots__}}
            for name, held in oracles(truth_HW).items()
        ]
    return row
