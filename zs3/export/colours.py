"""A unique colour for every class, never black: other tools read black as no label."""

# H W pixels

from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zs3.images.codec import voc_colours

MAX_ID = (1 << 24) - 2
"""Maximum class id that has a colour."""

_BLACK, _WHITE = 0, (1 << 24) - 1


def class_colours(class_ids: NDArray[np.integer]) -> NDArray[np.uint8]:
    """(..., 3) uint8: the colours of PASCAL VOC, continued; class 0, black there, is white.

    Raises:
        ValueError: an id is negative or above `MAX_ID`.
    """
    ids = np.asarray(class_ids)
    if ids.size and (ids.min() < 0 or ids.max() > MAX_ID):
        raise ValueError(f"class ids {int(ids.min())}..{int(ids.max())} have no colour; expected 0..{MAX_ID}")
    return voc_colours(np.where(ids == _BLACK, _WHITE, ids))


def colour_png(label_map_HW: NDArray[np.integer], *, ignore_id: int) -> bytes:
    """An RGB PNG of the colours of classes, black where nothing was labelled.

    Args:
        label_map_HW: class ids, `ignore_id` where nothing was labelled.
        ignore_id: the value that is no class.

    Raises:
        ValueError: as `class_colours`.
    """
    ids, indices = np.unique(label_map_HW, return_inverse=True)
    colours = class_colours(np.where(ids == ignore_id, 1, ids))
    colours[ids == ignore_id] = 0
    file = BytesIO()
    Image.fromarray(colours[indices.reshape(label_map_HW.shape)]).save(file, "PNG")
    return file.getvalue()
