"""Naming: segments and text banks become class scores, class scores become a label map. No picture, no network."""

# K segment, C class, D E embedding, H W picture pixels, h w mask cells of stride 4
from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from zs3.config import NamingSettings

MARGIN = 1 - 1e-5
"""How far below another class a class must be to be left out: more than any rounding on the way to a pixel."""

MOST_IN_STRIP = 1 << 24
"""Segments times pixels that are painted at once; where there are more, strips have fewer rows."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Segments:
    """What the networks know of one picture, without any class name."""

    mask_logits_Khw: Tensor
    """(K, h, w) float32 logits on the padded grid of stride 4. Masks that were given instead of predicted (`zs3.given`)
    are int8 logits of -127 and 127, one for each pixel of the picture."""
    query_embeddings_KD: Tensor
    """(K, D) float32 unit rows from the query branch."""
    image_embeddings_KE: Tensor
    """(K, E) float32 unit rows from the image encoder; (K, 0) without an image branch, zeros where no crop was made."""
    void_logits_K: Tensor
    """(K,) float32 logits of `no object`, on the scale of the query branch's class logits."""
    padded_hw: tuple[int, int]
    """Size of the padded network input, in pixels."""
    resized_hw: tuple[int, int]
    """The part of it that holds the picture."""
    height: int
    """Of the picture as it was given, in pixels."""
    width: int

    @property
    def hard(self) -> bool:
        """Whether the masks were given: they may then leave pixels to no segment, where predicted ones never do."""
        return self.mask_logits_Khw.dtype == torch.int8


def fuse(
    by_query_KC: Tensor,
    by_image_KC: Tensor,
    seen_C: Tensor,
    weight: float = 2 / 3,
    *,
    own: bool = False,
) -> Tensor:
    """Geometric mean of two class distributions, leaning on the one trained for each class.

    Seen classes lean on the query branch, unseen ones on the image branch (ZegFormer, section 3.3). As in the released
    code, image-branch probabilities of seen classes are first replaced by their mean, and nothing is renormalised.

    Args:
        by_query_KC: (K, C) probabilities from segment embeddings.
        by_image_KC: (K, C) probabilities from the encoder on the cropped segment.
        seen_C: (C,) bool, True where the class had training masks.
        weight: share of the leading branch, in [0, 1].
        own: each seen class keeps its own image-branch probability instead of the mean.
    """
    unseen = by_query_KC ** (1 - weight) * by_image_KC**weight
    if not bool(seen_C.any()):
        return unseen
    image = by_image_KC if own else by_image_KC[:, seen_C].mean(dim=1, keepdim=True)
    return torch.where(seen_C, by_query_KC**weight * image ** (1 - weight), unseen)


def class_scores(
    segments: Segments,
    query_bank_CD: Tensor,
    image_bank_CE: Tensor,
    seen_C: Tensor,
    settings: NamingSettings,
    *,
    query_logit_scale: float,
    image_logit_scale: float,
) -> Tensor:
    """(K, C) score of each class for each segment, in [0, 1].

    Both branches take a softmax over the classes and `no object`, which is then dropped (M:356-384 of the published
    code); a segment that is no object thereby scores low for every class.

    Args:
        query_bank_CD: (C, D) unit rows. image_bank_CE: (C, E) unit rows, unused without an image branch.
        seen_C: (C,) bool. query_logit_scale, image_logit_scale: 1 / temperature of each branch.
    """
    by_query = query_probabilities(segments, query_bank_CD, settings, query_logit_scale=query_logit_scale)
    if settings.branches == "query" or segments.image_embeddings_KE.shape[1] == 0:
        return by_query
    void_K1 = segments.void_logits_K[:, None]
    by_image = image_logit_scale * _cosines(segments.image_embeddings_KE, image_bank_CE)
    if settings.void_in_image_softmax:
        by_image = torch.cat((by_image, void_K1), dim=1).softmax(dim=1)[:, :-1]
    else:
        by_image = by_image.softmax(dim=1)
    return with_image(by_query, by_image, seen_C, settings)


def query_probabilities(
    segments: Segments, query_bank_CD: Tensor, settings: NamingSettings, *, query_logit_scale: float
) -> Tensor:
    """(K, C) the query branch's share of each class, `no object` having taken its own."""
    logits = query_logit_scale * _cosines(segments.query_embeddings_KD, query_bank_CD)
    logits = torch.cat((logits, segments.void_logits_K[:, None]), dim=1) / settings.query_temperature
    return logits.softmax(dim=1)[:, :-1]


def with_image(by_query_KC: Tensor, by_image_KC: Tensor, seen_C: Tensor, settings: NamingSettings) -> Tensor:
    """(K, C) scores out of both branches' probabilities, as the settings join them; never falls as by_image grows."""
    if settings.branches == "image":
        return by_image_KC
    if settings.branches == "both_for_every_class":
        return fuse(by_query_KC, by_image_KC, torch.zeros_like(seen_C), settings.weight)
    return fuse(by_query_KC, by_image_KC, seen_C, settings.weight, own=settings.branches == "both_own")


def paint(
    segments: Segments, scores_KC: Tensor, seen_C: Tensor, settings: NamingSettings, *, strip_rows: int = 64
) -> tuple[Tensor, Tensor]:
    """The best class of every pixel and its score.

    A pixel's score for a class is the sum over segments of class score times mask probability, computed on the padded
    grid, resized bilinearly to the picture, less γ for seen classes (`handicaps`); ties go to the first class. Rows are
    painted in strips, so memory grows with classes × strip and not with classes × pixels; the strip height changes no
    result.

    Returns:
        (H, W) int64 class index and (H, W) float32 score.
    """
    strip_rows = max(1, min(strip_rows, MOST_IN_STRIP // max(1, len(scores_KC) * segments.width)))
    handicap_C = handicaps(seen_C, settings.calibration)
    classes_N = contenders(scores_KC, handicap_C > 0)
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


def _cosines(rows_KD: Tensor, bank_CD: Tensor) -> Tensor:
    """(K, C) products of unit rows; in double precision, so that the order in which threads add is rounded away."""
    if not len(rows_KD):  # a table row without segments does not know how long their embeddings would be
        return rows_KD.new_zeros(0, len(bank_CD))
    return (rows_KD.double() @ bank_CD.double().T).float()


def handicaps(seen_C: Tensor, calibration: float) -> Tensor:
    """(C,) float32, not negative, what is subtracted from pixel scores: γ for seen classes; −γ for unseen ones instead,
    where γ is negative.

    Either way seen scores lose γ against unseen ones, and what wins a pixel has a score that is not negative.
    """
    handicapped_C = seen_C if calibration >= 0 else ~seen_C
    return handicapped_C.float() * abs(calibration)


def contenders(scores_KC: Tensor, handicapped_C: Tensor) -> Tensor:
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
    return scores - handicaps(seen_C, settings.calibration)[:, None, None]


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
    if segments.hard:  # what the rest would give, without interpolating and exponentials
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


def unreached(segments: Segments) -> Tensor:
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
