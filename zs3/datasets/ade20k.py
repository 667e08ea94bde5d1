"""ADE20K-150, as the publisher's archive ADEChallengeData2016 unpacks.

    images/{training,validation}/<id>.jpg   annotations/{training,validation}/<id>.png

A mask's value is the number of the class, 1..150; 0 is every other thing, and no class.
"""

import numpy as np
from numpy.typing import NDArray

from zs3.datasets.listing import ImageRef, by_stem, files_below, is_folder, joined, paired
from zs3.datasets.truth import checked_truth
from zs3.images.codec import decode_label_png
from zs3.vocabulary import Vocabulary

_FOLDERS = {"train": "training", "val": "validation", "training": "training", "validation": "validation"}
_OTHER = 0


def index(root: str, split: str) -> tuple[ImageRef, ...]:
    """References of a split (`train` or `val`), sorted by id.

    Raises:
        FileNotFoundError: the split's folder or masks are missing.
        ValueError: no such split.
    """
    if split not in _FOLDERS:
        raise ValueError(f"ade20k_150 has no split {split!r}; it has: {', '.join(_FOLDERS)}")
    images = by_stem(files_below(joined(root, "images", _FOLDERS[split]), (".jpg",)))
    masks = joined(root, "annotations", _FOLDERS[split])
    return paired(
        sorted(images),
        images=images,
        truths=by_stem(files_below(masks, (".png",))) if is_folder(masks) else {},
        where=f"ade20k_150 split {split!r} at {root!r}",
    )


def truth(data: bytes, vocabulary: Vocabulary) -> NDArray[np.int32]:
    """Class ids of a mask file; 0 is the vocabulary's ignore id."""
    return checked_truth(decode_label_png(data), vocabulary, void=_OTHER)
