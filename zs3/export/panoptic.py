"""Label rows as COCO panoptic annotations: a PNG whose colours are segment ids, and JSON with their classes.

A segment is an instance of a thing, or all of a class in an image. Its id is R + 256 G + 65536 B of its colour, as in
the COCO panoptic format (Kirillov et al. 2019, Panoptic Segmentation); 0, black, is no segment. The colours are those
of classes, and for instances those of ids above all classes, so that the files can also be looked at.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from zs3.export.colours import class_colours


def segment_keys(rows: Sequence[Mapping[str, Any]], category_ids: Mapping[str, int]) -> list[int]:
    """A number for the segment of each row: the category, or for an instance one above all categories; -1 for a row
    without a class.
    """
    top = max(category_ids.values(), default=0)
    return [
        top + row["instance_id"] if row.get("instance_id") else category_ids.get(row["class_name"], -1)
        for row in rows
    ]


def segment_id(key: int) -> int:
    """The id of a segment, by the colour of its number.

    Raises:
        ValueError: the number has no colour.
    """
    red, green, blue = class_colours(np.array(key)).tolist()
    return int(red + 256 * green + 65536 * blue)


def segments_info(rows: Sequence[Mapping[str, Any]], category_ids: Mapping[str, int]) -> list[dict[str, Any]]:
    """The segments of one image; rows of area 0 give none.

    Args:
        rows: label rows of the image, with their boxes.
        category_ids: class name -> category id, for every class that occurs; several names of one category are one
            segment, unless they are instances.
    """
    rows_of: dict[int, list[Mapping[str, Any]]] = {}
    for row, key in zip(rows, segment_keys(rows, category_ids), strict=True):
        if row["area"]:
            rows_of.setdefault(key, []).append(row)
    return [
        {
            "id": segment_id(key),
            "category_id": category_ids[members[0]["class_name"]],
            "area": sum(row["area"] for row in members),
            "bbox": union_box([row["bbox"] for row in members]),
            "iscrowd": 0,
        }
        for key, members in sorted(rows_of.items())
    ]


def union_box(boxes: Sequence[Sequence[int]]) -> list[int]:
    """x, y, width, height of the smallest box that holds all of these."""
    left, top = (min(box[side] for box in boxes) for side in (0, 1))
    right, bottom = (max(box[side] + box[side + 2] for box in boxes) for side in (0, 1))
    return [left, top, right - left, bottom - top]
