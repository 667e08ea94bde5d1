"""From the values in a mask file to the ids of a vocabulary."""

# H W pixels

import numpy as np
from numpy.typing import NDArray

from zs3.vocabulary import Vocabulary
from zs3.wording import first_names


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
        raise ValueError(
            f"truth holds {first_names(outside)} on {pixels[outside].sum()} pixels, "
            f"but vocabulary {vocabulary.name!r} has {len(ids)} classes, ids {ids.min()}..{ids.max()}, and "
            f"void is {void}; is this the class list of these masks?"
        )
    return np.where(raw_HW == void, vocabulary.ignore_id, raw_HW).astype(np.int32)
