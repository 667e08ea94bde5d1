"""The layout for your own data.

    images/           pictures, also in subfolders
    masks/            a PNG of the same path and name per image; its value is the class id, 255 is void
    classes.json      {"classes": [{"id": 1, "name": "cat", "role": "seen"}, ...], "ignore_index": 255}
                      role: seen, unseen, background or excluded
    splits.json       {"train": [image ids], "val": [image ids]}

Without splits.json there is one split, "all".
"""

from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

from zs3.datasets.listing import ImageRef, files_below, images_below, is_folder, joined, paired
from zs3.datasets.truth import checked_truth
from zs3.files import parsed_json, read_file
from zs3.images.codec import decode_label_png, image_ids
from zs3.vocabulary import Vocabulary, load_vocabulary


def vocabulary(root: str) -> Vocabulary:
    """The classes of `classes.json`."""
    return load_vocabulary(joined(root, "classes.json"))


def index(root: str, split: str) -> tuple[ImageRef, ...]:
    """References of a split, in the order of `splits.json`.

    Raises:
        FileNotFoundError: no images folder, or files of the split are missing.
        ValueError: no such split (those that exist are named), or `splits.json` is malformed.
    """
    images = images_below(joined(root, "images"))
    ids = dict(zip(image_ids(list(images)), images))
    folder = joined(root, "masks")
    masks = files_below(folder, (".png",)) if is_folder(folder) else {}
    truths = {image_id: masks[mask] for image_id, path in ids.items() if (mask := _mask_path(path)) in masks}
    return paired(
        _split_ids(root, split, list(ids)),
        images={image_id: images[path] for image_id, path in ids.items()},
        truths=truths,
        where=f"folder split {split!r} at {root!r}",
    )


def truth(data: bytes, vocabulary: Vocabulary) -> NDArray[np.int32]:
    """Class ids of a mask file."""
    return checked_truth(decode_label_png(data), vocabulary, void=vocabulary.ignore_id)


def _mask_path(image_path: str) -> str:
    return str(PurePosixPath(image_path).with_suffix(".png"))


def _split_ids(root: str, split: str, every_id: list[str]) -> list[str]:
    try:
        data = read_file(joined(root, "splits.json"))
    except FileNotFoundError:
        splits = {"all": every_id}
    else:
        splits = parsed_json(data, f"splits.json at {root!r}", "correct it, or remove it to take every image")
    if not isinstance(splits, dict) or not all(isinstance(ids, list) for ids in splits.values()):
        raise ValueError(f"splits.json at {root!r} has to map each split's name to a list of image ids")
    if split not in splits:
        raise ValueError(f"folder data set at {root!r} has no split {split!r}; it has: {', '.join(splits)}")
    return [str(image_id) for image_id in splits[split]]
