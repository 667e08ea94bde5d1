"""Which image an external mask belongs to: by the names of files, or by image names and numbers in COCO's JSON.

A file name means the image with that id, or with that id and an image's extension, unless two images fit. COCO's
`file_name` is an id with or without folder and extension; a list of results has the id or its number (139 is
000000000139).
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from pathlib import PurePosixPath
from typing import Any

from zs3.images.codec import IMAGE_SUFFIXES
from zs3.wording import first_names

Segmentations = dict[str, tuple[list[Any], list[Any] | None]]
"""Image id → its segmentations in COCO's JSON, and its height and width there, if it has them."""

_TYPES: dict[str, tuple[type, ...]] = {
    "id": (int, str),
    "file_name": (str,),
    "image_id": (int, str),
    "segmentation": (list, dict),
}


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


def no_image_error(source: str, names: Sequence[str], ids: Collection[str]) -> ValueError:
    """The error that no mask belongs to any of the images."""
    mask_names, image_names = (first_names(map(repr, sorted(some)), 3) for some in (names, ids))
    return ValueError(
        f"the masks at {source!r} are for none of the {len(ids)} images: masks are for images called {mask_names}, and "
        f"the images are called {image_names}; masks are found by image id, a file's name without folder and extension"
    )


def coco_segmentations(source: str, data: bytes, ids: Collection[str]) -> Segmentations:
    """The segmentations of each image in COCO's JSON; they are not checked here.

    A list of results names no images, so images that it does not mention have no masks.

    Args:
        source: what messages call the file.
        data: the file.

    Raises:
        ValueError: it is no such JSON, or for none of these images.
    """
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{source!r} is no JSON: {error}; expected COCO's, or a folder of PNGs") from error
    if isinstance(document, list):
        return _of_results(source, document, ids)
    parts = document if isinstance(document, dict) else {}
    if not isinstance(parts.get("images"), list) or not isinstance(parts.get("annotations"), list):
        raise ValueError(
            f"{source!r} is not COCO's JSON: expected an object with the lists images and annotations, or a list of "
            "results with image_id and segmentation each"
        )
    return _of_annotations(source, parts["images"], parts["annotations"], ids)


def _of_annotations(
    source: str, images: list[Any], annotations: list[Any], ids: Collection[str]
) -> Segmentations:
    by_name = ids_by_name(ids)
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
            size = [image["height"], image["width"]] if "height" in image and "width" in image else None
            result[image_id] = (segmentations, size)
    if not result:
        raise no_image_error(source, [image["file_name"] for image in images], ids)
    for annotation in annotations:
        number = _field(source, "annotation", annotation, "image_id")
        if number not in by_number:
            raise ValueError(
                f"{source!r} has an annotation of image {number!r}, which is not among its images; is it complete?"
            )
        by_number[number].append(_field(source, "annotation", annotation, "segmentation"))
    return result


def _of_results(source: str, results: list[Any], ids: Collection[str]) -> Segmentations:
    by_name = ids_by_name(ids)
    by_number: dict[str, list[str]] = {}
    for image_id in ids:
        if image_id.isascii() and image_id.isdecimal():
            by_number.setdefault(image_id.lstrip("0"), []).append(image_id)
    segmentations: Segmentations = {image_id: ([], None) for image_id in ids}
    unmatched = []
    for result in results:
        name = str(_field(source, "result", result, "image_id"))
        segmentation = _field(source, "result", result, "segmentation")
        matches = [by_name[name]] if name in by_name else by_number.get(name.lstrip("0"), [])
        if len(matches) > 1:
            raise ValueError(
                f"{source!r} has a mask of image {name}, which may be {matches[0]!r} or {matches[1]!r}; write the id "
                "out"
            )
        if matches:
            segmentations[matches[0]][0].append(segmentation)
        else:
            unmatched.append(name)
    if len(unmatched) == len(results):
        raise no_image_error(source, unmatched, ids)
    return segmentations


def _field(source: str, thing: str, entry: Any, name: str) -> Any:
    """A field of an entry, of one of COCO's types for it."""
    if not isinstance(entry, dict) or not isinstance(entry.get(name), _TYPES[name]):
        raise ValueError(
            f"{source!r} is not COCO's JSON of masks: it has the {thing} {json.dumps(entry)[:80]}, without a {name} "
            f"of kind {' or '.join(kind.__name__ for kind in _TYPES[name])}"
        )
    return entry[name]
