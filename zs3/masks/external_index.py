"""Which image an external mask belongs to: by the names of files, or by image names and numbers in COCO's JSON.

A file name means the image with that id, or with that id and an image's extension, unless two images fit. COCO's
`file_name` is an id with or without folder and extension; a list of results has the id or its number (139 is
000000000139). Where no name fits exactly, upper and lower case and the two forms of accents in Unicode count as equal.

Annotations are read as people write them: a box stands for a mask that is missing, a flat list of numbers is one
polygon, and what cannot be used is counted with its id.
"""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from zs3.files import parsed_json
from zs3.images.formats import IMAGE_SUFFIXES
from zs3.wording import first_names, number_of

Segmentations = dict[str, tuple[list[Any], list[Any] | None]]
"""Image id → its segmentations in COCO's JSON, and its height and width there, if it has them."""

_TYPES: dict[str, tuple[type, ...]] = {
    "id": (int, str),
    "file_name": (str,),
    "image_id": (int, str),
}


@dataclass(slots=True, kw_only=True)
class ReadAnnotations:
    """What became of the annotations of one file, by their ids."""

    boxes: list[str] = field(default_factory=list)
    """Those without a mask of their own, whose box is used."""
    trimmed: list[str] = field(default_factory=list)
    """Those that are used without some parts, which are no polygons."""
    left_out: list[str] = field(default_factory=list)
    """Those that cannot be used: without mask and box, or of an image that is not in the file."""

    def lines(self) -> list[str]:
        """One line for each kind that occurred."""
        kinds = {
            "without a mask, of which the box is used": self.boxes,
            "used without parts that are no polygon": self.trimmed,
            "that cannot be used, left out": self.left_out,
        }
        return [
            f"{number_of(len(ids), 'annotation')} {what}: {first_names(ids)}"
            for what, ids in kinds.items()
            if ids
        ]


def ids_by_name(ids: Collection[str]) -> dict[str, str]:
    """Every name that means one of the images → its id: the id, and the id without an image's extension."""
    by_name: dict[str, str] = {}
    ambiguous: set[str] = set()
    for image_id in ids:
        path = PurePosixPath(image_id)
        if path.suffix.lower() in IMAGE_SUFFIXES:
            bare = str(path.with_suffix(""))
            ambiguous |= {bare} & by_name.keys()
            by_name[bare] = image_id
    unique = {name: image_id for name, image_id in by_name.items() if name not in ambiguous}
    return unique | {image_id: image_id for image_id in ids}


class ImagesByName:
    """Finds the image that a name means: exactly, or else but for case and the form of accents."""

    def __init__(self, ids: Collection[str]) -> None:
        self._exact = ids_by_name(ids)
        self._folded: dict[str, set[str]] = {}
        for name, image_id in self._exact.items():
            self._folded.setdefault(_folded(name), set()).add(image_id)

    def exact(self, name: str) -> str | None:
        """The id of the image with exactly this name."""
        return self._exact.get(name)

    def get(self, name: str) -> str | None:
        """The id of the image that the name means; None if there is none, or several that differ in case."""
        matches = self._folded.get(_folded(name), set())
        return self._exact.get(name) or (next(iter(matches)) if len(matches) == 1 else None)


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def no_image_error(source: str, names: Sequence[str], ids: Collection[str]) -> ValueError:
    """The error that no mask belongs to any of the images."""
    mask_names, image_names = (first_names(map(repr, sorted(some)), 3) for some in (names, ids))
    return ValueError(
        f"the masks at {source!r} are for none of the {number_of(len(ids), 'image')}: masks are for images "
        f"called {mask_names}, and "
        f"the images are called {image_names}; masks are found by image id, a file's name without folder and extension"
    )


def coco_segmentations(
    source: str, data: bytes, ids: Collection[str], read: ReadAnnotations | None = None
) -> Segmentations:
    """The segmentations of each image in COCO's JSON; run lengths and corners are not checked here.

    A list of results names no images, so images that it does not mention have no masks.

    Args:
        source: what messages call the file.
        data: the file.
        read: gets the ids of annotations that are used in part or not at all.

    Raises:
        ValueError: it is no such JSON, for none of these images, or has no mask that can be used.
    """
    document = parsed_json(data, repr(source), "expected COCO's, or a folder of PNGs")
    read = ReadAnnotations() if read is None else read
    if isinstance(document, list):
        result = _of_results(source, document, ids, read)
        _refuse_without_masks(source, result, read)
        return result
    parts = document if isinstance(document, dict) else {}
    if not isinstance(parts.get("images"), list) or not isinstance(parts.get("annotations"), list):
        raise ValueError(
            f"{source!r} is not COCO's JSON: expected an object with the lists images and annotations, or a list of "
            "results with image_id and segmentation each"
        )
    result = _of_annotations(source, parts["images"], parts["annotations"], ids, read)
    _refuse_without_masks(source, result, read)
    return result


