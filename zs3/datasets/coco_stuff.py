"""COCO-Stuff 164k, as its publisher's archives unpack.

    images/{train2017,val2017}/<id>.jpg
    annotations/{train2017,val2017}/<id>.png    from stuffthingmaps_trainval2017.zip; or in stuffthingmaps/

A mask's value is the COCO category id less one: 0..181, of which 171 occur; 255 is unlabelled.
"""

import numpy as np
from numpy.typing import NDArray

from zs3.datasets.listing import ImageRef, by_stem, files_below, images_below, is_folder, joined, paired
from zs3.datasets.truth import checked_truth
from zs3.images.codec import decode_label_png
from zs3.vocabulary import Vocabulary

_VOID = 255
_FOLDERS = {"train": "train2017", "val": "val2017", "train2017": "train2017", "val2017": "val2017"}
_MASK_FOLDERS = ("annotations", "stuffthingmaps", "annotations/stuffthingmaps", "stuffthingmaps_trainval2017")


def index(root: str, split: str) -> tuple[ImageRef, ...]:
    """References of a split (`train` or `val`), sorted by id.

    Raises:
        FileNotFoundError: folders or masks are missing.
        ValueError: no such split.
    """
    if split not in _FOLDERS:
        raise ValueError(f"coco_stuff has no split {split!r}; it has: {', '.join(_FOLDERS)}")
    folder = _FOLDERS[split]
    images = by_stem(images_below(joined(root, "images", folder)))
    masks = [joined(root, place, folder) for place in _MASK_FOLDERS]
    masks = [place for place in masks if is_folder(place)]
    return paired(
        sorted(images),
        images=images,
        truths=by_stem(files_below(masks[0], (".png",))) if masks else {},
        where=f"coco_stuff split {split!r} at {root!r}",
    )


def truth(data: bytes, vocabulary: Vocabulary) -> NDArray[np.int32]:
    """Class ids of a mask file; unlabelled pixels are the vocabulary's ignore id."""
    return checked_truth(decode_label_png(data), vocabulary, void=_VOID)
