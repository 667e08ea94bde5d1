"""Class scores of segments become a label map. No picture and no network is needed."""

# K segment, C class, H W picture pixels, h w mask cells of stride 4
from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from zs3.config import NamingSettings
from zs3.segmentation.segments import Segments

MARGIN = 1 - 1e-5
"""A class is left out when it scores less than this share of another one: the gap is larger than any rounding."""

MAX_VALUES_IN_STRIP = 1 << 24
"""Upper bound on segments times pixels of a strip; more segments make strips of fewer rows."""


def semantic_map(
    segments: Segments, scores_KC: Tensor, seen_C: Tensor, settings: NamingSettings, *, strip_rows: int = 64
) -> tuple[Tensor, Tensor]:
    """The best class of every pixel and its probability.

    A pixel's score for a class is the sum over segments of class score times mask probability, computed on the padded
    grid, resized bilinearly to the picture, less the class's calibration offset; the first class wins ties. Its
    probability is the share of that score, before the offset, in the scores of all classes at the pixel. Memory grows
    with classes × strip, not with classes × pixels; the strip height changes no result.

    Returns:
        (H, W) int64 class index and (H, W) float32 probability in [0, 1], 0 where no mask reaches.
    """
    strip_rows = max(1, min(strip_rows, MAX_VALUES_IN_STRIP // max(1, len(scores_KC) * segments.width)))
    offsets_C = calibration_offsets(seen_C, settings.calibration)
    classes_N = candidate_classes(scores_KC, offsets_C > 0)
    all_K1 = scores_KC.sum(dim=1, keepdim=True)
    scores_KC, offsets_N11 = scores_KC[:, classes_N], offsets_C[classes_N][:, None, None]
    labels, shares = [], []
    for start in range(0, segments.height, strip_rows):
        rows = torch.arange(start, min(start + strip_rows, segments.height))
        masks = masks_of_rows(segments, rows, resize_first=settings.resize_first)
        strip = pixel_scores_of_masks(masks, scores_KC)
        index = (strip - offsets_N11).max(dim=0).indices
        labels.append(index)
        # A product of its own: together with the others it would change their last bits.
        shares.append(shares_of(strip.gather(0, index[None])[0], pixel_scores_of_masks(masks, all_K1)[0]))
    return classes_N[torch.cat(labels)], torch.cat(shares)


def shares_of(part: Tensor, whole: Tensor) -> Tensor:
    """part / whole, 0 where both are 0; never above 1, as a part is larger than the whole by rounding only."""
    return torch.where(whole == 0, whole, part / torch.maximum(part, whole))


def calibration_offsets(seen_C: Tensor, calibration: float) -> Tensor:
    """(C,) float32, not negative, subtracted from pixel scores: γ for seen classes, or −γ for unseen ones if γ < 0.

    In both cases seen scores lose γ against unseen ones, and the winning score of a pixel is not negative.
    """
    reduced_C = seen_C if calibration >= 0 else ~seen_C
    return reduced_C.float() * abs(calibration)


def candidate_classes(scores_KC: Tensor, reduced_C: Tensor) -> Tensor:
    """(N,) index of each class that can be the best one of a pixel, ascending.

    Mask probabilities are not negative, so a class that scores less than another one in every segment scores less at
    every pixel, unless an offset is subtracted from the other one only. The first class with and the first without an
    offset are kept, for pixels that no segment covers.

    Args:
        scores_KC: (K, C) not negative.
        reduced_C: (C,) bool, True for classes from which the same offset is subtracted.
    """
    below_CC = reduced_C[:, None] | ~reduced_C[None, :]
    for scores_C in scores_KC:
        below_CC = below_CC & (scores_C[:, None] < scores_C[None, :] * MARGIN)
    kept_C = ~below_CC.any(dim=1)
    for kind in (reduced_C, ~reduced_C):
        kept_C[kind.nonzero()[:1, 0]] = True
    return kept_C.nonzero()[:, 0]


def pixel_scores_of_rows(
    segments: Segments, scores_KC: Tensor, rows: Tensor, *, resize_first: bool
) -> Tensor:
    """(C, n, W) scores of some rows of the picture before calibration."""
    return pixel_scores_of_masks(masks_of_rows(segments, rows, resize_first=resize_first), scores_KC)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MaskRows:
    """The masks over some rows of a picture, ready to be weighed by any class scores."""

    probabilities_Kmw: Tensor
    """(K, m, w) float32 in [0, 1]: at the pixels of the resized picture, or of the picture itself if masks are resized
    first."""
    between: tuple[Tensor, Tensor, Tensor] | None
    """(n,) int64, int64, float32: for each row of the picture, the two of the m rows around it and the share of the
    second; None if masks are resized first."""
    width: int
    """Of the picture, in pixels."""


def masks_of_rows(segments: Segments, rows: Tensor, *, resize_first: bool) -> MaskRows:
    """The masks over some rows of the picture, for `pixel_scores_of_masks`."""
    if segments.binary:  # the same result as below, without interpolation and exponentials
        inside_Kmw = (segments.mask_logits_Khw[:, rows] > 0).float()
        return MaskRows(probabilities_Kmw=inside_Kmw, between=None, width=segments.width)
    (padded_h, padded_w), (resized_h, resized_w) = segments.padded_hw, segments.resized_hw
    above, below, share = neighbours(rows, resized_h / segments.height, resized_h)
    first, last = int(above.min()), int(below.max())
    needed = torch.arange(first, last + 1)
    mask_h = segments.mask_logits_Khw.shape[1]
    top, bottom, mix = neighbours(needed, mask_h / padded_h, mask_h)
    logits = torch.lerp(
        segments.mask_logits_Khw[:, top], segments.mask_logits_Khw[:, bottom], mix[None, :, None]
    )
    logits = _resize_columns(logits, padded_w)[:, :, :resized_w]
    if resize_first:
        logits = torch.lerp(logits[:, above - first], logits[:, below - first], share[None, :, None])
        logits = _resize_columns(logits, segments.width)
    return MaskRows(
        probabilities_Kmw=probabilities(logits),
        between=None if resize_first else (above - first, below - first, share),
        width=segments.width,
    )


def pixel_scores_of_masks(masks: MaskRows, scores_KC: Tensor) -> Tensor:
    """(C, n, W) scores of the rows of some masks before calibration."""
    scores = _class_sums(scores_KC, masks.probabilities_Kmw)
    if masks.between is not None:
        above, below, share = masks.between
        scores = torch.lerp(
            scores.index_select(1, above), scores.index_select(1, below), share[None, :, None]
        )
    return _resize_columns(scores, masks.width)


def uncovered_pixels(segments: Segments) -> Tensor:
    """(H, W) bool: the pixels that no binary mask covers. `semantic_map` gives them a class too, with score 0."""
    covered_HW = torch.zeros(segments.height, segments.width, dtype=torch.bool)
    for mask_HW in segments.mask_logits_Khw:
        covered_HW |= mask_HW > 0
    return ~covered_HW


def probabilities(logits: Tensor) -> Tensor:
    """1 / (1 + exp(-logits)), the same bits for any number of threads.

    `torch.sigmoid` rounds differently at the ends of each thread's share.
    """
    return logits.neg().exp_().add_(1).reciprocal_()


def _class_sums(scores_KC: Tensor, probabilities_Khw: Tensor) -> Tensor:
    """(C, h, w) sums over segments of class score times mask probability, the same bits for any number of threads.

    One product for each row: threads would cut a single product, and its last bits would depend on the cut.
    """
    rows_hKw = probabilities_Khw.permute(1, 0, 2)
    if len(rows_hKw) == 1:
        return _class_sums(scores_KC, probabilities_Khw.expand(-1, 2, -1))[:, :1]
    return torch.matmul(scores_KC.T, rows_hKw).permute(1, 0, 2)


def neighbours(index: Tensor, scale: float, length: int) -> tuple[Tensor, Tensor, Tensor]:
    """The two source rows around each output row and the share of the second (bilinear, half-pixel centres).

    Args:
        index: (n,) int64 output rows.
        scale: source rows for each output row.
        length: number of source rows.
    """
    position = ((index.double() + 0.5) * scale - 0.5).clamp(min=0)
    before = position.floor().long().clamp(max=length - 1)
    return before, (before + 1).clamp(max=length - 1), (position - before).float()


def _resize_columns(values_CHW: Tensor, width: int) -> Tensor:
    if values_CHW.shape[2] == width:
        return values_CHW
    size = (values_CHW.shape[1], width)
    return F.interpolate(values_CHW[None], size=size, mode="bilinear", align_corners=False)[0]
