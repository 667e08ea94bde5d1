"""External masks of one picture: from a label PNG, from PNGs of one mask each, or from COCO's JSON.

Nothing in these files is trusted: sizes are checked before pixels are decoded, run lengths before they are expanded,
polygons before they are drawn. Empty masks are left out.
"""

# H W pixels
from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from zs3.images.codec import ImageError, decode_label_png
from zs3.masks.binary import MAX_CELLS, mask_of_runs, run_lengths

MAX_OUTLINE = 1_000_000
"""Upper bound on the pixels of a mask's outline as polygons; that of a picture of 4000 x 3000 has 14,000."""

Kind = Literal["missing", "wrong_size", "damaged", "too_many"]
Size = tuple[int, int]


class ExternalMaskError(ValueError):
    """Masks of a picture that cannot be used; `kind` is missing, wrong_size, damaged or too_many."""

    def __init__(self, kind: Kind, message: str) -> None:
        super().__init__(message)
        self.kind: Kind = kind


def masks_of_label_png(
    data: bytes, picture_hw: Size, name: str, *, max_pixels: int
) -> Iterator[NDArray[np.bool_]]:
    """The (H, W) mask of each value of a label PNG, ascending; 0 and the ignore value are no mask.

    The ignore value is 255 in a PNG of up to 8 bits and 65535 in one of 16. A grey PNG of 0 and this value alone is a
    binary mask, whose pixels that are not 0 are inside.

    Raises:
        ImageError: it is no label PNG, or has more than `max_pixels` pixels.
        ExternalMaskError: it has another size than the picture, or too many values.
    """
    labels_HW = _values(data, name, max_pixels)
    _check_size(labels_HW.shape, picture_hw, name)
    values = mask_values(labels_HW, data)
    _check_number(len(values), picture_hw, name)
    return (labels_HW == value for value in values)


def mask_values(labels_HW: NDArray[np.int32], data: bytes) -> list[int]:
    """The values of a label PNG that are masks, ascending; `data` is the file."""
    bits, colour_type = data[24], data[25]  # where a PNG has them
    ignore = 65535 if bits == 16 else 255
    present = np.flatnonzero(np.bincount(labels_HW.ravel())).tolist()
    if colour_type == 0 and present == [0, ignore]:
        return [ignore]
    return [value for value in present if value not in (0, ignore)]


def masks_of_pngs(
    files: Sequence[tuple[str, bytes]], picture_hw: Size, *, max_pixels: int
) -> Iterator[NDArray[np.bool_]]:
    """The (H, W) mask of each PNG, (name, content); values other than 0 are inside.

    Raises:
        ImageError: one is no grey or palette PNG, or has more than `max_pixels` pixels.
        ExternalMaskError: one has another size than the picture, or there are too many.
    """
    _check_number(len(files), picture_hw, files[0][0].rpartition("/")[0] if files else "")
    for name, data in files:
        values_HW = _values(data, name, max_pixels)
        _check_size(values_HW.shape, picture_hw, name)
        if values_HW.any():
            yield values_HW != 0


def masks_of_coco(
    segmentations: Sequence[Any], picture_hw: Size, name: str, *, json_hw: Sequence[int] | None = None
) -> Iterator[NDArray[np.bool_]]:
    """The (H, W) mask of each `segmentation` of COCO: run lengths, compressed or not, or polygons.

    Args:
        json_hw: height and width of the picture in the JSON, if it has them.

    Raises:
        ExternalMaskError: one is damaged or for a picture of another size, or there are too many.
    """
    if json_hw is not None:
        _check_size(tuple(json_hw), picture_hw, name)
    _check_number(len(segmentations), picture_hw, name)
    for index, segmentation in enumerate(segmentations):
        mask_name = f"mask {index} of {len(segmentations)} in {name}"
        try:
            if isinstance(segmentation, Mapping):
                _check_size(tuple(segmentation["size"]), picture_hw, mask_name)
                counts = segmentation["counts"]
                runs = run_lengths(counts.encode("ascii")) if isinstance(counts, str) else counts
                mask_HW = mask_of_runs(runs, *picture_hw)
            else:
                mask_HW = _polygons(segmentation, picture_hw)
        except ExternalMaskError:
            raise
        except (ValueError, TypeError, KeyError, OverflowError) as error:
            raise ExternalMaskError(
                "damaged", f"{mask_name} cannot be read: {error}; expected run lengths or polygons of COCO"
            ) from error
        if mask_HW.any():
            yield mask_HW


def _polygons(polygons: Any, picture_hw: Size) -> NDArray[np.bool_]:
    """(H, W) bool: the union of polygons, each a flat list of x, y in pixels."""
    height, width = picture_hw
    # pycocotools takes four numbers for a box, and draws lines of any length.
    corners = [np.asarray(polygon, np.float64) for polygon in polygons]
    for flat in corners:
        if flat.ndim != 1 or len(flat) < 6 or len(flat) % 2:
            raise ValueError(f"a polygon has {flat.size} numbers; expected x and y of at least three corners")
        if not (np.isfinite(flat).all() and np.abs(flat).max() <= 2 * max(height, width)):
            raise ValueError(f"a polygon leads far out of the picture of {height} x {width}")
    outline = sum(float(np.abs(np.diff(flat.reshape(-1, 2), axis=0)).max(axis=1).sum()) for flat in corners)
    if outline > MAX_OUTLINE:  # pycocotools takes some hundred bytes for each pixel of an outline
        raise ValueError(f"its outline of {outline:.0f} pixels is longer than {MAX_OUTLINE}")
    if not corners:
        return np.zeros(picture_hw, np.bool_)
    drawn = coco_mask.merge(coco_mask.frPyObjects([flat.tolist() for flat in corners], height, width))
    return mask_of_runs(run_lengths(drawn["counts"]), height, width)


def _values(data: bytes, name: str, max_pixels: int) -> NDArray[np.int32]:
    try:
        return decode_label_png(data, max_pixels=max_pixels)
    except ImageError as error:
        raise ImageError(error.kind, f"{name}: {error}") from error


def _check_size(size: tuple[Any, ...], picture_hw: Size, name: str) -> None:
    if size != picture_hw:
        raise ExternalMaskError(
            "wrong_size",
            f"{name} is {' x '.join(map(str, size))}, but its picture is {picture_hw[0]} x {picture_hw[1]} (height x "
            "width, upright); make the masks for the picture as it is, or give the pictures that they were made for",
        )


def _check_number(count: int, picture_hw: Size, name: str) -> None:
    max_count = MAX_CELLS // (picture_hw[0] * picture_hw[1])
    if count > max_count:
        raise ExternalMaskError(
            "too_many",
            f"{name} has {count} masks; of a picture of {picture_hw[0]} x {picture_hw[1]}, {max_count} fit into "
            "memory; give fewer masks, or a smaller picture",
        )