def _refuse_without_masks(source: str, segmentations: Segmentations, read: ReadAnnotations) -> None:
    if not any(masks for masks, _ in segmentations.values()):
        why = "; ".join(read.lines()) or "it has no annotations of them"
        raise ValueError(
            f"{source!r} gives no mask for any of the {number_of(len(segmentations), 'image')} that it is for: "
            f"{why}; write a "
            "segmentation or a bbox for each annotation"
        )


def _of_annotations(
    source: str, images: list[Any], annotations: list[Any], ids: Collection[str], read: ReadAnnotations
) -> Segmentations:
    by_name = ImagesByName(ids)
    by_number: dict[Any, list[Any]] = {}
    result: Segmentations = {}
    for image in images:
        name = _field(source, "image", image, "file_name")
        segmentations = by_number.setdefault(_field(source, "image", image, "id"), [])
        image_id = by_name.get(name) or by_name.get(PurePosixPath(name).stem)
        if image_id in result:
            raise ValueError(
                f"{source!r} has two images for the id {image_id!r}, one of them {name!r}; give one file for each "
                "folder of images"
            )
        if image_id is not None:
            size = [image.get("height"), image.get("width")]
            result[image_id] = (segmentations, size if all(size) else None)
    if not result:
        raise no_image_error(source, [image["file_name"] for image in images], ids)
    for place, annotation in enumerate(annotations):
        number = _field(source, "annotation", annotation, "image_id")
        name = str(annotation.get("id", f"number {place} in the file"))
        if number not in by_number:
            read.left_out.append(f"{name} (of image {number!r}, which is not in the file)")
        elif (segmentation := _segmentation(annotation, name, read)) is not None:
            by_number[number].append(segmentation)
    return result


def _of_results(
    source: str, results: list[Any], ids: Collection[str], read: ReadAnnotations
) -> Segmentations:
    by_name = ImagesByName(ids)
    by_number: dict[str, list[str]] = {}
    for image_id in ids:
        if image_id.isascii() and image_id.isdecimal():
            by_number.setdefault(image_id.lstrip("0"), []).append(image_id)
    segmentations: Segmentations = {image_id: ([], None) for image_id in ids}
    unmatched = []
    for place, result in enumerate(results):
        name = str(_field(source, "result", result, "image_id"))
        exact = by_name.exact(name)
        matches = [exact] if exact is not None else by_number.get(name.lstrip("0"), [])
        folded = by_name.get(name)
        matches = matches or ([folded] if folded is not None else [])
        if len(matches) > 1:
            raise ValueError(
                f"{source!r} has a mask of image {name}, which may be {matches[0]!r} or {matches[1]!r}; write the id "
                "out"
            )
        if not matches:
            unmatched.append(name)
            continue
        segmentation = _segmentation(result, str(result.get("id", f"number {place} in the file")), read)
        if segmentation is not None:
            segmentations[matches[0]][0].append(segmentation)
    if len(unmatched) == len(results):
        raise no_image_error(source, unmatched, ids)
    return segmentations


def _segmentation(annotation: Mapping[str, Any], name: str, read: ReadAnnotations) -> Any:
    """Run lengths or a list of polygons from an annotation, from its box if it has none; None if it has neither."""
    given = annotation.get("segmentation")
    if isinstance(given, dict):
        return given
    parts = given if isinstance(given, list) else []
    if parts and all(map(_is_number, parts)):
        parts = [parts]
    polygons = [part for part in parts if _is_polygon(part)]
    if polygons:
        if len(polygons) < len(parts):
            read.trimmed.append(name)
        return polygons
    box = annotation.get("bbox")
    if isinstance(box, list) and len(box) == 4 and all(map(_is_number, box)) and box[2] > 0 and box[3] > 0:
        read.boxes.append(name)
        x, y, width, height = box
        return [[x, y, x + width, y, x + width, y + height, x, y + height]]
    read.left_out.append(name)
    return None


def _is_polygon(part: Any) -> bool:
    """Whether it is a flat list of x, y of at least three corners."""
    return isinstance(part, list) and len(part) >= 6 and len(part) % 2 == 0 and all(map(_is_number, part))


def _is_number(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 53


def _field(source: str, thing: str, entry: Any, name: str) -> Any:
    """A field of an entry, of one of COCO's types for it."""
    if not isinstance(entry, dict) or not isinstance(entry.get(name), _TYPES[name]):
        raise ValueError(
            f"{source!r} is not COCO's JSON of masks: it has the {thing} {json.dumps(entry)[:80]}, without a {name} "
            f"of kind {' or '.join(kind.__name__ for kind in _TYPES[name])}"
        )
    return entry[name]
