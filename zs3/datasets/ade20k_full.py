"""ADE20K Full (release 2021_17_01), as its publisher's archive unpacks.

    images/ADE/{training,validation}/<scene>/<place>/<id>.jpg    and <id>_seg.png in the same folder

The colours of a `_seg.png` code the class: index = R // 10 * 256 + G (blue codes the instance). Of some 3,000
indices the 847 that occur in both splits are in the vocabulary; every other one, and 0, is void.
"""

from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

from zs3.datasets.listing import ImageRef, files_below, joined, paired
from zs3.images.codec import decode
from zs3.vocabulary import Vocabulary

_FOLDERS = {"train": "training", "val": "validation", "training": "training", "validation": "validation"}
_SEGMENTATION = "_seg.png"


def index(root: str, split: str) -> tuple[ImageRef, ...]:
    """References of a split (`train` or `val`), sorted by id.

    Raises:
        FileNotFoundError: the split's folder or masks are missing.
        ValueError: no such split.
    """
    if split not in _FOLDERS:
        raise ValueError(f"ade20k_full has no split {split!r}; it has: {', '.join(_FOLDERS)}")
    files = files_below(joined(root, "images", "ADE", _FOLDERS[split]), (".jpg", _SEGMENTATION))
    named = {PurePosixPath(path).name: uri for path, uri in files.items()}
    images = {name.removesuffix(".jpg"): uri for name, uri in named.items() if name.endswith(".jpg")}
    truths = {
        name.removesuffix(_SEGMENTATION): uri for name, uri in named.items() if name.endswith(_SEGMENTATION)
    }
    return paired(
        sorted(images), images=images, truths=truths, where=f"ade20k_full split {split!r} at {root!r}"
    )


def truth(data: bytes, vocabulary: Vocabulary) -> NDArray[np.int32]:
    """Class ids of a `_seg.png`; objects that are not in the vocabulary are its ignore id."""
    colours_HWC = decode(data).astype(np.int32)
    indices_HW = colours_HWC[..., 0] // 10 * 256 + colours_HWC[..., 1]
    in_vocabulary_HW = np.isin(indices_HW, [entry.id for entry in vocabulary.classes])
    return np.where(in_vocabulary_HW, indices_HW, vocabulary.ignore_id).astype(np.int32)
