"""Which image a mask from elsewhere is for: by the names of files, or by what COCO's JSON calls the image.

A file named as an image's id without its extension is for that image too, unless it would be for two. COCO's
`file_name` is an id with or without folder and extension; a list of results has the id, or its number (139 is
000000000139).
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from pathlib import PurePosixPath
from typing import Any

from zs3.datasets.listing import IMAGE_SUFFIXES

_KINDS: dict[str, tuple[type, ...]] = {
    "id": (int, str),
    "file_name": (str,),
    "image_id": (int, str),
    "segmentation": (list, dict),
}


def names_of(ids: Collection[str]) -> dict[str, str]:
    """Every name that means one of the images → its id: the id, and the id without an image's extension."""
    names: dict[str, str] = {}
    twice: set[str] = set()
    for image_id in ids:
        path = PurePosixPath(image_id)
        if path.suffix.lower() in IMAGE_SUFFIXES:
            bare = str(path.with_suffix(""))
            twice |= {bare} & names.keys()
            names[bare] = image_id
    return {bare: one for bare, one in names.items() if bare not in twice} | {one: one for one in ids}


def no_image(source: str, found: Sequence[str], ids: Collection[str]) -> ValueError:
    """The error that no mask is for any of the images."""
    theirs, ours = (", ".join(map(repr, sorted(some)[:3])) or "none at all" for some in (found, ids))
    return ValueError(
        f"the masks at {source!r} are for none of the {len(ids)} images: masks are for images called {theirs}, and the "
        f"images are called {ours}; masks are found by image id, a file's name without folder and extension"
    )


def coco_segmentations(
    source: str, data: bytes, ids: Collection[str]
) -> dict[str, tuple[list[Any], list[Any] | None]]:
    """Image id → its segmentations in COCO's JSON, and the height and width that it tells of the image, if it does.

    A list of results names no images, so there an image without any is one without masks. Segmentations themselves are
    not looked into.

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
) -> dict[str, tuple[list[Any], list[Any] | None]]:
    names = names_of(ids)
    by_number: dict[Any, list[Any]] = {}
    found: dict[str, tuple[list[Any], list[Any] | None]] = {}
    for image in images:
        name = _field(source, "image", image, "file_name")
        held = by_number.setdefault(_field(source, "image", image, "id"), [])
        image_id = names.get(name) or names.get(PurePosixPath(name).stem)
        if image_id in found:
            raise ValueError(
                f"{source!r} has two images for the id {image_id!r}, one of them {name!r}; give one file for each "
                "folder of images"
            )
        if image_id is not None:
            size = [image["height"], image["width"]] if "height" in image and "width" in image else None
            found[image_id] = (held, size)
    if not found:
        raise no_image(source, [image["file_name"] for image in images], ids)
    for annotation in annotations:
        number = _field(source, "annotation", annotation, "image_id")
        if number not in by_number:
            raise ValueError(
                f"{source!r} has an annotation of image {number!r}, which is not among its images; is it complete?"
            )
        by_number[number].append(_field(source, "annotation", annotation, "segmentation"))
    return found


def _of_results(
    source: str, results: list[Any], ids: Collection[str]
) -> dict[str, tuple[list[Any], list[Any] | None]]:
    names = names_of(ids)
    numbers: dict[str, list[str]] = {}
    for image_id in ids:
        if image_id.isascii() and image_id.isdecimal():
            numbers.setdefault(image_id.lstrip("0"), []).append(image_id)
    found: dict[str, tuple[list[Any], list[Any] | None]] = {image_id: ([], None) for image_id in ids}
    unmatched = []
    for result in results:
        told = str(_field(source, "result", result, "image_id"))
        segmentation = _field(source, "result", result, "segmentation")
        same = [names[told]] if told in names else numbers.get(told.lstrip("0"), [])
        if len(same) > 1:
            raise ValueError(
                f"{source!r} has a mask of image {told}, which may be {same[0]!r} or {same[1]!r}; write the id out"
            )
        if same:
            found[same[0]][0].append(segmentation)
        else:
            unmatched.append(told)
    if len(unmatched) == len(results):
        raise no_image(source, unmatched, ids)
    return found


def _field(source: str, thing: str, entry: Any, name: str) -> Any:
    """A field of an entry, of the kind that COCO has there."""
    if not isinstance(entry, dict) or not isinstance(entry.get(name), _KINDS[name]):
        raise ValueError(
            f"{source!r} is not COCO's JSON of masks: it has the {thing} {json.dumps(entry)[:80]}, without a {name} "
            f"of kind {' or '.join(kind.__name__ for kind in _KINDS[name])}"
        )
    return entry[name]
