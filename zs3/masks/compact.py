"""The compact mask store: a low-rank approximation of all masks of a picture, in small steps.

The masks of a picture are products of its segments' mask embeddings with the same pixel embeddings, so four to nine
components explain them, whatever their number. The eigenvectors of the masks' Gram matrix (Karhunen-Loève transform)
give the components; they are rounded to whole steps, and each is stored as a lossless WebP picture, which decodes fast.
benchmarks/mask_store.py compares this with other stores.
"""

# K segment, R component, h w mask cells

from __future__ import annotations

import io
import struct

import numpy as np
from numpy.typing import NDArray
from PIL import Image

STEP = 0.1
"""Errors of logits are about a third of this. Chosen so that 99.9 % of pixels keep their label."""

WEBP_METHOD, WEBP_QUALITY = 2, 30
"""Effort of the WebP encoder; more takes 1.5 to 200 times as long and saves a hundredth of the size."""

MAX_STEPS = 65535
"""The largest pixel of a component's picture, in two of three 8-bit channels."""

_HEAD = struct.Struct("<Hf")
_COMPONENT = struct.Struct("<iI")


def encode_low_rank(mask_logits_Khw: NDArray[np.float32], step: float = STEP) -> bytes:
    """The masks as bytes; see the module.

    Args:
        mask_logits_Khw: (K, h, w) finite logits.
        step: what components are rounded to, in logits; enlarged for masks of a huge range.
    """
    count, height, width = mask_logits_Khw.shape
    masks = mask_logits_Khw.reshape(count, height * width).astype(np.float64)
    _, mixing = np.linalg.eigh(masks @ masks.T)
    mixing = mixing[:, ::-1].astype(np.float32)
    components = mixing.T.astype(np.float64) @ masks
    if components.size:
        step = max(step, float(np.ptp(components, axis=1).max()) / MAX_STEPS)
    # Rounding adds an error of step / sqrt(12); smaller components are better left out.
    kept = (
        np.sqrt((components**2).mean(axis=1)) > step / np.sqrt(12)
        if components.size
        else np.zeros(count, bool)
    )
    steps = np.rint(components[kept] / np.float32(step)).astype(np.int32)
    parts = [_HEAD.pack(int(kept.sum()), step), np.ascontiguousarray(mixing[:, kept]).tobytes()]
    for component in steps.reshape(-1, height, width):
        low = int(component.min())
        picture = _webp((component - low).astype(np.uint16))
        parts += [_COMPONENT.pack(low, len(picture)), picture]
    return b"".join(parts)


def decode_low_rank(data: bytes, shape_Khw: tuple[int, int, int]) -> NDArray[np.float32]:
    """(K, h, w) logits from `encode_low_rank`.

    Raises:
        ValueError, OSError, struct.error: the bytes are not masks of this shape.
    """
    count, height, width = shape_Khw
    number, step = _HEAD.unpack_from(data)
    start = _HEAD.size + 4 * count * number
    if number > count or start + number * _COMPONENT.size > len(data):
        raise ValueError(f"{number} components of {count} masks do not fit into {len(data)} bytes")
    if not number:
        return np.zeros(shape_Khw, np.float32)
    mixing_KR = np.frombuffer(data, "<f4", count * number, _HEAD.size).reshape(count, number)
    components = []  # memory follows the pictures that are there
    for _ in range(number):
        low, length = _COMPONENT.unpack_from(data, start)
        start += _COMPONENT.size + length
        levels_hw = _picture(data[start - length : start], (width, height)) + low
        components.append(
            (levels_hw * np.float32(step)).astype(np.float32)
        )  # numpy multiplies int32 in float64
    components_Rhw = np.stack(components)
    if start != len(data):
        raise ValueError(f"expected {start} bytes, found {len(data)}")
    return (mixing_KR @ components_Rhw.reshape(number, height * width)).reshape(shape_Khw)


def _webp(component_hw: NDArray[np.uint16]) -> bytes:
    """A component in 16-bit steps as a picture: its low byte is green, its high byte blue."""
    picture = np.zeros((*component_hw.shape, 3), np.uint8)
    picture[..., 1], picture[..., 2] = component_hw & 255, component_hw >> 8
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "WEBP", lossless=True, quality=WEBP_QUALITY, method=WEBP_METHOD)
    return file.getvalue()


def _picture(data: bytes, size_wh: tuple[int, int]) -> NDArray[np.int32]:
    with Image.open(io.BytesIO(data), formats=["WEBP"]) as image:
        if image.size != size_wh:
            raise ValueError(f"a component has {image.size} cells (width, height), expected {size_wh}")
        pixels = np.asarray(image.convert("RGB")).astype(np.int32)
    return pixels[..., 1] | pixels[..., 2] << 8
