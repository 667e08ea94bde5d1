"""The Arrow schemas of all tables.

Schemas hold the name and the version of their table as metadata; a change that readers can notice raises the version.
`zs3.label_rows` makes the rows of `labels`, `zs3.segmentation.table` those of `segments`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from zs3.wording import passwords_in, redacted

# H W pixels


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

PANOPTIC_LABELS = _schema("labels", 3, [*LABELS, pa.field("instance_id", pa.int32())])
"""`LABELS` of a run with panoptic maps: one row per (image, region of stuff) and per (image, instance of a thing).
instance_id counts the instances of an image from 1, over all classes, and is null for stuff."""

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
        "uri": redacted(uri),
        "etag": etag,
        "stage": stage,
        "error_type": str(getattr(error, "kind", "") or type(error).__name__),
        "message": redacted(" ".join(str(error).split()), passwords_in(uri)) or type(error).__name__,
        "attempts": attempts,
        "run": run,
    }
