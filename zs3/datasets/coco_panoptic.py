"""COCO panoptic, as its publisher's archives unpack: every thing is a segment of its own. Read for training alone.

    images/{train2017,val2017}/<id>.jpg
    annotations/panoptic_{train2017,val2017}.json   annotations/panoptic_{train2017,val2017}/<id>.png

The colour of a pixel is the number of its segment, r + 256 g + 65536 b; the .json says which class a segment has.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from zs3.datasets.listing import ImageRef, by_stem, files_below, images_below, joined, paired
from zs3.files import parsed_json, read_file
from zs3.images.codec import decode
from zs3.vocabulary import Vocabulary

_MAX_JSON_BYTES = 2 << 30


def index(root: str, split: str) -> tuple[ImageRef, ...]:
    """References of a split (`train` or `val`), with the segments of each picture that are no crowds, sorted by id.

    Raises:
        FileNotFoundError: folders, the .json or masks are missing.
        ValueError: no such split, or the .json is not COCO's.
    """
    if split not in ("train", "val"):
        raise ValueError(f"coco_panoptic has no split {split!r}; it has: train, val")
    name = f"panoptic_{split}2017"
    listing = joined(root, "annotations", f"{name}.json")
    segments = segments_of(parsed_json(read_file(listing, _MAX_JSON_BYTES), listing), listing)
    return paired(
        sorted(segments),
        images=by_stem(images_below(joined(root, "images", f"{split}2017"))),
        truths=by_stem(files_below(joined(root, "annotations", name), (".png",))),
        where=f"coco_panoptic split {split!r} at {root!r}",
        segments=segments,
    )


def segments_of(content: Any, origin: str) -> dict[str, tuple[tuple[int, int], ...]]:
    """Image id → (number, class id) of each of its segments that is no crowd.

    Raises:
        ValueError: the content is not that of COCO's panoptic .json.
    """
    try:
        return {
            entry["file_name"].removesuffix(".png"): tuple(
                (int(segment["id"]), int(segment["category_id"]))
                for segment in entry["segments_info"]
                if not segment.get("iscrowd")
            )
            for entry in content["annotations"]
        }
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        raise ValueError(
            f"{origin} is no panoptic listing of COCO ({error!r}); expected annotations with file_name and "
            "segments_info"
        ) from error


def truth(
    data: bytes, vocabulary: Vocabulary, segments: tuple[tuple[int, int], ...]
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """(H, W) class ids, and which segment of its class a pixel is in, from 0; other pixels have the ignore id.

    Raises:
        ImageError: not a picture, or damaged.
        ValueError: a segment has a class that is not in the vocabulary.
    """
    known = {entry.id for entry in vocabulary.classes}
    for number, class_id in segments:
        if class_id not in known:
            raise ValueError(f"segment {number} is of class {class_id}, which {vocabulary.name!r} has not")
    red, green, blue = decode(data).astype(np.int32).transpose(2, 0, 1)
    numbers, places = np.unique(red + 256 * green + 65536 * blue, return_inverse=True)
    classes, instances = (
        np.full(len(numbers), vocabulary.ignore_id, np.int32),
        np.zeros(len(numbers), np.int32),
    )
    counts: dict[int, int] = {}
    for number, class_id in segments:
        classes[numbers == number], instances[numbers == number] = class_id, counts.get(class_id, 0)
        counts[class_id] = counts.get(class_id, 0) + 1
    return classes[places].reshape(red.shape), instances[places].reshape(red.shape)
