"""Label maps as PNG files: palette mode up to class id 254, 16-bit grey for longer class lists."""

# H W pixels

import numpy as np
from numpy.typing import NDArray

from zs3.images.codec import encode_label_png

VOID_8 = 255
"""Pixel value of palette files where nothing was labelled."""

VOID_16 = 65535
"""Pixel value of 16-bit files where nothing was labelled; there 255 may be a class."""


def needs_16_bits(top_id: int) -> bool:
    """Whether files of a class list with this maximum id have 16 bits; all files of an export have the same depth."""
    return top_id >= VOID_8


def png_bytes(label_map_HW: NDArray[np.integer], *, ignore_id: int, wide: bool) -> bytes:
    """The PNG file of one label map.

    Args:
        label_map_HW: class ids, `ignore_id` where nothing was labelled.
        ignore_id: the value that is no class; written as `VOID_8` or `VOID_16`.
        wide: 16-bit grey instead of a palette, see `needs_16_bits`.

    Raises:
        ValueError: a class id does not fit.
    """
    void = VOID_16 if wide else VOID_8
    labelled_HW = label_map_HW != ignore_id
    ids = label_map_HW[labelled_HW]
    if ids.size and (ids.min() < 0 or ids.max() >= void):
        raise ValueError(
            f"class ids {int(ids.min())}..{int(ids.max())} do not fit a PNG of {16 if wide else 8} bits; "
            f"expected 0..{void - 1}"
        )
    return encode_label_png(np.where(labelled_HW, label_map_HW, void), wide=wide)
