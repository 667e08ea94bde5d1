"""Where the error is: the same model with grouping done right, and with naming done right.

Two label maps per picture besides the model's own. With true names, every predicted segment is called what most of its
pixels truly are: what is lost then is lost by the masks. With true masks, every true region is called what the model
calls it (`zs3.segmentation.external_masks`): what is lost then is lost by the names.

This asks the network about every true region (benchmarks/model/naming_settings.py); `zs3.evaluation.oracles` tells as
much as stored segments alone allow, which is what reports show.
"""

# K segment, C candidate class, R true region, H W pixels, h w mask cells
from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from zs3.segmentation.segments import Segments


def mask_pixels(segments: Segments) -> Tensor:
    """(K, H, W) bool: the pixels of the picture that each segment covers (mask probability above one half)."""
    height, width = segments.resized_hw
    logits = segments.mask_logits_Khw[None]
    padded = F.interpolate(logits, size=segments.padded_hw, mode="bilinear", align_corners=False)
    size = (segments.height, segments.width)
    cropped = padded[:, :, :height, :width]
    return F.interpolate(cropped, size=size, mode="bilinear", align_corners=False)[0] > 0


def true_names(segments: Segments, truth_HW: np.ndarray, ids: list[int]) -> Tensor:
    """(K, C) scores that call each segment what most of its pixels truly are: one for that class, else zero.

    Args:
        truth_HW: class ids. ids: the candidate classes, in the order of the scores; other pixels do not count.
    """
    masks = mask_pixels(segments).flatten(1).float()
    truth = torch.from_numpy(truth_HW.astype(np.int64)).flatten()
    present = torch.stack([(truth == class_id) for class_id in ids], dim=1).float()
    pixels_KC = masks @ present
    best = pixels_KC.argmax(dim=1)
    return F.one_hot(best, len(ids)).float() * (pixels_KC.sum(dim=1) > 0)[:, None]


def regions(truth_HW: np.ndarray, ids: list[int]) -> tuple[list[int], Tensor]:
    """The candidate classes in the truth and (R, H, W) bool masks of their pixels."""
    present = [class_id for class_id in ids if (truth_HW == class_id).any()]
    masks = [torch.from_numpy(truth_HW == class_id) for class_id in present]
    return present, torch.stack(masks) if masks else torch.zeros(0, *truth_HW.shape, dtype=torch.bool)
