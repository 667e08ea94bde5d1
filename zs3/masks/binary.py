"""Binary masks, as external ones are: each pixel of the picture is in or out. Stored as COCO's run lengths.

In memory they are int8 logits of -127 and 127, one for each pixel, whose probabilities are exactly 0 and 1 in 32-bit
floats. Run lengths may come from untrusted files. They are read here and not by pycocotools, which leaves pixels as
they were in memory if run lengths stop short of the picture.
"""

# K mask, H W pixels
from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

INSIDE = np.int8(127)
"""The logit of a pixel inside; a pixel outside has its negative."""

NEVER_NO_OBJECT = -1e4
"""Logit of `no object` of a binary mask, which is an object by definition: its probability is 0 at any temperature."""

MAX_CELLS = 1 << 30
"""Upper bound on masks times pixels of one picture: a gigabyte of logits, 341 masks of 2048x1536."""

MAX_NUMBER_LENGTH = 7
"""Upper bound on the characters of one number in compressed run lengths, of 5 bits each."""

Masks = NDArray[np.int8]


def pack_masks(masks: Iterable[NDArray[np.bool_]]) -> bytes:
    """(H, W) masks, read one at a time, as bytes: their number, the length of each code, and the codes."""
    codes = [coco_mask.encode(np.asfortranarray(mask_HW, dtype=np.uint8))["counts"] for mask_HW in masks]
    lengths = [len(code) for code in codes]
    return struct.pack(f"<{1 + len(codes)}I", len(codes), *lengths) + b"".join(codes)


def unpack_masks(data: bytes, height: int, width: int) -> Masks:
    """(K, H, W) int8 logits from `pack_masks`.

    Raises:
        ValueError, struct.error: the bytes are not masks of this size.
    """
    (count,) = struct.unpack_from("<I", data)
    lengths = struct.unpack_from(f"<{count}I", data, 4)
    start = 4 * (1 + count)
    if start + sum(lengths) != len(data):
        raise ValueError(f"expected {start + sum(lengths)} bytes, found {len(data)}")
    if count * height * width > MAX_CELLS:
        raise ValueError(f"{count} masks of {height} x {width} are more than {MAX_CELLS} pixels")
    ends = start + np.cumsum(lengths, dtype=np.int64)
    runs = [run_lengths(data[end - length : end]) for end, length in zip(ends.tolist(), lengths)]
    for numbers in runs:  # before memory is taken for what the bytes claim
        _refuse_other_size(numbers, height, width)
    masks_KHW = np.empty((count, height, width), np.int8)
    for mask_HW, numbers in zip(masks_KHW, runs, strict=True):
        np.copyto(mask_HW, np.where(mask_of_runs(numbers, height, width), INSIDE, -INSIDE))
    return masks_KHW


def encode_binary(masks_KHW: Masks) -> bytes:
    """Int8 logits as bytes, for the mask store of that name."""
    return pack_masks(mask_HW > 0 for mask_HW in masks_KHW)


def decode_binary(data: bytes, shape_KHW: tuple[int, int, int]) -> Masks:
    """Those bytes and (K, H, W) → int8 logits.

    Raises:
        ValueError, struct.error: the bytes are not masks of this shape.
    """
    masks_KHW = unpack_masks(data, *shape_KHW[1:])
    if len(masks_KHW) != shape_KHW[0]:
        raise ValueError(f"they hold {len(masks_KHW)} masks")
    return masks_KHW


def run_lengths(code: bytes) -> NDArray[np.int64]:
    """Run lengths from COCO's compressed form: pixels outside, inside, outside, … down the columns.

    Raises:
        ValueError: they are damaged.
    """
    digits = np.frombuffer(code, np.uint8).astype(np.int64) - 48
    continues = (digits & 32) > 0
    if not digits.size or digits.min() < 0 or digits.max() > 63 or continues[-1]:
        raise ValueError(f"compressed run lengths of {len(code)} bytes are damaged or cut off")
    ends = np.flatnonzero(~continues)
    starts = np.concatenate(([0], ends[:-1] + 1))
    places = np.arange(len(digits)) - np.repeat(starts, ends - starts + 1)
    if places.max() >= MAX_NUMBER_LENGTH:
        raise ValueError(f"compressed run lengths hold a number of {places.max() + 1} characters")
    numbers = np.add.reduceat((digits & 31) << (5 * places), starts)
    numbers -= np.where(digits[ends] & 16, 1 << (5 * (places[ends] + 1)), 0)
    # From the fourth on, each number is the difference to the second one before it.
    numbers[1::2], numbers[2::2] = np.cumsum(numbers[1::2]), np.cumsum(numbers[2::2])
    return numbers


def mask_of_runs(lengths: Sequence[int] | NDArray[np.int64], height: int, width: int) -> NDArray[np.bool_]:
    """(H, W) bool: the mask with these run lengths.

    Raises:
        ValueError: they are not whole numbers that add up to the pixels of the picture.
    """
    runs = np.asarray(lengths)
    _refuse_other_size(runs, height, width)
    inside = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return inside.reshape(width, height).T


def _refuse_other_size(runs: NDArray[Any], height: int, width: int) -> None:
    if runs.ndim != 1 or (runs.size and (runs.dtype.kind not in "iu" or runs.min() < 0)):
        raise ValueError("run lengths have to be whole numbers that are not negative")
    pixels = height * width
    if runs.max(initial=0) > pixels or runs.sum() != pixels:
        raise ValueError(
            f"run lengths do not add up to the {pixels} pixels of a picture of {height} x {width}"
        )
