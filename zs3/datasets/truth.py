"""From the values in a mask file to the ids of a vocabulary."""

# H W pixels

import numpy as np
from numpy.typing import NDArray

from zs3.vocabulary import Vocabulary
from zs3.wording import first_names, number_of

BINARY = (1, 255, 65535)
"""Values of the inside in binary masks: mode 1, 8 bits, 16 bits."""

BINARY_REPAIR = (
    "Masks of 0 and one of 1, 255 and 65535 are binary: with one class, give it that value as its id and set "
    "ignore_index "
    "to 0 in classes.json; with several, save the class id of each pixel"
)


def checked_truth(raw_HW: NDArray[np.integer], vocabulary: Vocabulary, void: int) -> NDArray[np.int32]:
    """Class ids of the vocabulary, (H, W) int32; `void` becomes `vocabulary.ignore_id`.

    Raises:
        ValueError: a value that is neither a class id nor void.
    """
    ids = np.array([entry.id for entry in vocabulary.classes])
    pixels = np.bincount(raw_HW.ravel())
    values = np.flatnonzero(pixels)
    outside = values[~np.isin(values, ids) & (values != void)]
    if outside.size:
        binary = (
            f" {BINARY_REPAIR}." if values.size <= 2 and set(values.tolist()) - {0} <= set(BINARY) else ""
        )
        raise ValueError(
            f"truth holds {first_names(outside)} on {number_of(pixels[outside].sum(), 'pixel')}, "
            f"but vocabulary {vocabulary.name!r} has {number_of(len(ids), 'class', 'classes')}, ids "
            f"{ids.min()}..{ids.max()}, and "
            f"void is {void}; is this the class list of these masks?{binary}"
        )
    return np.where(raw_HW == void, vocabulary.ignore_id, raw_HW).astype(np.int32)
