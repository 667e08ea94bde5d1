"""Segments become objects: a panoptic map, in which each pixel has one owner, or instances, which may overlap.

Both are those of FC-CLIP, which took them from Mask2Former and MaskFormer, oddities included.
"""

# K segment, C class, H W picture pixels
from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from zs3.classification.semantic_map import probabilities
from zs3.segmentation.segments import Segments


@dataclass(frozen=True, slots=True, kw_only=True)
class PanopticSegment:
    """One object, or one region of stuff, of a panoptic map."""

    id: int
    """Its value in the map, from 1."""
    class_index: int
    is_thing: bool
    score: float
    """Class score in [0, 1], the mean over its pixels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """One object as its segment; its pixels are those where `picture_mask` of the segment is above 0."""

    segment: int
    class_index: int
    score: float
    """Class score times the mean mask probability of its pixels, in [0, 1]."""


def picture_mask(segments: Segments, segment: int) -> Tensor:
    """(H, W) float32 logits of one mask at picture size: resized to the padded input, cropped, resized again."""
    mask_hw = segments.mask_logits_Khw[segment].float()
    if segments.binary:
        return mask_hw
    (height, width), size = segments.resized_hw, (segments.height, segments.width)
    padded = F.interpolate(mask_hw[None, None], size=segments.padded_hw, mode="bilinear", align_corners=False)
    cropped = padded[:, :, :height, :width]
    return F.interpolate(cropped, size=size, mode="bilinear", align_corners=False)[0, 0]


def panoptic_map(
    segments: Segments,
    scores_KC: Tensor,
    things_C: Tensor,
    *,
    min_score: float = 0.0,
    min_overlap: float = 0.8,
) -> tuple[Tensor, list[PanopticSegment]]:
    """Each pixel goes to the segment with the largest score times mask probability; the first wins ties.

    A segment takes part if its best class beats `no object` and `min_score`. What it won is painted where its mask is
    at least one half, unless it won less than `min_overlap` of its mask's area. Segments of the same stuff share an id.

    Args:
        scores_KC: not negative; what is missing to 1 in a row is the score of `no object`.
        things_C: (C,) bool, the classes whose segments are objects of their own.

    Returns:
        (H, W) int64 ids, 0 where nothing was painted, and what the ids stand for.
    """
    score_K, class_K = scores_KC.max(dim=1)
    kept = ((score_K > 1 - scores_KC.sum(dim=1)) & (score_K > min_score)).nonzero()[:, 0].tolist()
    map_HW = torch.zeros(segments.height, segments.width, dtype=torch.int64)
    best_HW, owner_HW = torch.full(map_HW.shape, -1.0), map_HW - 1
    for segment in kept:
        weight_HW = score_K[segment] * probabilities(picture_mask(segments, segment))
        owner_HW[weight_HW > best_HW] = segment
        best_HW = torch.maximum(best_HW, weight_HW)
    found: list[PanopticSegment] = []
    stuff: dict[int, int] = {}
    areas: list[int] = []
    for segment in kept:
        won_HW = owner_HW == segment
        mask_HW = probabilities(picture_mask(segments, segment)) >= 0.5
        painted_HW = won_HW & mask_HW
        area = int(mask_HW.sum())
        # As published, all that was won counts for the overlap, also outside of the mask.
        if not bool(painted_HW.any()) or int(won_HW.sum()) / area < min_overlap:
            continue
        class_index = int(class_K[segment])
        is_thing = bool(things_C[class_index])
        value = stuff.get(class_index, len(found) + 1)
        map_HW[painted_HW] = value
        painted, score = int(painted_HW.sum()), float(score_K[segment])
        if value > len(found):
            found.append(PanopticSegment(id=value, class_index=class_index, is_thing=is_thing, score=score))
            areas.append(painted)
            if not is_thing:
                stuff[class_index] = value
        else:
            before = found[value - 1]
            areas[value - 1] += painted
            mean = before.score + (score - before.score) * painted / areas[value - 1]
            found[value - 1] = replace(before, score=mean)
    return map_HW, found


def instances(
    segments: Segments, scores_KC: Tensor, things_C: Tensor, *, max_instances: int = 100
) -> list[Instance]:
    """The pairs of segment and class with the highest scores, best first; one segment may come with several classes.

    As published, classes of stuff are dropped after the `max_instances` best pairs were taken.
    """
    top = scores_KC.flatten().topk(min(max_instances, scores_KC.numel()))
    found = []
    for score, index in zip(top.values.tolist(), top.indices.tolist()):
        segment, class_index = divmod(index, scores_KC.shape[1])
        if bool(things_C[class_index]):
            logits_HW = picture_mask(segments, segment)
            inside_HW = (logits_HW > 0).float()
            share = float((logits_HW.sigmoid() * inside_HW).sum() / (inside_HW.sum() + 1e-6))
            found.append(Instance(segment=segment, class_index=class_index, score=score * share))
    return sorted(found, key=lambda one: -one.score)
