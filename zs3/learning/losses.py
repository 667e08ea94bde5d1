"""The training losses: class cross-entropy, and two losses of masks, for every decoder layer.

Masks are compared at every pixel by focal and dice losses (ZegFormer), or at points by cross-entropy and dice loss
(FC-CLIP).

Deviation from the published code, by `LossSettings.void_is_negative=False`: pixels without seen truth
(ignored, unseen, padding) enter no mask loss and no matching cost, instead of being outside of every mask.
"""

# L decoder layer, B image, Q query, K class, N target of an image, M matched pair, H W pixels, h w mask cells

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from zs3.learning.matching import FOCAL_ALPHA, MatchCosts, assign, match_costs, pixel_weights, softplus
from zs3.learning.points import Draw, targets_at, unsure_points, values_at
from zs3.learning.targets import Targets, resize_targets


@dataclass(frozen=True, slots=True, kw_only=True)
class LossSettings:
    """How predictions are matched and penalised; numbers of the published recipes where they name one."""

    class_weight: float = 1.0
    """Weight of the cross-entropy, and of the class cost in the matching."""
    mask_weight: float = 20.0
    """Weight of the focal loss or cross-entropy of masks, and of the same cost in the matching."""
    dice_weight: float = 1.0
    """Weight of the dice loss, and of the dice cost in the matching."""
    no_object_weight: float = 0.1
    """Weight of a query without a target in the cross-entropy; matched queries weigh 1."""
    mask_resolution: Literal["full", "prediction"] = "full"
    """Where mask losses are computed: at the padded image size (published), or at the stride of the predicted
    masks, 16 times cheaper."""
    num_points: int = field(default=0, metadata={"later": True})
    """0: masks are compared at every pixel, by the focal loss. Else at as many points, by the cross-entropy
    (Mask2Former): uniform ones in the matching, in the losses most where the prediction is unsure."""
    void_is_negative: bool = False
    """True: pixels that are not valid lie outside of every mask (published). False: they reach no mask loss
    and no matching cost."""
    spare_queries_on_void: float | None = None
    """Queries without a target whose mask (probability > 0.5) lies for more than this share, in [0, 1], on
    pixels that are not valid get weight 0 in the cross-entropy: whatever is there, perhaps an unseen object,
    is not taught to be no-object. None: all count (published). Such predictions enter no other loss."""


