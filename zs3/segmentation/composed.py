"""Segments of a composed model: masks of one published segmenter, embedded by the image encoder of another model."""

# K segment, E embedding, C channels, H W pixels, h w mask cells, g grid of an encoder
from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from zs3.config import SegmentSettings
from zs3.encoders.masked_tokens import (
    has_attention_pool,
    has_class_token,
    masked_token_embeddings,
    patch_size,
    pooled_token_embeddings,
)
from zs3.encoders.open_clip import OpenClip
from zs3.nets.clip_trunk import ClipTrunk
from zs3.parts.mask_sources import MaskSource
from zs3.segmentation.external_masks import covered_pixels
from zs3.segmentation.segmenter import PredictedMasks, Segmenter, normalise_and_pad, resize
from zs3.segmentation.segments import Segments

STRIDE_PX = 32
"""Of the dense features of a convolutional CLIP."""


class ComposedSegmenter(Segmenter):
    """A mask source and an image encoder; used as a `Segmenter`.

    Segments have no query embeddings: those of the source were not trained against text.

    Raises:
        ValueError: the encoder cannot embed masks as the settings say, or the settings are of no use here.
    """

    def __init__(
        self, source: MaskSource, encoder: OpenClip, settings: SegmentSettings, *, device: torch.device
    ) -> None:
        if settings.min_share > 0 or not settings.image_branch:
            raise ValueError(
                "a composed model has an image branch only and keeps all masks of its source; leave min_share at 0 and "
                "image_branch on"
            )
        self.source, self.encoder, self.settings, self.device = source, encoder, settings, device
        self._visual, self._mean, self._std = encoder.model.visual, encoder.image_mean, encoder.image_std
        known = embeddings_of(encoder)
        if settings.embedding not in known:
            raise ValueError(
                f"embedding is {settings.embedding!r}; this encoder can embed masks by {' or '.join(known)}"
            )
        is_dense = settings.embedding == "pooled" and not has_class_token(self._visual)
        self._trunk = ClipTrunk("", encoder.model) if is_dense else None

    @property
    def size_divisibility(self) -> int:
        return 1

    @torch.inference_mode()
    def predict_masks(self, pixels_HW3: np.ndarray) -> PredictedMasks:
        found, (height, width) = self.source.masks(pixels_HW3), pixels_HW3.shape[:2]
        masks, padded_hw, resized_hw = found.mask_logits_Khw, found.padded_hw, found.resized_hw
        if not masks.is_floating_point():  # as external masks, binary ones have a cell for each pixel
            masks = masks[:, nearest_cells(height, masks.shape[1])][
                :, :, nearest_cells(width, masks.shape[2])
            ]
            padded_hw = resized_hw = (height, width)
        segments = Segments(
            mask_logits_Khw=masks.cpu(),
            query_embeddings_KD=torch.zeros(len(masks), 0),
            image_embeddings_KE=torch.zeros(len(masks), 0),
            no_object_logits_K=found.no_object_logits_K.cpu(),
            padded_hw=padded_hw,
            resized_hw=resized_hw,
            height=height,
            width=width,
        )
        resized = resize(pixels_HW3, self.settings).to(self.device)
        dense_Chw = (
            self._trunk(self._image(resized, STRIDE_PX, STRIDE_PX)[None])[-1][0] if self._trunk else None
        )
        floats = found.mask_logits_Khw.float()
        return PredictedMasks(segments=segments, resized_3HW=resized, masks_Khw=floats, dense_Chw=dense_Chw)

    @torch.inference_mode()
    def embed(self, predicted: PredictedMasks, masks_Khw: Tensor) -> Tensor:
        """(K, E) unit rows on the device.

        A cell of the encoder's grid is in a mask that covers more than half of it; a mask that covers no cell so far
        has the cells that it covers most.

        Args:
            masks_Khw: logits on the device, over the source's padded input at any scale.
        """
        segments, visual = predicted.segments, self._visual
        if not len(masks_Khw):
            return torch.zeros(0, self.image_dim, device=self.device)
        logits = unpadded(masks_Khw, segments.padded_hw, segments.resized_hw)
        if self.settings.embedding == "crops":
            resized_hw = (predicted.resized_3HW.shape[1], predicted.resized_3HW.shape[2])
            return super().embed(replace(predicted, segments=replace(segments, padded_hw=resized_hw)), logits)
        if self._trunk is not None:
            assert predicted.dense_Chw is not None
            dense_1Cgg = predicted.dense_Chw[None]
            inside_Kgg = cells_inside(logits, (dense_1Cgg.shape[2], dense_1Cgg.shape[3]))
            rows = self._trunk.mask_embeddings(dense_1Cgg, inside_Kgg[None].float() * 2 - 1)[0][0]
        else:
            height_px, width_px = patch_size(visual)
            image = self._image(predicted.resized_3HW, height_px, width_px)
            inside_Kgg = cells_inside(logits, (image.shape[1] // height_px, image.shape[2] // width_px))
            by_tokens = self.settings.embedding == "class_tokens"
            rows = (masked_token_embeddings if by_tokens else pooled_token_embeddings)(
                visual, image, inside_Kgg
            )
        return F.normalize(rows.float(), dim=-1)

    def _image(self, resized_3HW: Tensor, height_px: int, width_px: int) -> Tensor:
        """(3, H, W) for the encoder, its sides stretched to the next multiples of a cell."""
        image = normalise_and_pad(resized_3HW, self._mean, self._std, 1)
        sides = [max(1, round(s / cell)) * cell for s, cell in zip(image.shape[1:], (height_px, width_px))]
        return F.interpolate(image[None], size=sides, mode="bilinear", align_corners=False, antialias=True)[0]


def embeddings_of(encoder: OpenClip) -> list[str]:
    """How the image tower of an encoder can embed masks, the preferred way first; see `SegmentSettings.embedding`."""
    visual: Any = encoder.model.visual
    if has_class_token(visual):
        return ["class_tokens", "pooled", "crops"]
    if has_attention_pool(visual):
        return ["class_tokens", "crops"]
    is_convolutional = hasattr(visual, "attnpool") or hasattr(getattr(visual, "trunk", None), "stages")
    return ["pooled", "crops"] if is_convolutional else ["crops"]


def unpadded(masks_Khw: Tensor, padded_hw: tuple[int, int], resized_hw: tuple[int, int]) -> Tensor:
    """(K, h', w') logits over the picture alone, from those over a padded input."""
    if padded_hw == resized_hw:
        return masks_Khw
    pixels = F.interpolate(masks_Khw[None], size=padded_hw, mode="bilinear", align_corners=False)[0]
    return pixels[:, : resized_hw[0], : resized_hw[1]]


def nearest_cells(pixels: int, cells: int) -> Tensor:
    """(pixels,) int64: the cell in which the centre of each pixel lies."""
    return ((torch.arange(pixels, dtype=torch.float64) + 0.5) * cells / pixels).long()


def cells_inside(logits_Khw: Tensor, grid: tuple[int, int]) -> Tensor:
    """(K, g, g) bool: the cells that a mask covers by more than half, or, if there are none, those it covers most."""
    return covered_pixels(F.adaptive_avg_pool2d((logits_Khw > 0).float(), grid))
