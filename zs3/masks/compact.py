"""The compact mask store: the few planes that all masks of a picture are mixed of, in small steps.

The masks of a picture are products of its segments' mask embeddings with the same pixel embeddings, and four to nine
planes explain them all, whatever their number. The planes are found by the eigenvectors of the masks' Gram matrix
(Karhunen-Loève transform), rounded to whole steps, and each is kept as a lossless WebP picture, whose decoder is fast.
benchmarks/mask_store.py compares this with other stores.
"""

# K segment, R plane, h w mask cells

from __future__ import annotations

import io
import struct

import numpy as np
from numpy.typing import NDArray
from PIL import Image

STEP = 0.1
"""Logits are right to about a third of this. Chosen so that 99.9 % of pixels keep their label."""

WEBP_METHOD, WEBP_QUALITY = 2, 30
"""Effort of the WebP encoder: more takes 1.5 to 200 times as long for a hundredth of the size."""

LARGEST = 65535
"""A pixel of a plane's picture: two of three 8-bit channels."""

_HEAD = struct.Struct("<Hf")
_PLANE = struct.Struct("<iI")


def encode_low_rank(mask_logits_Khw: NDArray[np.float32], step: float = STEP) -> bytes:
    """The masks as bytes; see the module.

    Args:
        mask_logits_Khw: (K, h, w) finite logits.
        step: what the planes are rounded to, in logits. Masks of a huge range take a larger one by themselves.
    """
    count, height, width = mask_logits_Khw.shape
    masks = mask_logits_Khw.reshape(count, height * width).astype(np.float64)
    _, mixing = np.linalg.eigh(masks @ masks.T)
    mixing = mixing[:, ::-1].astype(np.float32)
    planes = mixing.T.astype(np.float64) @ masks
    if planes.size:
        step = max(step, float(np.ptp(planes, axis=1).max()) / LARGEST)
    # Rounding to steps adds an error of step / sqrt(12); a plane smaller than that is better left out.
    kept = np.sqrt((planes**2).mean(axis=1)) > step / np.sqrt(12) if planes.size else np.zeros(count, bool)
    steps = np.rint(planes[kept] / np.float32(step)).astype(np.int32)
    parts = [_HEAD.pack(int(kept.sum()), step), np.ascontiguousarray(mixing[:, kept]).tobytes()]
    for plane in steps.reshape(-1, height, width):
        low = int(plane.min())
        picture = _webp((plane - low).astype(np.uint16))
        parts += [_PLANE.pack(low, len(picture)), picture]
    return b"".join(parts)


def decode_low_rank(data: bytes, shape_Khw: tuple[int, int, int]) -> NDArray[np.float32]:
    """(K, h, w) logits from `encode_low_rank`.

    Raises:
        ValueError, OSError, struct.error: the bytes are not masks of this shape.
    """
    count, height, width = shape_Khw
    number, step = _HEAD.unpack_from(data)
    start = _HEAD.size + 4 * count * number
    mixing_KR = np.frombuffer(data, "<f4", count * number, _HEAD.size).reshape(count, number)
    planes_Rhw = np.empty((number, height, width), np.float32)
    for plane in planes_Rhw:
        low, length = _PLANE.unpack_from(data, start)
        start += _PLANE.size + length
        # A plane of another size does not fit and is refused.
        np.copyto(plane, (_picture(data[start - length : start]) + low) * np.float32(step))
    if start != len(data):
        raise ValueError(f"expected {start} bytes, found {len(data)}")
    return (mixing_KR @ planes_Rhw.reshape(number, height * width)).reshape(shape_Khw)


def _webp(plane_hw: NDArray[np.uint16]) -> bytes:
    """A plane of 16-bit steps as a picture: its low byte is green, its high byte blue."""
    picture = np.zeros((*plane_hw.shape, 3), np.uint8)
    picture[..., 1], picture[..., 2] = plane_hw & 255, plane_hw >> 8
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "WEBP", lossless=True, quality=WEBP_QUALITY, method=WEBP_METHOD)
    return file.getvalue()


def _picture(data: bytes) -> NDArray[np.int32]:
    with Image.open(io.BytesIO(data), formats=["WEBP"]) as image:
        pixels = np.asarray(image.convert("RGB")).astype(np.int32)
    return pixels[..., 1] | pixels[..., 2] << 8
