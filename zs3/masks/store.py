"""How masks are stored: the mask stores by name, each a pair of encode and decode.

`lossless` keeps every bit that labels depend on. `compact` is much smaller and keeps 99.9 % of labels
(`zs3.masks.compact`); benchmarks/mask_store.py compares it with others. External masks always go into the store `hard`:
run lengths, which lose nothing (`zs3.masks.binary`). A store whose format changes gets a new name, so that old tables
stay readable.
"""

# K segment, h w mask cells of stride 4

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from zs3.masks.binary import MAX_CELLS, decode_binary, encode_binary
from zs3.masks.compact import decode_low_rank, encode_low_rank

LOSSLESS, COMPACT, BINARY = "lossless", "compact", "hard"

ZSTD_LEVEL = 3
"""Higher levels take several times as long and save a hundredth of the size."""

Masks = NDArray[np.float32] | NDArray[np.int8]


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskStore:
    """A format of masks."""

    encode: Callable[[Any], bytes]
    """(K, h, w) logits, float32, or int8 for binary masks → bytes."""
    decode: Callable[[bytes, tuple[int, int, int]], Masks]
    """Those bytes and (K, h, w) → the logits; raises if the bytes are not of that shape."""


def encode_masks(
    mask_logits_Khw: Masks, padded_hw: tuple[int, int], resized_hw: tuple[int, int], store: str
) -> bytes:
    """The masks as bytes, without the cells that cover only padding.

    Args:
        mask_logits_Khw: (K, h, w) float32 logits, or int8 ones for the store `hard`.
        padded_hw: size in pixels that the h x w cells cover.
        resized_hw: the part of it that holds the picture.
        store: a name in `STORES`, or `hard`.

    Raises:
        ValueError: there is no such store, or logits are not finite.
    """
    if store != BINARY and not np.isfinite(mask_logits_Khw).all():
        raise ValueError("mask logits hold values that are not finite; is the checkpoint sound?")
    rows, columns = _picture_cells(mask_logits_Khw.shape[1:], padded_hw, resized_hw)
    return _any_store(store).encode(np.ascontiguousarray(mask_logits_Khw[:, :rows, :columns]))


def decode_masks(
    data: bytes,
    shape_Khw: tuple[int, int, int],
    padded_hw: tuple[int, int],
    resized_hw: tuple[int, int],
    store: str,
) -> Masks:
    """(K, h, w) logits from `encode_masks`, 0 in the cells that cover only padding.

    Raises:
        ValueError: there is no such store, or the bytes are not masks of this shape.
    """
    count, height, width = shape_Khw
    max_cells = MAX_CELLS if store == BINARY else MAX_CELLS // 4  # a gigabyte of int8 or of float32
    if count * height * width > max_cells:
        raise ValueError(
            f"masks of {len(data)} bytes claim {count} x {height} x {width} cells, more than {max_cells}; is the "
            "segments table damaged?"
        )
    rows, columns = _picture_cells((height, width), padded_hw, resized_hw)
    decode = _any_store(store).decode
    try:
        stored = decode(data, (count, rows, columns))
    except (ValueError, OSError, struct.error) as error:
        raise ValueError(
            f"masks of {len(data)} bytes in the store {store!r} cannot be read as {count} masks of {rows} x {columns} "
            f"cells: {error}; is the segments table damaged?"
        ) from error
    if stored.shape == shape_Khw:
        return stored
    masks = np.zeros(shape_Khw, dtype=stored.dtype)
    masks[:, :rows, :columns] = stored
    return masks


def mask_store(name: str) -> MaskStore:
    """The store of that name for predicted masks.

    Raises:
        ValueError: there is no such store.
    """
    if name not in STORES:
        raise ValueError(f"no mask store is called {name!r}; there are: {', '.join(STORES)}")
    return STORES[name]


def _any_store(name: str) -> MaskStore:
    return _BINARY if name == BINARY else mask_store(name)


def pack(numbers: NDArray[np.generic]) -> bytes:
    """Numbers of 2 or 4 bytes, compressed: all first bytes before all second ones, which makes neighbours alike."""
    shuffled = numbers.view(np.uint8).reshape(-1, numbers.itemsize).T
    return bytes(pa.Codec("zstd", compression_level=ZSTD_LEVEL).compress(shuffled.tobytes(), asbytes=True))


def unpack(data: bytes, shape: tuple[int, ...], kind: type[np.generic]) -> NDArray[np.generic]:
    """The numbers from `pack`.

    Raises:
        OSError, ValueError: the bytes are not such numbers.
    """
    size = np.dtype(kind).itemsize
    length = math.prod(shape) * size
    if (stored := _zstd_length(data)) != length:
        raise ValueError(f"they hold {stored} bytes, expected {length}")
    shuffled = np.frombuffer(pa.Codec("zstd").decompress(data, length, asbytes=True), dtype=np.uint8)
    return np.ascontiguousarray(shuffled.reshape(size, -1).T).view(kind).reshape(shape)


def _zstd_length(data: bytes) -> int:
    """The length that the header of a zstd frame gives for its content (RFC 8878, section 3.1.1.1)."""
    if len(data) < 6 or data[:4] != b"\x28\xb5\x2f\xfd":
        raise ValueError("they are no zstd frame")
    flags = data[4]
    single = flags >> 5 & 1
    width = (single, 2, 4, 8)[flags >> 6]
    start = 6 - single + (0, 1, 2, 4)[flags & 3]
    return int.from_bytes(data[start : start + width], "little") + (256 if width == 2 else 0)


def _picture_cells(
    mask_hw: tuple[int, ...], padded_hw: tuple[int, int], resized_hw: tuple[int, int]
) -> tuple[int, int]:
    """Rows and columns of cells that interpolation within the picture reads, and one more."""
    rows, columns = (
        min(cells, int((resized - 0.5) * cells / padded + 0.5) + 2)
        for cells, padded, resized in zip(mask_hw, padded_hw, resized_hw)
    )
    return rows, columns


def _decode_lossless(data: bytes, shape_Khw: tuple[int, int, int]) -> Masks:
    return unpack(data, shape_Khw, np.float32)  # type: ignore[return-value]


STORES = {
    COMPACT: MaskStore(encode=encode_low_rank, decode=decode_low_rank),
    LOSSLESS: MaskStore(encode=pack, decode=_decode_lossless),
}
_BINARY = MaskStore(encode=encode_binary, decode=decode_binary)