def _match_layers(
    class_logits_LBQK: Tensor,
    mask_logits_LBQhw: Tensor,
    targets: Sequence[Targets],
    small: Sequence[Targets],
    settings: LossSettings,
    draw: Draw,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Matched pairs of all layers and images: layer, image, query, target of the image, each (M,) int64.

    At points, the pairs of a layer follow each other, those of the last layer first.
    """
    pairs: list[tuple[int, int, int, int]] = []
    num_layers, _, num_queries, _ = class_logits_LBQK.shape

    def add(costs: MatchCosts, layers: Sequence[int], image: int) -> None:
        total = costs.total(
            class_weight=settings.class_weight,
            mask_weight=settings.mask_weight,
            dice_weight=settings.dice_weight,
        )
        for layer, total_QN in zip(layers, total.cpu().numpy().reshape(len(layers), num_queries, -1)):
            pairs.extend((layer, image, int(query), int(target)) for query, target in zip(*assign(total_QN)))

    negative = settings.void_is_negative
    if settings.num_points:
        for layer in last_first(num_layers):
            for image, whole in enumerate(targets):
                points_P2 = draw((1, settings.num_points, 2), device=mask_logits_LBQhw.device)[0]
                if len(whole.classes):
                    logits_Q1P = values_at(mask_logits_LBQhw[layer, image, None], points_P2[None])[0, :, None]
                    there, classes_QK = targets_at(whole, points_P2), class_logits_LBQK[layer, image]
                    costs = match_costs(classes_QK, logits_Q1P, there, void_is_negative=negative, focal=False)
                    add(costs, [layer], image)
    else:
        for image, whole in enumerate(small):
            if len(whole.classes):
                classes_QK, masks_Qhw = (
                    x[:, image].flatten(0, 1) for x in (class_logits_LBQK, mask_logits_LBQhw)
                )
                costs = match_costs(classes_QK, masks_Qhw, whole, void_is_negative=negative)
                add(costs, range(num_layers), image)
    table = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 4).to(class_logits_LBQK.device)
    layers_M, images_M, queries_M, targets_M = table.unbind(1)
    return layers_M, images_M, queries_M, targets_M


def last_first(num_layers: int) -> tuple[int, ...]:
    """The decoder layers in the order in which losses are reported and points are drawn."""
    return (num_layers - 1, *range(num_layers - 1))


def focal_loss(logits_MP: Tensor, inside_MP: Tensor, weights_MP: Tensor) -> Tensor:
    """(M,) sigmoid focal loss of each pair, mean over the pixels of weight 1 (alpha 0.25, gamma 2).

    Args:
        logits_MP: (M, P) mask logits.
        inside_MP: (M, P) bool, the target masks.
        weights_MP: (M, P) or (1, P) float, 1 where the pixel counts, else 0.
    """
    # Of the logit against the truth (-z inside, z outside), -log p_t is the softplus, 1 - p_t the sigmoid.
    # Signs instead of torch.where: ten times faster on a CPU.
    t_MP = inside_MP.to(logits_MP.dtype)
    against_MP = logits_MP * (1 - 2 * t_MP)
    alpha_MP = ((1 - FOCAL_ALPHA) + (2 * FOCAL_ALPHA - 1) * t_MP) * weights_MP
    loss_MP = against_MP.sigmoid().square() * softplus(against_MP) * alpha_MP
    return loss_MP.sum(1) / weights_MP.sum(1).clamp(min=1)


def cross_entropy(logits_MP: Tensor, inside_MP: Tensor, weights_MP: Tensor) -> Tensor:
    """(M,) sigmoid cross-entropy, mean over the points of weight 1; arguments of `focal_loss`, the truth in [0, 1]."""
    loss_MP = (softplus(logits_MP) - logits_MP * inside_MP) * weights_MP
    return loss_MP.sum(1) / weights_MP.sum(1).clamp(min=1)


def dice_loss(logits_MP: Tensor, inside_MP: Tensor, weights_MP: Tensor) -> Tensor:
    """(M,) dice loss of each pair with +1 smoothing over pixels of weight 1; arguments of `focal_loss`."""
    p_MP = logits_MP.sigmoid() * weights_MP
    inside_weight_MP = inside_MP * weights_MP
    return 1 - (2 * (p_MP * inside_MP).sum(1) + 1) / (p_MP.sum(1) + inside_weight_MP.sum(1) + 1)


def _on_void(mask_logits_LBQhw: Tensor, small: Sequence[Targets], share: float) -> Tensor:
    """(L, B, Q) bool, True where more than `share` of a predicted mask lies on pixels of no target."""
    invalid_BP = torch.stack([~targets.masks.any(0).flatten() for targets in small]).to(torch.float32)
    covered_LBQP = (mask_logits_LBQhw.detach() > 0).flatten(3).to(torch.float32)
    on_void_LBQ = torch.einsum("lbqp,bp->lbq", covered_LBQP, invalid_BP)
    return on_void_LBQ > share * covered_LBQP.sum(-1)


def segmentation_losses(
    class_logits: Sequence[Tensor],
    mask_logits: Sequence[Tensor],
    targets: Sequence[Targets],
    settings: LossSettings,
    *,
    num_masks: float,
    draw: Draw = torch.rand,
) -> dict[str, Tensor]:
    """Unweighted `loss_ce`, `loss_mask`, `loss_dice` of the last layer; of earlier ones with `_0`, `_1`, …

    Every layer is matched separately. Computed in float32, also under autocast.

    Args:
        class_logits: per decoder layer, first to last, (B, Q, K + 1) with no-object last.
        mask_logits: per decoder layer (B, Q, h, w).
        targets: per image, all of one size (H, W), the size of the padded batch, on the device of the logits.
        settings: weights and switches.
        num_masks: target masks in the whole batch, averaged over the workers; at least 1 is used.
        draw: where points come from, if masks are compared at points.

    Raises:
        ValueError: sizes or counts do not fit, or predictions are not finite.
    """
    if len(targets) != mask_logits[-1].shape[0] or len(class_logits) != len(mask_logits):
        raise ValueError(
            f"got targets of {len(targets)} images for predictions of {mask_logits[-1].shape[0]}, class "
            f"logits of {len(class_logits)} layers for masks of {len(mask_logits)}; they must agree"
        )
    with torch.autocast(mask_logits[-1].device.type, enabled=False):
        class_logits_LBQK = torch.stack([logits.float() for logits in class_logits])
        mask_logits_LBQhw = torch.stack([logits.float() for logits in mask_logits])
        small = [resize_targets(image, *mask_logits_LBQhw.shape[-2:]) for image in targets]
        pairs = _match_layers(
            class_logits_LBQK.detach(), mask_logits_LBQhw.detach(), targets, small, settings, draw
        )
        ce_L = _class_losses(class_logits_LBQK, mask_logits_LBQhw, small, pairs, settings)
        mask_L, dice_L = _mask_losses(mask_logits_LBQhw, targets, small, pairs, settings, draw)
    losses = {}
    for layer in last_first(len(class_logits)):
        suffix = "" if layer == len(class_logits) - 1 else f"_{layer}"
        losses[f"loss_ce{suffix}"] = ce_L[layer]
        losses[f"loss_mask{suffix}"] = mask_L[layer] / max(num_masks, 1)
        losses[f"loss_dice{suffix}"] = dice_L[layer] / max(num_masks, 1)
    return losses


def _class_losses(
    class_logits_LBQK: Tensor,
    mask_logits_LBQhw: Tensor,
    small: Sequence[Targets],
    pairs: tuple[Tensor, Tensor, Tensor, Tensor],
    settings: LossSettings,
) -> Tensor:
    """(L,) cross-entropy, averaged with the weights of the queries."""
    layers_M, images_M, queries_M, targets_M = pairs
    no_object = class_logits_LBQK.shape[-1] - 1
    truth_LBQ = torch.full(class_logits_LBQK.shape[:3], no_object, device=class_logits_LBQK.device)
    weights_LBQ = torch.full_like(truth_LBQ, settings.no_object_weight, dtype=torch.float32)
    if settings.spare_queries_on_void is not None:
        weights_LBQ[_on_void(mask_logits_LBQhw, small, settings.spare_queries_on_void)] = 0.0
    truth_LBQ[layers_M, images_M, queries_M] = torch.cat([image.classes for image in small])[
        _offsets(small, images_M) + targets_M
    ]
    weights_LBQ[layers_M, images_M, queries_M] = 1.0
    nll_LBQ = functional.cross_entropy(class_logits_LBQK.movedim(-1, 1), truth_LBQ, reduction="none")
    return (nll_LBQ * weights_LBQ).sum((1, 2)) / weights_LBQ.sum((1, 2)).clamp(min=1e-6)


def _mask_losses(
    mask_logits_LBQhw: Tensor,
    targets: Sequence[Targets],
    small: Sequence[Targets],
    pairs: tuple[Tensor, Tensor, Tensor, Tensor],
    settings: LossSettings,
    draw: Draw,
) -> tuple[Tensor, Tensor]:
    """Focal loss or cross-entropy, and dice loss, each (L,), summed over the matched pairs of a layer."""
    layers_M, images_M, queries_M, targets_M = pairs
    chosen = targets if settings.mask_resolution == "full" or settings.num_points else small
    logits_Mhw = mask_logits_LBQhw[layers_M, images_M, queries_M]
    nothing_L = mask_logits_LBQhw.new_zeros(len(mask_logits_LBQhw))
    if not len(logits_Mhw):
        # Kept on the graph: a worker whose batch holds no target must still take part in the backward pass.
        nothing_L = nothing_L + 0 * mask_logits_LBQhw.sum()
        return nothing_L, nothing_L
    masks, places_M = torch.cat([image.masks for image in chosen]), _offsets(chosen, images_M) + targets_M
    if settings.num_points:
        invalid_BHW = None if settings.void_is_negative else torch.stack([~one.valid for one in chosen])
        # Layer by layer, because each pair takes a whole mask in float32.
        parts = [
            _at_points(
                logits_Mhw[layers_M == layer],
                masks[places_M[layers_M == layer]],
                None if invalid_BHW is None else invalid_BHW[images_M[layers_M == layer]],
                settings.num_points,
                draw,
            )
            for layer in layers_M.unique_consecutive()
        ]
        arguments = tuple(torch.cat(part) for part in zip(*parts))
    else:
        if settings.mask_resolution == "full":
            size = tuple(targets[0].valid.shape)
            logits_Mhw = functional.interpolate(
                logits_Mhw[:, None], size=size, mode="bilinear", align_corners=False
            )[:, 0]
        weights_B = torch.stack(
            [pixel_weights(image, void_is_negative=settings.void_is_negative) for image in chosen]
        )
        arguments = tuple(x.flatten(1) for x in (logits_Mhw, masks[places_M], weights_B[images_M]))
    mask_loss = cross_entropy if settings.num_points else focal_loss
    return (
        nothing_L.index_add(0, layers_M, mask_loss(*arguments)),
        nothing_L.index_add(0, layers_M, dice_loss(*arguments)),
    )


def _at_points(
    logits_Mhw: Tensor, masks_MHW: Tensor, invalid_MHW: Tensor | None, num_points: int, draw: Draw
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, target shares and weights of pairs, each (M, P), at points of their own."""
    points_MP2 = unsure_points(logits_Mhw.detach(), num_points, draw, invalid_MHW=invalid_MHW)
    logits_MP = values_at(logits_Mhw[:, None], points_MP2)[:, 0]
    inside_MP = values_at(masks_MHW[:, None].to(torch.float32), points_MP2)[:, 0]
    if invalid_MHW is None:
        return logits_MP, inside_MP, torch.ones_like(logits_MP)
    touched_MP = values_at(invalid_MHW[:, None].to(torch.float32), points_MP2)[:, 0] > 0
    return logits_MP, inside_MP, (~touched_MP).to(torch.float32)


def _offsets(targets: Sequence[Targets], images_M: Tensor) -> Tensor:
    """(M,) where the targets of each pair's image start in the concatenation of all images' targets."""
    counts_B = torch.tensor([len(image.classes) for image in targets], device=images_M.device)
    return (counts_B.cumsum(0) - counts_B)[images_M]


def total_loss(losses: dict[str, Tensor], settings: LossSettings) -> Tensor:
    """Weighted sum of all terms of all layers: the number that is differentiated."""
    weights = {"ce": settings.class_weight, "mask": settings.mask_weight, "dice": settings.dice_weight}
    return torch.stack([weights[name.split("_")[1]] * loss for name, loss in losses.items()]).sum()
