"""Naming: segments and text banks become class scores, class scores become a label map. No picture, no network."""

# K segment, C class, D E embedding, H W picture pixels, h w mask cells of stride 4
from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from zs3.config import NamingSettings
from zs3.segmentation.segments import Segments

MARGIN = 1 - 1e-5
"""How far below another class a class must be to be left out: more than any rounding on the way to a pixel."""

MAX_VALUES_IN_STRIP = 1 << 24
"""Segments times pixels that are painted at once; where there are more, strips have fewer rows."""


def paint(
    segments: Segments, scores_KC: Tensor, seen_C: Tensor, settings: NamingSettings, *, strip_rows: int = 64
) -> tuple[Tensor, Tensor]:
    """The best class of every pixel and its score.

    A pixel's score for a class is the sum over segments of class score times mask probability, computed on the padded
    grid, resized bilinearly to the picture, less γ for seen classes (`calibration_offsets`); ties go to the first
    class. Rows are painted in strips, so memory grows with classes × strip and not with classes × pixels; the strip
    height changes no result.

    Returns:
        (H, W) int64 class index and (H, W) float32 score.
    """
    strip_rows = max(1, min(strip_rows, MAX_VALUES_IN_STRIP // max(1, len(scores_KC) * segments.width)))
    handicap_C = calibration_offsets(seen_C, settings.calibration)
    classes_N = candidate_classes(scores_KC, handicap_C > 0)
    scores_KC, handicap_N11 = scores_KC[:, classes_N], handicap_C[classes_N][:, None, None]
    labels, best = [], []
    for start in range(0, segments.height, strip_rows):
        rows = torch.arange(start, min(start + strip_rows, segments.height))
        strip = (
            pixel_scores_of_rows(segments, scores_KC, rows, resize_first=settings.resize_first) - handicap_N11
        )
        top, index = strip.max(dim=0)
        labels.append(index)
        best.append(top)
    return classes_N[torch.cat(labels)], torch.cat(best)


def calibration_offsets(seen_C: Tensor, calibration: float) -> Tensor:
    """(C,) float32, not negative, what is subtracted from pixel scores: γ for seen classes; −γ for unseen ones instead,
    where γ is negative.

    Either way seen scores lose γ against unseen ones, and what wins a pixel has a score that is not negative.
    """
    handicapped_C = seen_C if calibration >= 0 else ~seen_C
    return handicapped_C.float() * abs(calibration)


def candidate_classes(scores_KC: Tensor, handicapped_C: Tensor) -> Tensor:
    """(N,) index of each class that can be the best one of a pixel, ascending.

    Mask probabilities are not negative, so a class that scores less than another one in every segment is less at every
    pixel, unless the other one is handicapped and it is not. The first class of either kind stays, for pixels that no
    segment reaches at all.

    Args:
        scores_KC: (K, C) not negative. handicapped_C: (C,) bool, True where the same number is subtracted.
    """
    below_CC = handicapped_C[:, None] | ~handicapped_C[None, :]
    for scores_C in scores_KC:
        below_CC = below_CC & (scores_C[:, None] < scores_C[None, :] * MARGIN)
    stays_C = ~below_CC.any(dim=1)
    for kind in (handicapped_C, ~handicapped_C):
        stays_C[kind.nonzero()[:1, 0]] = True
    return stays_C.nonzero()[:, 0]


def pixel_scores(segments: Segments, scores_KC: Tensor, seen_C: Tensor, settings: NamingSettings) -> Tensor:
    """(C, H, W) scores of every class at every pixel after calibration: the plain procedure, for tests."""
    rows = torch.arange(segments.height)
    scores = pixel_scores_of_rows(segments, scores_KC, rows, resize_first=settings.resize_first)
    return scores - calibration_offsets(seen_C, settings.calibration)[:, None, None]


def pixel_scores_of_rows(
    segments: Segments, scores_KC: Tensor, rows: Tensor, *, resize_first: bool
) -> Tensor:
    """(C, n, W) scores of the given picture rows before calibration."""
    masks = masks_of_rows(segments, rows, resize_first=resize_first)
    return pixel_scores_of_masks(masks, scores_KC)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MaskRows:
    """The masks over some rows of a picture: what painting needs of them, whatever the class scores."""

    probabilities_Kmw: Tensor
    """(K, m, w) float32 in [0, 1]: at the resized picture's pixels, or at the picture's own where masks are resized
    first."""
    between: tuple[Tensor, Tensor, Tensor] | None
    """(n,) int64, int64, float32: for each row of the picture, which two of the m rows it lies between and the share of
    the second; none where masks are resized first."""
    width: int
    """Of the picture, in pixels."""


def masks_of_rows(segments: Segments, rows: Tensor, *, resize_first: bool) -> MaskRows:
    """The masks over the given picture rows; `pixel_scores_of_masks` makes scores of them."""
    if segments.binary:  # what the rest would give, without interpolating and exponentials
        inside_Kmw = (segments.mask_logits_Khw[:, rows] > 0).float()
        return MaskRows(probabilities_Kmw=inside_Kmw, between=None, width=segments.width)
    (padded_h, padded_w), (resized_h, resized_w) = segments.padded_hw, segments.resized_hw
    above, below, share = _neighbours(rows, resized_h, segments.height)
    first, last = int(above.min()), int(below.max())
    needed = torch.arange(first, last + 1)
    top, bottom, mix = _neighbours(needed, segments.mask_logits_Khw.shape[1], padded_h)
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
    """(H, W) bool: the pixels that no given mask covers. Painting gives them a class all the same, with score 0."""
    covered_HW = torch.zeros(segments.height, segments.width, dtype=torch.bool)
    for mask_HW in segments.mask_logits_Khw:
        covered_HW |= mask_HW > 0
    return ~covered_HW


def probabilities(logits: Tensor) -> Tensor:
    """1 / (1 + exp(-logits)), the same bits for any number of threads.

    `torch.sigmoid` rounds the ends of each thread's share otherwise than the rest.
    """
    return logits.neg().exp_().add_(1).reciprocal_()


def _class_sums(scores_KC: Tensor, probabilities_Khw: Tensor) -> Tensor:
    """(C, h, w) sums over segments of class score times mask probability, the same bits for any number of threads.

    One product for each row: threads share rows, but would cut a single product, and its last bits depend on the cut.
    """
    rows_hKw = probabilities_Khw.permute(1, 0, 2)
    if len(rows_hKw) == 1:
        return _class_sums(scores_KC, probabilities_Khw.expand(-1, 2, -1))[:, :1]
    return torch.matmul(scores_KC.T, rows_hKw).permute(1, 0, 2)


def _neighbours(index: Tensor, length_in: int, length_out: int) -> tuple[Tensor, Tensor, Tensor]:
    """The two source rows of each output row and the share of the second (bilinear, half-pixel centres)."""
    position = ((index.double() + 0.5) * (length_in / length_out) - 0.5).clamp(min=0)
    before = position.floor().long().clamp(max=length_in - 1)
    return before, (before + 1).clamp(max=length_in - 1), (position - before).float()


def _resize_columns(values_CHW: Tensor, width: int) -> Tensor:
    if values_CHW.shape[2] == width:
        return values_CHW
    size = (values_CHW.shape[1], width)
    return F.interpolate(values_CHW[None], size=size, mode="bilinear", align_corners=False)[0]
