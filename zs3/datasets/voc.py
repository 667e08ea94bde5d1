"""PASCAL VOC 2012, as its development kit lays it out.

    JPEGImages/<id>.jpg   SegmentationClass/<id>.png   ImageSets/Segmentation/<split>.txt   (one id a line)

The 10,582 training images of the augmented lists (SBD) have their masks in SegmentationClassAug; a split
whose name holds "aug" reads them from there where that folder exists.
"""

from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

from zs3.datasets.listing import (
    ImageRef,
    by_stem,
    files_below,
    images_below,
    is_folder,
    joined,
    paired,
    read_text,
)
from zs3.datasets.truth import checked_truth
from zs3.images.codec import decode_label_png
from zs3.vocabulary import Vocabulary

_VOID, _BACKGROUND = 255, 0


def index(root: str, split: str) -> tuple[ImageRef, ...]:
    """References of a split, in the order of its list.

    Raises:
        FileNotFoundError: no such list (those that exist are named), or files it lists are missing.
    """
    lists = files_below(joined(root, "ImageSets", "Segmentation"), (".txt",))
    if f"{split}.txt" not in lists:
        names = ", ".join(PurePosixPath(name).stem for name in lists) or "none"
        raise FileNotFoundError(
            f"voc at {root!r} has no split {split!r}; its ImageSets/Segmentation holds: {names}"
        )
    # Some augmented lists in use hold "/JPEGImages/<id>.jpg /SegmentationClassAug/<id>.png" instead of ids.
    lines = [line.split() for line in read_text(lists[f"{split}.txt"]).splitlines()]
    ids = [PurePosixPath(parts[0]).stem for parts in lines if parts]
    augmented = joined(root, "SegmentationClassAug")
    masks = (
        augmented if "aug" in split.lower() and is_folder(augmented) else joined(root, "SegmentationClass")
    )
    return paired(
        ids,
        images=by_stem(images_below(joined(root, "JPEGImages"))),
        truths=by_stem(files_below(masks, (".png",))) if is_folder(masks) else {},
        where=f"voc split {split!r} at {root!r}",
    )


def truth(data: bytes, vocabulary: Vocabulary) -> NDArray[np.int32]:
    """Class ids of a mask file; the void border, and background that is no class, are the vocabulary's ignore id."""
    raw_HW = decode_label_png(data)
    if all(entry.id != _BACKGROUND for entry in vocabulary.classes):
        raw_HW = np.where(raw_HW == _BACKGROUND, _VOID, raw_HW)
    return checked_truth(raw_HW, vocabulary, void=_VOID)
