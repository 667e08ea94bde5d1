"""Matching queries to targets: bipartite, by class, mask and dice costs (MaskFormer, Cheng et al. 2021).

The costs are matrix products over pixels, for all decoder layers of an image at once.
"""

# Q query (of one or several layers), K class, N target, h w mask cells, P = h * w

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from zs3.learning.targets import Targets

FOCAL_ALPHA = 0.25
"""Weight of mask pixels in the focal loss; other pixels weigh 1 - alpha. The exponent gamma is 2."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MatchCosts:
    """Unweighted costs of matching a query (row) to a target (column); float32, lower is better."""

    by_class: Tensor
    """(Q, N), minus the probability of the target's class, in [-1, 0]."""
    by_mask: Tensor
    """(Q, N), sigmoid focal loss or cross-entropy, mean over pixels, >= 0."""
    by_dice: Tensor
    """(Q, N), dice loss with +1 smoothing, in [0, 1]."""

    def total(
        self, *, class_weight: float = 1.0, mask_weight: float = 20.0, dice_weight: float = 1.0
    ) -> Tensor:
        """(Q, N) weighted sum, the matrix that is assigned."""
        return mask_weight * self.by_mask + class_weight * self.by_class + dice_weight * self.by_dice


def pixel_weights(targets: Targets, *, void_is_negative: bool) -> Tensor:
    """(H, W) float32, 1 where a pixel counts in the mask losses and costs, else 0.

    The published code counts void as outside every mask (`void_is_negative`); otherwise it counts nowhere.
    """
    return torch.ones_like(targets.valid, dtype=torch.float32) if void_is_negative else targets.valid.float()


def softplus(logits: Tensor) -> Tensor:
    """log(1 + exp(x)) to an absolute error of 1e-7; its gradient is the sigmoid, also at 0.

    PyTorch's own goes through log1p, which is four times slower on a CPU; max(x, 0) is written (x + |x|) / 2
    because `where` is slow as well, and relu has the wrong gradient at 0.
    """
    magnitude = logits.abs()
    return 0.5 * (logits + magnitude) - magnitude.sigmoid().log()


@torch.no_grad()
def match_costs(
    class_logits_QK: Tensor,
    mask_logits_Qhw: Tensor,
    targets: Targets,
    *,
    void_is_negative: bool,
    focal: bool = True,
) -> MatchCosts:
    """Costs of every (query, target) pair of one image (MaskFormer, section 3.2).

    Args:
        class_logits_QK: (Q, K + 1), the last column is no-object.
        mask_logits_Qhw: (Q, h, w).
        targets: the image's targets at (h, w), see `targets.resize_targets`.
        void_is_negative: count pixels that are not valid as outside every mask, instead of not at all.
        focal: whether the mask cost is the focal loss; else the cross-entropy (Mask2Former).

    Raises:
        ValueError: the targets have another size than the predicted masks, or a class is out of range.
    """
    if targets.valid.shape != mask_logits_Qhw.shape[-2:]:
        raise ValueError(
            f"targets are {tuple(targets.valid.shape)}, predicted masks {tuple(mask_logits_Qhw.shape[-2:])}; "
            "resize the targets to the masks first (resize_targets)"
        )
    num_classes = class_logits_QK.shape[-1] - 1
    if len(targets.classes) and int(targets.classes.max()) >= num_classes:
        raise ValueError(
            f"a target has class {int(targets.classes.max())}, but the text bank has {num_classes} classes; "
            "is the class index of another vocabulary?"
        )
    with torch.autocast(mask_logits_Qhw.device.type, enabled=False):
        probabilities_QK = class_logits_QK.float().softmax(-1)
        logits_QP = mask_logits_Qhw.float().flatten(1)
        weights_P = pixel_weights(targets, void_is_negative=void_is_negative).flatten()
        inside_PN = (targets.masks.flatten(1) * weights_P).T
        outside_PN = weights_P[:, None] - inside_PN
        p_QP = logits_QP.sigmoid()
        as_outside_QP = softplus(logits_QP)
        as_inside_QP = as_outside_QP - logits_QP
        alpha, beta = 1.0, 1.0
        if focal:
            as_outside_QP.mul_(p_QP.square())
            as_inside_QP.mul_((1 - p_QP).square_())
            alpha, beta = FOCAL_ALPHA, 1 - FOCAL_ALPHA
        mask_QN = alpha * (as_inside_QP @ inside_PN) + beta * (as_outside_QP @ outside_PN)
        overlap_QN = p_QP @ inside_PN
        area_Q1 = (p_QP @ weights_P)[:, None]
        return MatchCosts(
            by_class=-probabilities_QK[:, targets.classes],
            by_mask=mask_QN / weights_P.sum().clamp(min=1),
            by_dice=1 - (2 * overlap_QN + 1) / (area_Q1 + inside_PN.sum(0) + 1),
        )


def assign(total_QN: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The cheapest one-to-one assignment: (query, target) indices, each (min(Q, N),), queries ascending.

    Raises:
        ValueError: a cost is not finite.
    """
    if not np.isfinite(total_QN).all():
        raise ValueError(
            f"{int((~np.isfinite(total_QN)).sum())} of {total_QN.size} matching costs are not finite: the "
            "predictions have overflowed; lower the learning rate, or train in float32 or bfloat16"
        )
    queries, matched = linear_sum_assignment(total_QN)
    return queries.astype(np.int64), matched.astype(np.int64)
