"""Masks from elsewhere, for one picture: out of a label PNG, out of PNGs with a mask each, or out of COCO's JSON.

All of it comes from outside: sizes are checked before pixels are decoded, run lengths before they are unrolled,
polygons before they are drawn. A mask without a pixel is left out.
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

Kind = Literal["missing", "wrong_size", "damaged", "too_many"]
Size = tuple[int, int]


class ProposalError(ValueError):
    """Masks of a picture that cannot be used. `kind` says why: missing, wrong_size, damaged or too_many."""

    def __init__(self, kind: Kind, message: str) -> None:
        super().__init__(message)
        self.kind: Kind = kind


def masks_of_label_png(
    data: bytes, picture_hw: Size, name: str, *, max_pixels: int
) -> Iterator[NDArray[np.bool_]]:
    """The (H, W) mask of each value of a label PNG, ascending.

    0 and void are no mask; void is 255 in a PNG of up to 8 bits and 65535 in one of 16.

    Raises:
        ImageError: it is no label PNG, or has more than `max_pixels` pixels.
        ProposalError: it has another size than the picture, or too many values.
    """
    labels_HW = _values(data, name, max_pixels)
    _check_size(labels_HW.shape, picture_hw, name)
    void = 65535 if data[24] == 16 else 255  # the byte is the bit depth of a PNG
    values = [
        int(value) for value in np.flatnonzero(np.bincount(labels_HW.ravel())) if value not in (0, void)
    ]
    _check_number(len(values), picture_hw, name)
    return (labels_HW == value for value in values)


def masks_of_pngs(
    files: Sequence[tuple[str, bytes]], picture_hw: Size, *, max_pixels: int
) -> Iterator[NDArray[np.bool_]]:
    """The (H, W) mask of each PNG, (name, content); what is not 0 is inside.

    Raises:
        ImageError: one is no grey or palette PNG, or has more than `max_pixels` pixels.
        ProposalError: one has another size than the picture, or there are too many.
    """
    _check_number(len(files), picture_hw, files[0][0].rpartition("/")[0] if files else "")
    for name, data in files:
        values_HW = _values(data, name, max_pixels)
        _check_size(values_HW.shape, picture_hw, name)
        if values_HW.any():
            yield values_HW != 0


def masks_of_coco(
    segmentations: Sequence[Any], picture_hw: Size, name: str, *, told_hw: Sequence[int] | None = None
) -> Iterator[NDArray[np.bool_]]:
    """The (H, W) mask of each `segmentation` of COCO: run lengths, compressed or not, or polygons.

    Args:
        told_hw: height and width that the JSON tells of the picture, where it does.

    Raises:
        ProposalError: one is damaged, or made for a picture of another size, or there are too many.
    """
    if told_hw is not None:
        _check_size(tuple(told_hw), picture_hw, name)
    _check_number(len(segmentations), picture_hw, name)
    for place, segmentation in enumerate(segmentations):
        told = f"mask {place} of {len(segmentations)} in {name}"
        try:
            if isinstance(segmentation, Mapping):
                _check_size(tuple(segmentation["size"]), picture_hw, told)
                mask_HW = mask_of_runs(_runs(segmentation["counts"]), *picture_hw)
            else:
                mask_HW = _polygons(segmentation, picture_hw)
        except ProposalError:
            raise
        except (ValueError, TypeError, KeyError, OverflowError) as error:
            raise ProposalError(
                "damaged", f"{told} cannot be read: {error}; expected run lengths or polygons of COCO"
            ) from error
        if mask_HW.any():
            yield mask_HW


def _runs(counts: Any) -> Any:
    """Run lengths of either form as numbers."""
    if isinstance(counts, str):
        return run_lengths(counts.encode("ascii"))
    return counts


def _polygons(polygons: Any, picture_hw: Size) -> NDArray[np.bool_]:
    """(H, W) bool: the union of polygons, each a flat list of x, y in pixels."""
    height, width = picture_hw
    # pycocotools takes four numbers for a box, and draws lines as long as they are told.
    corners = [np.asarray(polygon, np.float64) for polygon in polygons]
    for flat in corners:
        if flat.ndim != 1 or len(flat) < 6 or len(flat) % 2:
            raise ValueError(f"a polygon has {flat.size} numbers; expected x and y of at least three corners")
        if not (np.isfinite(flat).all() and np.abs(flat).max() <= 2 * max(height, width)):
            raise ValueError(f"a polygon leads far out of the picture of {height} x {width}")
    if not corners:
        return np.zeros(picture_hw, np.bool_)
    drawn = coco_mask.merge(coco_mask.frPyObjects([flat.tolist() for flat in corners], height, width))
    return mask_of_runs(run_lengths(drawn["counts"]), height, width)


def _values(data: bytes, name: str, max_pixels: int) -> NDArray[np.int32]:
    try:
        return decode_label_png(data, max_pixels=max_pixels)
    except ImageError as error:
        raise ImageError(error.kind, f"{name}: {error}") from error


def _check_size(found: tuple[Any, ...], picture_hw: Size, name: str) -> None:
    if found != picture_hw:
        raise ProposalError(
            "wrong_size",
            f"{name} is {' x '.join(map(str, found))}, but its picture is {picture_hw[0]} x {picture_hw[1]} (height x "
            "width, upright); make the masks for the picture as it is, or give the pictures that they were made for",
        )


def _check_number(count: int, picture_hw: Size, name: str) -> None:
    most = MAX_CELLS // (picture_hw[0] * picture_hw[1])
    if count > most:
        raise ProposalError(
            "too_many",
            f"{name} has {count} masks; of a picture of {picture_hw[0]} x {picture_hw[1]}, {most} fit into memory; "
            "give fewer masks, or a smaller picture",
        )
