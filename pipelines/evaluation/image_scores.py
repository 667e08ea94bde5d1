"""One row per image: its row of the table `scores`, or why there is none. Tasks and actors make these rows."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.evaluation.ground_truth import Truth
from pipelines.storage.objects import open_file, read_bytes
from zs3.datasets import ImageRef, read_truth
from zs3.evaluation.image_scores import image_score_row
from zs3.images.codec import keeps_size_when_turned
from zs3.metrics import Confusion
from zs3.tables import SCORES

IMAGE_STATUS = pa.schema(
    {
        "image_id": pa.string(),
        "status": pa.string(),
        "message": pa.string(),
        "file": pa.string(),
        "miou": pa.float64(),
        "truth_digest": pa.string(),
        "turned": pa.bool_(),
    }
)
"""`scored`, `outside` of the split, `failed` to be labelled, or an `error`; of the last two the reason as the message;
of scored images the file that holds their labels, their own mean IoU in percent, the digest of their truth, and whether
sizes cannot tell if it is of the upright picture (`zs3.images.codec.keeps_size_when_turned`)."""

HEADER_BYTES = 128 * 1024
"""Of a photograph, in which its orientation is looked for: EXIF takes at most 64 KiB and comes first."""

_ORACLE = pa.struct({"name": pa.string(), **dict.fromkeys(Confusion.__slots__, pa.list_(pa.int64()))})
IMAGE_SCORES = pa.schema(
    [
        *SCORES,
        *(field for field in IMAGE_STATUS if field.name != "image_id"),
        pa.field("oracles", pa.list_(_ORACLE)),
    ]
)
"""A row of `scores`, the status of the image, and the confusions of oracles."""

_NO_SCORES: dict[str, Any] = {name: [] for name in SCORES.names if name != "image_id"}


def score_table_images(batch: pa.Table, *, truth: Truth, matches: Mapping[str, int]) -> pa.Table:
    """`IMAGE_SCORES` of images of a label table.

    Args:
        batch: as `pipelines.tables.label_table.label_rows_graph` gives them.
        truth: the split.
        matches: labelled name -> class id of the data set, or `UNKNOWN`.
    """
    refs = truth.find(batch["image_id"].to_pylist())
    rows = [
        score_image(image["image_id"], image["rows"], refs.get(image["image_id"]), truth, matches)
        | {"file": image["file"]}
        for image in batch.to_pylist()
    ]
    return pa.Table.from_pylist(rows, schema=IMAGE_SCORES)


def score_labelled_images(batch: pa.Table, *, truth: Truth, matches: Mapping[str, int]) -> pa.Table:
    """`IMAGE_SCORES` of images that an actor labelled or failed on."""
    images = batch.to_pylist()
    refs = truth.find(image["labels"][0]["image_id"] for image in images if not image["failures"])
    rows = []
    for image in images:
        if image["failures"]:
            rows.append(failed_image(image["failures"][0]))
        else:
            image_id = image["labels"][0]["image_id"]
            rows.append(score_image(image_id, image["labels"], refs.get(image_id), truth, matches))
    return pa.Table.from_pylist(rows, schema=IMAGE_SCORES)


def failed_image(failure: Mapping[str, Any]) -> dict[str, Any]:
    """The row of an image that could not be labelled, from its row of `failures`."""
    return _NO_SCORES | {
        "image_id": failure["image_id"],
        "status": "failed",
        "message": failure["message"],
    }


def score_image(
    image_id: str,
    labels: Sequence[Mapping[str, Any]],
    ref: ImageRef | None,
    truth: Truth,
    matches: Mapping[str, int],
    oracles: Callable[[NDArray[np.int32]], Mapping[str, Confusion]] | None = None,
) -> dict[str, Any]:
    """The row of one labelled image.

    Args:
        labels: its label rows.
        ref: the image in the data set; none where it is not in the split.
        truth: the split.
        matches: labelled name -> class id of the data set, or `UNKNOWN`.
        oracles: (H, W) truth -> further confusions to keep, by name.
    """
    if ref is None:
        return _NO_SCORES | {"image_id": image_id, "status": "outside"}
    try:
        if ref.truth_uri is None:
            raise ValueError(f"image {ref.id!r} has no truth file in the data set; choose a split with truth")
        data = read_bytes(ref.truth_uri)
        truth_HW = read_truth(truth.name, data, truth.vocabulary)
        columns, miou = image_score_row(labels, truth_HW, truth.vocabulary, matches)
    except (ValueError, OSError) as error:
        named = repr(image_id) in str(error)
        message = str(error) if named else f"image {image_id!r}: {error}"
        return _NO_SCORES | {"image_id": image_id, "status": "error", "message": message}
    return {
        "image_id": image_id,
        "status": "scored",
        **columns,
        "file": "",
        "miou": miou,
        "truth_digest": hashlib.sha256(data).hexdigest(),
        "turned": _turned(ref.image_uri),
        "oracles": [
            {"name": name, **{key: getattr(confusion, key) for key in Confusion.__slots__}}
            for name, confusion in (oracles(truth_HW) if oracles else {}).items()
        ],
    }


def _turned(uri: str) -> bool:
    """`keeps_size_when_turned` of a photograph; false where it cannot be read, as scoring does not need it."""
    try:
        with open_file(uri) as file:
            return keeps_size_when_turned(file.read(HEADER_BYTES))
    except (ValueError, OSError):
        return False
