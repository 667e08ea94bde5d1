"""Segments of FC-CLIP: the image embedding of each mask is pooled from one pass of CLIP, without crops."""

# K segment, C channels, E embedding, H W pixels
from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from zs3.config import SegmentSettings
from zs3.nets.content_transfer import picture_context
from zs3.nets.fcclip import FcClip
from zs3.nets.zegformer import LayerOutput
from zs3.segmentation.segmenter import PredictedMasks, Segmenter


class PooledSegmenter(Segmenter):
    """An FC-CLIP and its device; used as a `Segmenter`.

    Of the settings, those about crops have no effect, apart from `crop_empty_masks`: if off, the image embedding of a
    mask without a cell of CLIP's map is zero, and the query branch names it alone (ENSEMBLE_ON_VALID_MASK of the
    released configurations).

    Raises:
        ValueError: the settings drop segments by `min_share`.
    """

    network: FcClip

    def __init__(self, network: FcClip, settings: SegmentSettings, *, device: torch.device) -> None:
        if settings.min_share > 0:
            raise ValueError(
                f"min_share is {settings.min_share}; an FC-CLIP makes no crops that it could save: leave it at 0"
            )
        self._place(network, settings, device)

    @property
    def image_dim(self) -> int:
        return self.network.config.text_dim if self.settings.image_branch else 0

    def _run(self, image_13HW: Tensor) -> tuple[LayerOutput, Tensor | None]:
        maps = self.network.backbone(image_13HW)
        return self.network.decode(maps)[-1], maps[-1][0]

    @torch.inference_mode()
    def predict_masks(self, pixels_HW3: np.ndarray) -> PredictedMasks:
        predicted = super().predict_masks(pixels_HW3)
        if self.network.transfer is None:
            return predicted
        assert predicted.dense_Chw is not None
        context_TE = picture_context(self.network.backbone, predicted.dense_Chw).cpu()
        return replace(predicted, segments=replace(predicted.segments, context_TE=context_TE))

    @torch.inference_mode()
    def embed(self, predicted: PredictedMasks, masks_Khw: Tensor) -> Tensor:
        """(K, E) unit rows on the device: CLIP's dense map pooled under each mask.

        Args:
            masks_Khw: logits on the device, over the padded picture at any scale.
        """
        assert predicted.dense_Chw is not None
        rows_1KE, valid_1K = self.network.image_embeddings(predicted.dense_Chw[None], masks_Khw[None])
        if not self.settings.crop_empty_masks:
            rows_1KE = rows_1KE * valid_1K[..., None]
        return rows_1KE[0]
