"""Segments as rows of the table `segments`, and back."""

# K segment, D E embedding, h w mask cells

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from zs3.masks.store import BINARY, LOSSLESS, decode_masks, encode_masks
from zs3.segmentation.segments import Segments
from zs3.wording import redacted

NEEDED = (
    "height",
    "width",
    "padded_height",
    "padded_width",
    "resized_height",
    "resized_width",
    "mask_height",
    "mask_width",
    "num_segments",
    "masks",
    "mask_store",
    "query_embeddings",
    "image_embeddings",
    "void_logits",
)
"""The columns that `segments_at` reads."""

ROUNDED_TO = 2048
"""Embeddings are rounded to multiples of 1 / 2048, except in the lossless store: Parquet then finds few distinct values
and takes two thirds of the bytes of 16-bit floats."""


def segments_row(
    image_id: str,
    uri: str,
    segments: Segments,
    disagreement: float,
    run: str,
    *,
    store: str,
    etag: str = "",
) -> dict[str, Any]:
    """The row of `segments` for one image.

    Args:
        image_id: unique in the table.
        uri: where the image was read from.
        disagreement: of its two branches, in [0, 1].
        run: digest of weights, settings and mask store.
        store: a name in `zs3.masks.store.STORES`; every store but `lossless` also rounds the embeddings. External
            masks go into the store `hard`.
        etag: of the image's content, from the listing.

    Raises:
        ValueError: a value is not finite, or there is no such store.
    """
    query, image = (
        _stored(rows, store) for rows in (segments.query_embeddings_KD, segments.image_embeddings_KE)
    )
    masks = segments.mask_logits_Khw.numpy()
    mask_store = BINARY if segments.binary else store
    return {
        "image_id": image_id,
        "uri": redacted(uri),
        "etag": etag,
        "height": segments.height,
        "width": segments.width,
        "padded_height": segments.padded_hw[0],
        "padded_width": segments.padded_hw[1],
        "resized_height": segments.resized_hw[0],
        "resized_width": segments.resized_hw[1],
        "mask_height": masks.shape[1],
        "mask_width": masks.shape[2],
        "num_segments": len(masks),
        "masks": encode_masks(masks, segments.padded_hw, segments.resized_hw, mask_store),
        "mask_store": mask_store,
        "query_embeddings": query,
        "image_embeddings": image,
        "void_logits": segments.no_object_logits_K.numpy(),
        "disagreement": disagreement,
        "run": run,
    }


def segments_at(rows: pa.Table, index: int) -> Segments:
    """The segments of one row of a table with the columns `NEEDED`.

    Raises:
        ValueError: the row's parts do not fit each other.
    """
    value = {name: rows[name][index] for name in NEEDED}
    count = value["num_segments"].as_py()
    shape = (count, value["mask_height"].as_py(), value["mask_width"].as_py())
    padded, resized = (
        (value[f"{part}_height"].as_py(), value[f"{part}_width"].as_py()) for part in ("padded", "resized")
    )
    masks = decode_masks(value["masks"].as_py(), shape, padded, resized, value["mask_store"].as_py())
    no_object = _numbers(value["void_logits"].values)
    if len(no_object) != count:
        raise ValueError(
            f"the row has {count} segments and {len(no_object)} void logits; is the table damaged?"
        )
    return Segments(
        mask_logits_Khw=torch.from_numpy(masks),
        query_embeddings_KD=_rows(value["query_embeddings"], count),
        image_embeddings_KE=_rows(value["image_embeddings"], count),
        no_object_logits_K=torch.from_numpy(no_object),
        padded_hw=padded,
        resized_hw=resized,
        height=value["height"].as_py(),
        width=value["width"].as_py(),
    )


def _stored(embeddings: Tensor, store: str) -> list[NDArray[np.float32]]:
    """The rows as they are stored: unchanged in the lossless store, else rounded."""
    values = embeddings.numpy().astype(np.float32, copy=False)
    if not np.isfinite(values).all():
        raise ValueError("segment embeddings hold values that are not finite; is the checkpoint sound?")
    return list(values if store == LOSSLESS else np.rint(values * ROUNDED_TO) / np.float32(ROUNDED_TO))


def _rows(rows: pa.ListScalar, count: int) -> Tensor:
    """(K, D) float32 of a list of equally long lists, in memory of its own."""
    lists = rows.values
    flat = _numbers(lists.flatten())
    if len(lists) != count or (count and len(flat) % count):
        raise ValueError(
            f"the row has {count} segments and {len(lists)} embeddings of {len(flat)} numbers in all; "
            "is the table damaged?"
        )
    return torch.from_numpy(flat.reshape(count, -1) if count else flat.reshape(0, 0))


def _numbers(values: pa.Array) -> NDArray[np.float32]:
    return np.array(values, dtype=np.float32)
