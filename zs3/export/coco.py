"""Label rows as COCO stuff annotations, written as a stream: one region a class and image, as run lengths."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TextIO


def annotations(
    rows: Sequence[Mapping[str, Any]], *, image_number: int, first: int, category_ids: Mapping[str, int]
) -> list[dict[str, Any]]:
    """One annotation per labelled region of one image, numbered from `first`; rows of area 0 give none.

    Args:
        rows: label rows of the image, with their boxes.
        image_number: its `id` in the file.
        first: the `id` of the first annotation, at least 1: pycocotools takes 0 for no match.
        category_ids: class name -> category id.

    Raises:
        ValueError: a class has no category.
    """
    labelled = [row for row in rows if row["area"]]
    unknown = [row["class_name"] for row in labelled if row["class_name"] not in category_ids]
    if unknown:
        raise ValueError(
            f"class {unknown[0]!r} of image {rows[0]['image_id']!r} is none of the {len(category_ids)} "
            "categories; name the class list that was labelled with"
        )
    return [
        {
            "id": first + place,
            "image_id": image_number,
            "category_id": category_ids[row["class_name"]],
            "segmentation": {
                "size": [row["height"], row["width"]],
                "counts": bytes(row["rle"]).decode("ascii"),
            },
            "area": row["area"],
            "bbox": list(row["bbox"]),
            "iscrowd": 0,
            "score": row["score"],
        }
        for place, row in enumerate(labelled)
    ]


def write_file(
    out: TextIO,
    *,
    categories: Sequence[Mapping[str, Any]],
    images: Iterable[Mapping[str, Any]],
    regions: Iterable[Mapping[str, Any]],
) -> None:
    """A file that `pycocotools.coco.COCO` loads; images and annotations are taken one at a time."""
    out.write(f'{{"categories": {json.dumps(list(categories))}')
    for key, values in (("images", images), ("annotations", regions)):
        out.write(f', "{key}": [')
        for place, value in enumerate(values):
            out.write((",\n" if place else "\n") + json.dumps(value))
        out.write("]")
    out.write("}\n")
