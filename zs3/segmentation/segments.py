"""Segments: masks of one picture with their embeddings, and no class name."""

# K segment, D E embedding, T cell of stride 32, h w mask cells of stride 4

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Segments:
    """The networks' output for one picture, without any class name."""

    mask_logits_Khw: Tensor
    """(K, h, w) float32 logits on the padded grid of stride 4. External masks (`zs3.segmentation.external_masks`)
    are int8 logits of -127 and 127, one for each pixel of the picture."""
    query_embeddings_KD: Tensor
    """(K, D) float32 unit rows from the query branch."""
    image_embeddings_KE: Tensor
    """(K, E) float32 unit rows from the image encoder; (K, 0) without an image branch, zeros without a crop."""
    no_object_logits_K: Tensor
    """(K,) float32 logits of `no object`, on the scale of the query branch's class logits."""
    padded_hw: tuple[int, int]
    """Size of the padded network input, in pixels."""
    resized_hw: tuple[int, int]
    """The part of it that holds the picture."""
    height: int
    """Of the picture before resizing, in pixels."""
    width: int
    context_TE: Tensor | None = None
    """(T, E) float32: what the class embeddings of a MAFT+ look at, one row for each cell of stride 32. No table keeps
    it."""

    @property
    def binary(self) -> bool:
        """Whether the masks are external. They may leave pixels without a segment; predicted ones never do."""
        return self.mask_logits_Khw.dtype == torch.int8
