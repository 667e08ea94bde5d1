"""Masks compared at random points instead of at every pixel (Mask2Former, section 3.3; PointRend, Kirillov 2020).

All points are (x, y) in [0, 1] over the padded picture, and maps are read between their pixels, bilinearly.
"""

# M pair of a query and a target, N map of the same picture, P point, H W pixels, h w mask cells

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from zs3.learning.targets import Targets

Draw = Callable[..., Tensor]
"""Uniform numbers in [0, 1) of a shape, on `device`: `torch.rand`, or recorded ones."""

OVERSAMPLE, UNSURE = 3, 0.75
"""Of 3 P candidates, the 0.75 P at which a mask is least sure are taken; the other points are drawn anew."""


def values_at(maps_MNHW: Tensor, points_MP2: Tensor) -> Tensor:
    """(M, N, P) values of maps at points; 0 lies around a map."""
    places = 2 * points_MP2[:, :, None] - 1
    return functional.grid_sample(maps_MNHW, places, mode="bilinear", align_corners=False)[..., 0]


def targets_at(targets: Targets, points_P2: Tensor) -> Targets:
    """The targets at points, as if these were the pixels of a picture of one row.

    Masks become float32 shares of the pixels around a point, (N, 1, P). A point is valid if all these pixels are.
    """
    maps_NHW = torch.cat((targets.masks, ~targets.valid[None])).to(torch.float32)
    *masks_NP, invalid_P = values_at(maps_NHW[None], points_P2[None])[0]
    masks = torch.stack(masks_NP) if masks_NP else invalid_P.new_zeros(0, len(points_P2))
    return Targets(classes=targets.classes, masks=masks[:, None], valid=(invalid_P == 0)[None])


@torch.no_grad()
def unsure_points(
    mask_logits_Mhw: Tensor, num_points: int, draw: Draw, *, invalid_MHW: Tensor | None = None
) -> Tensor:
    """(M, P, 2) points for the losses: most where the logit is nearest to 0, the others anywhere.

    Args:
        invalid_MHW: bool, pixels that enter no loss: predictions there do not decide which points are taken.
    """
    device, count = mask_logits_Mhw.device, len(mask_logits_Mhw)
    unsure = int(UNSURE * num_points)
    candidates = draw((count, OVERSAMPLE * num_points, 2), device=device)
    sureness = values_at(mask_logits_Mhw[:, None], candidates)[:, 0].abs()
    if invalid_MHW is not None:
        touched = values_at(invalid_MHW[:, None].to(torch.float32), candidates)[:, 0] > 0
        sureness = sureness.masked_fill(touched, torch.inf)
    chosen = sureness.topk(unsure, dim=1, largest=False).indices
    nearest = candidates.gather(1, chosen[..., None].expand(-1, -1, 2))
    return torch.cat((nearest, draw((count, num_points - unsure, 2), device=device)), dim=1)
