"""How soft masks are kept on disk: the stores, by name, each a pair of encode and decode.

`lossless` keeps every bit that naming can read. `compact` keeps what decides labels (`zs3.masks.compact`);
benchmarks/mask_store.py is how it was chosen. Masks that were given instead of predicted are `hard`, whatever was
chosen: run lengths, which lose nothing (`zs3.masks.binary`). A store that changes what it writes gets a new name, so
that old tables stay readable.
"""

# K segment, h w mask cells of stride 4

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from zs3.masks.binary import decode_binary, encode_binary
from zs3.masks.compact import decode_low_rank, encode_low_rank

LOSSLESS, COMPACT, HARD = "lossless", "compact", "hard"

ZSTD_LEVEL = 3
"""Higher levels take several times as long for a hundredth of the size."""

Masks = NDArray[np.float32] | NDArray[np.int8]


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskStore:
    """One way to keep masks."""

    encode: Callable[[Any], bytes]
    """(K, h, w) logits, float32 or int8 where masks are hard → bytes."""
    decode: Callable[[bytes, tuple[int, int, int]], Masks]
    """Those bytes and (K, h, w) → the logits; any error where the bytes are not of that shape."""


def encode_masks(
    mask_logits_Khw: Masks, padded_hw: tuple[int, int], resized_hw: tuple[int, int], store: str
) -> bytes:
    """The masks as bytes; cells that only padding would show are left out.

    Args:
        mask_logits_Khw: (K, h, w) float32 logits, or int8 ones for the store `hard`.
        padded_hw: size in pixels that the h x w cells cover.
        resized_hw: the part of it that holds the picture.
        store: a name in `STORES`, or `hard`.

    Raises:
        ValueError: no such store, or logits that are not finite.
    """
    if store != HARD and not np.isfinite(mask_logits_Khw).all():
        raise ValueError("mask logits hold values that are not finite; is the checkpoint sound?")
    rows, columns = _shown(mask_logits_Khw.shape[1:], padded_hw, resized_hw)
    return _any_store(store).encode(np.ascontiguousarray(mask_logits_Khw[:, :rows, :columns]))


def decode_masks(
    data: bytes,
    shape_Khw: tuple[int, int, int],
    padded_hw: tuple[int, int],
    resized_hw: tuple[int, int],
    store: str,
) -> Masks:
    """(K, h, w) logits from `encode_masks`; cells that only padding would show are 0.

    Raises:
        ValueError: no such store, or bytes that are not masks of this shape.
    """
    count, height, width = shape_Khw
    rows, columns = _shown((height, width), padded_hw, resized_hw)
    decode = _any_store(store).decode
    try:
        shown = decode(data, (count, rows, columns))
    except (ValueError, OSError, struct.error) as error:
        raise ValueError(
            f"masks of {len(data)} bytes in the store {store!r} cannot be read as {count} masks of {rows} x {columns} "
            f"cells: {error}; is the segments table damaged?"
        ) from error
    if shown.shape == shape_Khw:
        return shown
    masks = np.zeros(shape_Khw, dtype=shown.dtype)
    masks[:, :rows, :columns] = shown
    return masks


def mask_store(name: str) -> MaskStore:
    """The store of that name, out of those that predicted masks can be kept in.

    Raises:
        ValueError: there is none.
    """
    if name not in STORES:
        raise ValueError(f"no mask store is called {name!r}; there are: {', '.join(STORES)}")
    return STORES[name]


def _any_store(name: str) -> MaskStore:
    return _BINARY if name == HARD else mask_store(name)


def pack(numbers: NDArray[np.generic]) -> bytes:
    """Numbers of 2 or 4 bytes, compressed: first all first bytes, then all second ones, which are more alike."""
    planes = numbers.view(np.uint8).reshape(-1, numbers.itemsize).T
    return bytes(pa.Codec("zstd", compression_level=ZSTD_LEVEL).compress(planes.tobytes(), asbytes=True))


def unpack(data: bytes, shape: tuple[int, ...], kind: type[np.generic]) -> NDArray[np.generic]:
    """What `pack` was given.

    Raises:
        OSError, ValueError: the bytes are not such numbers.
    """
    size = np.dtype(kind).itemsize
    length = int(np.prod(shape)) * size
    planes = np.frombuffer(pa.Codec("zstd").decompress(data, length, asbytes=True), dtype=np.uint8)
    return np.ascontiguousarray(planes.reshape(size, -1).T).view(kind).reshape(shape)


def _shown(
    mask_hw: tuple[int, ...], padded_hw: tuple[int, int], resized_hw: tuple[int, int]
) -> tuple[int, int]:
    """Rows and columns of cells that interpolation within the picture can touch, and one more."""
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
