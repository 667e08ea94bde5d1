"""The tables of zs3: their Arrow schemas, and label maps as rows and back.

A label map becomes one row per class that occurs in it, each with its region as COCO-compressed run lengths.
The regions of one image are disjoint, so the map is rebuilt exactly from its rows. Schemas hold the name and the
version of their table as metadata; a change that readers can notice raises the version.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from zs3.wording import first_names

# H W pixels

IGNORE_ID = 255
"""The value of unlabelled pixels in a label map, unless its vocabulary uses this id for a class."""


def _field(name: str, kind: pa.DataType) -> pa.Field:
    """A column that is never null."""
    return pa.field(name, kind, nullable=False)


def _schema(name: str, version: int, fields: Sequence[pa.Field]) -> pa.Schema:
    """A schema with the name and the version of its table."""
    return pa.schema(fields, metadata={"zs3.table": name, "zs3.version": str(version)})


def _list_of(kind: pa.DataType) -> pa.DataType:
    """A list type whose element is named as Delta Lake and Parquet name it."""
    return pa.list_(_field("element", kind))


LABELS = _schema(
    "labels",
    2,
    [
        _field("image_id", pa.string()),
        _field("uri", pa.string()),
        _field("etag", pa.string()),
        _field("height", pa.int32()),
        _field("width", pa.int32()),
        _field("class_id", pa.int32()),
        _field("class_name", pa.string()),
        _field("seen", pa.bool_()),
        _field("score", pa.float32()),
        _field("area", pa.int64()),
        _field("bbox", _list_of(pa.int32())),
        _field("rle", pa.large_binary()),
        _field("run", pa.string()),
    ],
)
"""One row per (image, class region). etag identifies the image's content as its store does (its ETag, or size and time
of modification), and is empty if the listing had none. bbox is x, y, width, height in pixels; score is in [0, 1]; run
is the digest of weights, settings and vocabulary."""

SEGMENTS = _schema(
    "segments",
    2,
    [
        _field("image_id", pa.string()),
        _field("uri", pa.string()),
        _field("etag", pa.string()),
        _field("height", pa.int32()),
        _field("width", pa.int32()),
        _field("padded_height", pa.int32()),
        _field("padded_width", pa.int32()),
        _field("resized_height", pa.int32()),
        _field("resized_width", pa.int32()),
        _field("mask_height", pa.int32()),
        _field("mask_width", pa.int32()),
        _field("num_segments", pa.int32()),
        _field("masks", pa.large_binary()),
        _field("mask_store", pa.string()),
        _field("query_embeddings", _list_of(_list_of(pa.float32()))),
        _field("image_embeddings", _list_of(_list_of(pa.float32()))),
        _field("void_logits", _list_of(pa.float32())),
        _field("disagreement", pa.float32()),
        _field("run", pa.string()),
    ],
)
"""One row per image: its segments, without class names (`zs3.segmentation.segments.Segments`). mask_store is the format
of `masks` (`zs3.masks.store`); embeddings have one row per segment; disagreement of the two branches is in [0, 1]
(`zs3.inference.segment_exporter.disagreement`); run is the digest of weights, settings and mask store."""

FAILURES = _schema(
    "failures",
    2,
    [
        *(
            _field(name, pa.string())
            for name in ("image_id", "uri", "etag", "stage", "error_type", "message")
        ),
        _field("attempts", pa.int32()),
        _field("run", pa.string()),
    ],
)
"""One row per image that could not be processed; stage is `read`, `decode`, `masks`, `label`, `segment` or `name`;
attempts is the number of runs that tried."""

SHARDS = _schema(
    "shards",
    1,
    [
        _field("digest", pa.string()),
        _field("images", pa.int32()),
        _field("first_uri", pa.string()),
        _field("last_uri", pa.string()),
        _field("run", pa.string()),
    ],
)
"""One row per part of a listing whose images all have rows of results or failures; digest is that of their ids, uris
and etags. If you delete rows of the other tables by hand, delete this table too."""

SCORES = _schema(
    "scores",
    2,
    [
        _field("image_id", pa.string()),
        _field("truth", _list_of(pa.int32())),
        _field("prediction", _list_of(pa.int32())),
        _field("pixels", _list_of(pa.int64())),
        _field("boundary_truth", _list_of(pa.int32())),
        _field("boundary_prediction", _list_of(pa.int32())),
        _field("boundary_pixels", _list_of(pa.int64())),
        _field("boundary_class", _list_of(pa.int32())),
        _field("boundary_true", _list_of(pa.int64())),
        _field("boundary_hits", _list_of(pa.int64())),
        _field("labelled", _list_of(pa.int32())),
        _field("score", _list_of(pa.float32())),
    ],
)
"""One row per image: its confusion as parallel lists of truth id, predicted id and number of pixels; the same for the
outlines of predicted regions; per true class the pixels of its outline and how many of them are matched
(`zs3.metrics.boundaries`); and per labelled class the score of its region."""


def label_rows(
    image_id: str,
    uri: str,
    label_map_HW: NDArray[np.integer],
    class_names: Mapping[int, str],
    seen: Mapping[int, bool],
    scores: Mapping[int, float],
    run: str,
    *,
    ignore_id: int = IGNORE_ID,
    etag: str = "",
) -> list[dict[str, Any]]:
    """Rows of `labels` for one image, ascending by class id; at least one.

    An image without labelled pixels gives one row of class `ignore_id` with an empty name and area 0, which records
    that it is done and its size.

    Args:
        image_id: unique in the table.
        uri: where the image was read from.
        label_map_HW: (H, W) class ids, `ignore_id` where nothing was labelled.
        class_names: name of every class that may occur.
        seen: whether the class had training masks.
        scores: a number in [0, 1] for each class that occurs.
        run: digest of weights, settings and vocabulary.
        ignore_id: the value of unlabelled pixels.
        etag: of the image's content, from the listing.

    Raises:
        ValueError: the map is empty or has another number of dimensions, or an id has no name or score.
    """
    if label_map_HW.ndim != 2 or label_map_HW.size == 0:
        raise ValueError(
            f"label map of {image_id!r} has shape {label_map_HW.shape}; expected (height, width), not empty"
        )
    present = [int(value) for value in np.unique(label_map_HW) if value != ignore_id]
    nameless = [value for value in present if value not in class_names or value not in scores]
    if nameless:
        raise ValueError(
            f"label map of {image_id!r} holds class ids {first_names(nameless)} that have no name or no score; "
            f"was it made with another vocabulary?"
        )
    height, width = label_map_HW.shape
    rows = []
    for class_id in present or [ignore_id]:
        region_HW = label_map_HW == class_id if present else np.zeros((height, width), dtype=bool)
        code = coco_mask.encode(np.asfortranarray(region_HW, dtype=np.uint8))
        rows.append(
            {
                "image_id": image_id,
                "uri": uri,
                "etag": etag,
                "height": height,
                "width": width,
                "class_id": class_id,
                "class_name": class_names[class_id] if present else "",
                "seen": bool(seen.get(class_id, False)),
                "score": float(scores[class_id]) if present else 0.0,
                "area": int(coco_mask.area(code)),
                "bbox": [int(side) for side in coco_mask.toBbox(code)],
                "rle": code["counts"],
                "run": run,
            }
        )
    return rows


def label_map(rows: Sequence[Mapping[str, Any]], *, ignore_id: int = IGNORE_ID) -> NDArray[np.int32]:
    """(H, W) int32 class ids from all rows of one image; `ignore_id` for unlabelled pixels.

    Raises:
        ValueError: there are no rows, rows of several images or sizes, or regions that overlap.
    """
    keys = {(row["image_id"], row["height"], row["width"]) for row in rows}
    if len(keys) != 1:
        raise ValueError(f"expected the rows of one image and one size, got {sorted(keys)[:3] or 'no rows'}")
    ((image_id, height, width),) = keys
    label_map_HW = np.full((height, width), ignore_id, dtype=np.int32)
    covered = 0
    for row in rows:
        region_HW = coco_mask.decode({"size": [height, width], "counts": bytes(row["rle"])}).astype(bool)
        label_map_HW[region_HW] = row["class_id"]
        covered += int(region_HW.sum())
    if covered != int((label_map_HW != ignore_id).sum()):
        raise ValueError(
            f"regions of image {image_id!r} overlap: {covered} pixels are claimed in a picture where "
            f"{int((label_map_HW != ignore_id).sum())} are labelled; does the table hold the image twice, "
            f"or is ignore_id={ignore_id} one of its classes?"
        )
    return label_map_HW


def failure_row(
    image_id: str,
    uri: str,
    stage: str,
    error: BaseException,
    run: str,
    *,
    etag: str = "",
    attempts: int = 1,
) -> dict[str, Any]:
    """The row of `failures` for one image; the error type is the error's `kind` if it has one, else its class.

    Args:
        etag: of the image's content, from the listing.
        attempts: runs that have tried, this one included.
    """
    return {
        "image_id": image_id,
        "uri": uri,
        "etag": etag,
        "stage": stage,
        "error_type": str(getattr(error, "kind", "") or type(error).__name__),
        "message": " ".join(str(error).split()) or type(error).__name__,
        "attempts": attempts,
        "run": run,
    }
