"""PASCAL Context: the label maps of its publisher's trainval.tar.gz, unpacked into the folder of VOC 2010.

    JPEGImages/<id>.jpg   trainval/<id>.mat   pascalcontext_<split>.txt or ImageSets/Main/<split>.txt

`LabelMap` of a .mat file numbers 459 classes from 1, in the order of labels.txt; 0 is no class. The 59 classes of the
smaller benchmark are some of them, and all others are void there.
"""

import io

import numpy as np
from numpy.typing import NDArray
from scipy.io import loadmat, whosmat

from zs3.datasets.listing import ImageRef, by_stem, files_below, is_folder, joined, paired, read_text
from zs3.images.codec import DEFAULT_MAX_PIXELS, ImageError
from zs3.vocabulary import Vocabulary

_VARIABLE = "LabelMap"


def index(root: str, split: str) -> tuple[ImageRef, ...]:
    """References of a split, in the order of its list; images without a label map are left out of ImageSets/Main.

    Raises:
        FileNotFoundError: there is no such list, or files that it lists are missing.
    """
    truths = by_stem(files_below(joined(root, "trainval"), (".mat",)))
    lists = files_below(root, (f"pascalcontext_{split}.txt", f"/{split}.txt"))
    own, published = f"pascalcontext_{split}.txt", f"ImageSets/Main/{split}.txt"
    if own not in lists and published not in lists:
        raise FileNotFoundError(f"pascal_context at {root!r} has neither {own} nor {published}")
    ids = read_text(lists[own if own in lists else published]).split()
    images = joined(root, "JPEGImages")
    return paired(
        [image_id for image_id in ids if own in lists or image_id in truths],
        images=by_stem(files_below(images, (".jpg",))) if is_folder(images) else {},
        truths=truths,
        where=f"pascal_context split {split!r} at {root!r}",
    )


def truth(data: bytes, vocabulary: Vocabulary) -> NDArray[np.int32]:
    """Class ids of a .mat file; classes that are not in the vocabulary are its ignore id."""
    try:
        held = {name: shape for name, shape, _ in whosmat(io.BytesIO(data))}
        shape = held.get(_VARIABLE, ())
        if len(shape) != 2 or shape[0] * shape[1] > DEFAULT_MAX_PIXELS:  # before memory is taken for it
            raise ImageError(
                "unsupported",
                f"{_VARIABLE} has shape {shape}, expected (height, width); the file holds {held}",
            )
        label_map_HW = loadmat(io.BytesIO(data), variable_names=[_VARIABLE])[_VARIABLE]
    except ImageError:
        raise
    except Exception as error:  # scipy raises what it meets in a damaged file
        raise ImageError("unreadable", f"not a readable .mat file: {error}") from error
    if not np.issubdtype(label_map_HW.dtype, np.integer):
        raise ImageError("unsupported", f"{_VARIABLE} holds {label_map_HW.dtype}, expected whole numbers")
    in_vocabulary_HW = np.isin(label_map_HW, [entry.id for entry in vocabulary.classes])
    return np.where(in_vocabulary_HW, label_map_HW, vocabulary.ignore_id).astype(np.int32)
