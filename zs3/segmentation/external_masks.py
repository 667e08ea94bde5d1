"""External masks become segments, embedded as if the network had predicted them.

The image branch embeds crops of external masks as it does those of predicted ones. The query branch has embeddings of
the network's own segments only, so an external mask takes that of the predicted segment that overlaps it most; those of
a composed model have none. An external mask is an object by definition: the `no object` logit of that segment is not
taken over.
"""

# G external mask, K predicted segment, D E embedding, H W picture pixels, h w network pixels, n of a pass
from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from zs3.masks.binary import NEVER_NO_OBJECT
from zs3.segmentation.segmenter import Segmenter
from zs3.segmentation.segments import Segments


@torch.inference_mode()
def external_segments(
    segmenter: Segmenter, pixels_HW3: NDArray[np.uint8], masks_GHW: NDArray[np.int8]
) -> Segments:
    """One segment for each external mask of a picture, in their order, on the CPU.

    Args:
        pixels_HW3: RGB.
        masks_GHW: logits, -127 or 127 (`zs3.masks.binary`); none is empty.
    """
    predicted = segmenter.predict_masks(pixels_HW3)
    own = predicted.segments
    queries_GD = torch.zeros(len(masks_GHW), own.query_embeddings_KD.shape[1])
    embeddings_GE = torch.zeros(len(masks_GHW), segmenter.image_dim)
    for start in range(0, len(masks_GHW), segmenter.settings.crops_per_pass):
        part = slice(start, start + segmenter.settings.crops_per_pass)
        masks_nHW = torch.from_numpy(masks_GHW[part]).to(segmenter.device) > 0
        cover_nhw = coverage(masks_nHW, own.resized_hw, own.padded_hw)
        if queries_GD.shape[1]:
            nearest_n = overlaps(cover_nhw, predicted.masks_Khw, own.resized_hw).argmax(dim=1).cpu()
            queries_GD[part] = own.query_embeddings_KD[nearest_n]
        if segmenter.image_dim:
            embeddings_GE[part] = segmenter.embed(predicted, covered_pixels(cover_nhw).float() * 2 - 1).cpu()
    height, width = pixels_HW3.shape[:2]
    return Segments(
        mask_logits_Khw=torch.from_numpy(masks_GHW),
        query_embeddings_KD=queries_GD,
        image_embeddings_KE=embeddings_GE,
        no_object_logits_K=torch.full((len(masks_GHW),), NEVER_NO_OBJECT),
        padded_hw=(height, width),
        resized_hw=(height, width),
        height=height,
        width=width,
    )


def coverage(masks_nHW: Tensor, resized_hw: tuple[int, int], padded_hw: tuple[int, int]) -> Tensor:
    """(n, h, w) float32: the share of each pixel of the padded network input that a mask covers."""
    small = F.interpolate(masks_nHW[None].float(), size=resized_hw, mode="bilinear", antialias=True)[0]
    return F.pad(small, (0, padded_hw[1] - resized_hw[1], 0, padded_hw[0] - resized_hw[0]))


def covered_pixels(cover_nhw: Tensor) -> Tensor:
    """(n, h, w) bool: pixels that a mask covers by more than half, or, if there are none, those that it covers most."""
    max_n11 = cover_nhw.amax(dim=(1, 2), keepdim=True)
    return torch.where(max_n11 > 0.5, cover_nhw > 0.5, cover_nhw == max_n11)


def overlaps(cover_nhw: Tensor, mask_logits_Khw: Tensor, resized_hw: tuple[int, int]) -> Tensor:
    """(n, K) intersection over union of external and predicted masks, on the cells of the predicted ones.

    A mask that no predicted one covers (probability above one half) is compared with the probabilities instead, so that
    it has a best match too.
    """
    cells_hw = (mask_logits_Khw.shape[1], mask_logits_Khw.shape[2])
    rows, columns = (
        -(-part * cells // whole) for part, cells, whole in zip(resized_hw, cells_hw, cover_nhw.shape[1:])
    )
    external_nP = F.adaptive_avg_pool2d(cover_nhw, cells_hw)[:, :rows, :columns].flatten(1)
    logits_KP = mask_logits_Khw[:, :rows, :columns].flatten(1)
    covered_nK = _shares(external_nP, (logits_KP > 0).float())
    has_overlap_n1 = covered_nK.amax(dim=1, keepdim=True) > 0
    return torch.where(has_overlap_n1, covered_nK, _shares(external_nP, logits_KP.sigmoid()))


def _shares(external_nP: Tensor, predicted_KP: Tensor) -> Tensor:
    """(n, K) intersection over union; 0 where both are empty."""
    shared = external_nP @ predicted_KP.T
    union = external_nP.sum(dim=1, keepdim=True) + predicted_KP.sum(dim=1) - shared
    return shared / union.clamp(min=1e-12)
