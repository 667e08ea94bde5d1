"""A label map as rows of the table `labels`, and rows as a label map again.

A label map becomes one row per class that occurs in it, with its region as COCO-compressed run lengths; in a panoptic
map, each instance of a thing has its row. The regions of one image are disjoint, so the map is rebuilt exactly.
"""

# H W pixels

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from zs3.masks.binary import run_lengths
from zs3.wording import first_names, redacted

IGNORE_ID = 255
"""The value of unlabelled pixels in a label map, unless its vocabulary uses this id for a class."""

INSTANCE_BITS = 32
"""A panoptic map is int64 and holds class id + (instance << INSTANCE_BITS); the instance is 0 for stuff and where
nothing was labelled, so that a map of classes alone has the same form."""


def class_ids(label_map_HW: NDArray[np.integer]) -> NDArray[np.integer]:
    """The class ids of a map of classes or a panoptic one."""
    return label_map_HW & ((1 << INSTANCE_BITS) - 1) if label_map_HW.dtype == np.int64 else label_map_HW


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
    """Rows of `labels` for one image, ascending by class id and instance; at least one.

    An image without labelled pixels gives one row of class `ignore_id` with an empty name and area 0, which records
    that it is done and its size.

    Args:
        image_id: unique in the table.
        uri: where the image was read from.
        label_map_HW: (H, W) class ids, `ignore_id` where nothing was labelled; or int64 with instances (see
            `INSTANCE_BITS`).
        class_names: name of every class that may occur.
        seen: whether the class had training masks.
        scores: a number in [0, 1] for each value that occurs.
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
    keys = {value: (value % (1 << INSTANCE_BITS), value >> INSTANCE_BITS) for value in present}
    nameless = [
        keys[value][0] for value in present if keys[value][0] not in class_names or value not in scores
    ]
    if nameless:
        raise ValueError(
            f"label map of {image_id!r} holds class ids {first_names(nameless)} that have no name or no score; "
            f"was it made with another vocabulary?"
        )
    height, width = label_map_HW.shape
    rows = []
    for value in sorted(present, key=keys.__getitem__) or [ignore_id]:
        class_id, instance = keys.get(value, (value, 0))
        region_HW = label_map_HW == value if present else np.zeros((height, width), dtype=bool)
        code = coco_mask.encode(np.asfortranarray(region_HW, dtype=np.uint8))
        rows.append(
            {
                "image_id": image_id,
                "uri": redacted(uri),
                "etag": etag,
                "height": height,
                "width": width,
                "class_id": class_id,
                "class_name": class_names[class_id] if present else "",
                "seen": bool(seen.get(class_id, False)),
                "score": float(scores[value]) if present else 0.0,
                "area": int(coco_mask.area(code)),
                "bbox": [int(side) for side in coco_mask.toBbox(code)],
                "rle": code["counts"],
                "run": run,
                **({"instance_id": instance} if instance else {}),
            }
        )
    return rows


def label_map(rows: Sequence[Mapping[str, Any]], *, ignore_id: int = IGNORE_ID) -> NDArray[np.int32]:
    """(H, W) int32 class ids from all rows of one image; `ignore_id` for unlabelled pixels.

    Raises:
        ValueError: there are no rows, rows of several images or sizes, damaged run lengths, or regions that overlap.
    """
    keys = {(row["image_id"], row["height"], row["width"]) for row in rows}
    if len(keys) != 1:
        raise ValueError(f"expected the rows of one image and one size, got {sorted(keys)[:3] or 'no rows'}")
    ((image_id, height, width),) = keys
    runs = [
        _checked_runs(row, height * width) for row in rows
    ]  # before memory is taken for what a row claims
    label_map_HW = np.full((height, width), ignore_id, dtype=np.int32)
    covered = 0
    for row, lengths in zip(rows, runs, strict=True):
        region_HW = coco_mask.decode({"size": [height, width], "counts": bytes(row["rle"])}).view(bool)
        label_map_HW[region_HW] = row["class_id"]
        covered += int(lengths[1::2].sum())
    if covered != int((label_map_HW != ignore_id).sum()):
        raise ValueError(
            f"regions of image {image_id!r} overlap: {covered} pixels are claimed in a picture where "
            f"{int((label_map_HW != ignore_id).sum())} are labelled; does the table hold the image twice, "
            f"or is ignore_id={ignore_id} one of its classes?"
        )
    return label_map_HW


def _checked_runs(row: Mapping[str, Any], pixels: int) -> NDArray[np.int64]:
    """The run lengths of one region, which have to fill the picture: pycocotools does not check that."""
    try:
        lengths = run_lengths(bytes(row["rle"]))
        if lengths.min() < 0 or lengths.sum() != pixels:
            raise ValueError(f"its run lengths do not add up to the {pixels} pixels of the picture")
    except ValueError as error:
        raise ValueError(
            f"rle of class {row['class_id']} of image {row['image_id']!r} is damaged: {error}; label the image again"
        ) from None
    return lengths
