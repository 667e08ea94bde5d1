"""Label rows as COCO annotations, written as a stream: one region for each row, as run lengths."""

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any, TextIO

from zs3.export.paths import carries_extension


def image_entry(image_id: str, uri: str, height: int, width: int) -> dict[str, Any]:
    """The entry of one image in COCO's JSON, without its number.

    Args:
        image_id: as the label table has it; `image_id` keeps it.
        uri: where the image was read from; `file_name` is its name, or the id where that is a path.
        height, width: in pixels.
    """
    name = image_id if carries_extension(image_id, uri) else uri.rsplit("/", 1)[-1]
    return {"file_name": name, "height": height, "width": width, "image_id": image_id, "coco_url": uri}


def regions(rows: Sequence[Mapping[str, Any]], category_ids: Mapping[str, int]) -> list[dict[str, Any]]:
    """One annotation per labelled region of one image, without numbers; rows of area 0 give none.

    Args:
        rows: label rows of the image, with their boxes.
        category_ids: class name -> category id.

    Raises:
        ValueError: a class has no category.
    """
    labelled = [row for row in rows if row["area"]]
    unknown = [row["class_name"] for row in labelled if row["class_name"] not in category_ids]
    if unknown:
        raise ValueError(
            f"class {unknown[0]!r} of image {rows[0]['image_id']!r} is not among the {len(category_ids)} "
            "categories; give the class list of the labels"
        )
    return [
        {
            "category_id": category_ids[row["class_name"]],
            "segmentation": {
                "size": [row["height"], row["width"]],
                "counts": bytes(row["rle"]).decode("ascii"),
            },
            "area": row["area"],
            "bbox": list(row["bbox"]),
            "iscrowd": 0,
            "score": round(float(row["score"]), 6),
        }
        for row in labelled
    ]


def categories(
    classes: Iterable[tuple[str, int]],
    colours: Mapping[int, Sequence[int]] | None = None,
    things: Set[int] = frozenset(),
) -> list[dict[str, Any]]:
    """COCO's list of categories.

    Args:
        classes: name and id of each.
        colours: id -> R, G, B, for panoptic files.
        things: ids whose regions are instances; those of all others are everything of a class in an image.
    """
    entries: list[dict[str, Any]] = [
        {
            "id": class_id,
            "name": name,
            "supercategory": "thing" if class_id in things else "stuff",
            "isthing": int(class_id in things),
        }
        for name, class_id in classes
    ]
    return [{**entry, "color": list(colours[entry["id"]])} for entry in entries] if colours else entries


class Stream:
    """A COCO file that is written image by image; the list of images waits in a second file until the end.

    Args:
        out: gets the file, from its start.
        waiting: an empty file for reading and writing.
        info: the file's own description.
        categories: of the whole file.
    """

    def __init__(
        self,
        out: TextIO,
        waiting: TextIO,
        *,
        info: Mapping[str, Any],
        categories: Sequence[Mapping[str, Any]],
    ) -> None:
        self._out, self._waiting = out, waiting
        self._images = self._annotations = 0
        out.write(f'{{"info": {json.dumps(info)},\n"licenses": [],\n')
        out.write(f'"categories": {json.dumps(list(categories))},\n"annotations": [')

    def add(self, image: str, annotations: Sequence[str], *, number: int, numbered: bool = True) -> None:
        """One image.

        Args:
            image: JSON object, without its `id`.
            annotations: JSON objects, without `image_id`, and without `id` where they are numbered here.
            number: the image's.
            numbered: give each annotation an `id`, from 1 on: pycocotools takes 0 for no match.
        """
        self._waiting.write(("," if self._images else "") + "\n" + _with(image, id=number))
        self._images += 1
        for annotation in annotations:
            keys = {"id": self._annotations + 1, "image_id": number} if numbered else {"image_id": number}
            self._out.write(("," if self._annotations else "") + "\n" + _with(annotation, **keys))
            self._annotations += 1

    def close(self) -> None:
        """Write the rest of the file."""
        self._out.write('],\n"images": [')
        self._waiting.seek(0)
        shutil.copyfileobj(self._waiting, self._out)
        self._out.write("]}\n")


def _with(content: str, **first: int) -> str:
    """A JSON object, not empty, with further keys before its own."""
    return json.dumps(first)[:-1] + ", " + content[1:]
