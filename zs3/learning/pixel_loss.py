"""The loss of the pixel-level baseline: cross-entropy of every labelled pixel over the seen classes."""

# B image, D embedding, K training class, C crop side in pixels, h w cells of stride 4
from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from zs3.nets.pixel_level import cell_logits

_REACHES_NO_LOSS = -100


def pixel_loss(
    embeddings_BDhw: Tensor,
    labels_BCC: np.ndarray,
    bank_KD: Tensor,
    temperature: float,
    *,
    resolution: Literal["full", "prediction"],
    mean_count: Callable[[float], float] = float,
) -> Tensor:
    """Mean cross-entropy over the pixels of seen classes (SPNet, Xian et al. 2019).

    All other pixels are left out: ignored, unseen, padding, and background, which has no text embedding (ZegFormer's
    paper ignores it). A batch without a labelled pixel has loss zero.

    Args:
        embeddings_BDhw: unit embeddings of the cells.
        labels_BCC: integers from `training_labels`; 0 to K - 1 are the training classes.
        bank_KD: unit rows of the training classes.
        temperature: τ, what cosines are divided by.
        resolution: full resizes the logits to the crop, bilinearly; prediction takes the label of one pixel for each
            cell, as the mask losses do (cell i shows pixel floor(i * C / h)).
        mean_count: averages the number of labelled pixels over the workers.
    """
    known = (labels_BCC >= 0) & (labels_BCC < len(bank_KD))
    labels = torch.from_numpy(np.where(known, labels_BCC, _REACHES_NO_LOSS)).long()
    logits = cell_logits(embeddings_BDhw, bank_KD, temperature)
    if resolution == "full":
        logits = F.interpolate(logits, size=labels.shape[1:], mode="bilinear", align_corners=False)
    else:
        (height, width), (rows, columns) = labels.shape[1:], logits.shape[2:]
        labels = labels[
            :, torch.arange(rows)[:, None] * height // rows, torch.arange(columns) * width // columns
        ]
    counted = max(mean_count(float((labels != _REACHES_NO_LOSS).sum())), 1.0)
    labels = labels.to(logits.device, non_blocking=True)
    return F.cross_entropy(logits, labels, ignore_index=_REACHES_NO_LOSS, reduction="sum") / counted
