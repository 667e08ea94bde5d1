"""Which segments an encoder need not look at: crops only where they can change a label, by bounds and not by guesses.

A pixel goes to the class with the largest sum over segments of class score times mask probability. Masks and the query
branch are known before any crop is made; what is open is the image branch, and it is bounded. An image logit is
scale·a·t_c with a unit row a, so two of them differ by at most scale·‖t_b − t_c‖, and none leaves ±scale·‖t_c‖; that
bounds every softmax (`image_bounds`), every fused score (`score_bounds`) and, masks being non-negative and resizing a
sum with non-negative weights, the lead of one class over another at every pixel. A pixel is decided when the leading
class stays ahead whatever the segments that were not encoded would say. Segments are encoded until every pixel is.
"""

# K segment, C class, E image embedding, P undecided pixel of a strip, H W picture pixels

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from zs3.classification.fusion import with_image
from zs3.classification.painting import pixel_scores_of_rows
from zs3.classification.scores import class_scores, query_probabilities
from zs3.config import NamingSettings
from zs3.segmentation.segments import Segments

ROUNDING = 1e-5
"""Share by which a float32 score may leave its bounds: softmax over some hundred classes, mean, two powers, product."""
LOGIT_ROUNDING = 1e-6
"""How far the difference of two image logits may leave its bounds, per unit of scale: 2e-7 for rounding both, as much
for their difference."""
SMALLEST = 2.0**-126
"""Below it float32 keeps no relative precision, and some machines nothing: such a probability may come out as 0."""
UNIT = 1 + 1e-4
"""Longest row an encoder returns: 1, and some rounding."""
EPSILON = 2.0**-24
"""Share by which one float32 operation rounds."""
HALF = 0.5
SAMPLED_ROWS = 16
CHUNK_VALUES = 1 << 22
"""Class scores held at once, 16 MiB of float32; bounds memory and changes nothing."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ImageRange:
    """What the image branch can say with one text bank, before any picture; made once per vocabulary."""

    rivals_above_C: Tensor
    """(C,) float64, at least the sum over other classes of exp(their logit − its own)."""
    rivals_below_C: Tensor
    """(C,) float64, at most that sum."""
    largest_logit_C: Tensor
    """(C,) float64, the largest logit of each class; the least is its negative."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pruned:
    """Scores that paint the plain label map, and how little was encoded for them."""

    scores_KC: Tensor
    """(K, C): exact for encoded segments, a lower bound for the others."""
    encoded_K: Tensor
    """(K,) bool, True where the encoder was asked."""
    image_embeddings_KE: Tensor
    """(K, E), zeros where the encoder was not asked."""


def image_range(image_bank_CE: Tensor, image_logit_scale: float) -> ImageRange:
    """The range of image logits and of their differences, from the lengths and distances of text rows."""
    bank = image_bank_CE.double()
    reach = image_logit_scale * UNIT
    slack = LOGIT_ROUNDING * image_logit_scale
    distances_CC = reach * torch.cdist(bank, bank, compute_mode="donot_use_mm_for_euclid_dist") + slack
    distances_CC.fill_diagonal_(-torch.inf)
    return ImageRange(
        rivals_above_C=distances_CC.exp().sum(dim=1),
        rivals_below_C=(-distances_CC).exp().fill_diagonal_(0).sum(dim=1),
        largest_logit_C=reach * bank.norm(dim=1) + slack,
    )


def image_bounds(reach: ImageRange, void_logits_K: Tensor, settings: NamingSettings) -> tuple[Tensor, Tensor]:
    """Least and largest (K, C) probability that the image branch can give, float64.

    p(c) = 1 / (1 + Σ_b exp(logit_b − logit_c) + exp(void − logit_c)), whose terms are bounded one by one. What may
    round to nothing in float32 has 0 for its least and twice `SMALLEST` for its largest: a small power of it is far
    from 0.
    """
    void_K1 = void_logits_K.double()[:, None]
    void_most, void_least = (void_K1 + reach.largest_logit_C).exp(), (void_K1 - reach.largest_logit_C).exp()
    if not settings.void_in_image_softmax:
        void_most, void_least = torch.zeros_like(void_most), torch.zeros_like(void_least)
    least = 1 / (1 + reach.rivals_above_C + void_most)
    most = 1 / (1 + reach.rivals_below_C + void_least)
    return torch.where(least < 2 * SMALLEST, 0.0, least), most.clamp(min=2 * SMALLEST)


def score_bounds(
    by_query_KC: Tensor, reach: ImageRange, void_logits_K: Tensor, seen_C: Tensor, settings: NamingSettings
) -> tuple[Tensor, Tensor]:
    """Least and largest (K, C) score of each class for each segment: fusion grows with the image branch.

    The mean over seen classes that `both` takes is at most a share of 1 for each of them, which is far less than the
    mean of their largest probabilities, since not all can be large at once.
    """
    least, most = image_bounds(reach, void_logits_K, settings)
    if settings.branches == "both" and bool(seen_C.any()):
        highest = reach.largest_logit_C[seen_C].max()
        void_K = (
            (void_logits_K.double() - highest).exp()
            if settings.void_in_image_softmax
            else 0 * void_logits_K.double()
        )
        shared_K = (1 / (int(seen_C.sum()) + void_K)).clamp(min=2 * SMALLEST)
        mean_K = torch.minimum(most[:, seen_C].mean(dim=1), shared_K)
        most = torch.where(seen_C, mean_K[:, None], most)
    low, high = (with_image(by_query_KC.double(), p, seen_C, settings).float() for p in (least, most))
    return low * (1 - ROUNDING), high * (1 + ROUNDING)


def prune(
    segments: Segments,
    embed: Callable[[Tensor], Tensor],
    query_bank_CD: Tensor,
    image_bank_CE: Tensor,
    seen_C: Tensor,
    settings: NamingSettings,
    *,
    query_logit_scale: float,
    image_logit_scale: float,
    reach: ImageRange | None = None,
    strip_rows: int = 64,
) -> Pruned:
    """Scores that `paint` turns into the label map of all segments' exact scores, with few of them encoded.

    Segments that hold most of some pixel are encoded first; then, of those left, the quarter that leaves most open at
    undecided pixels, and so on. Where two classes come nearer than rounding, everything is encoded, as without pruning.

    Args:
        segments: their image embeddings are not read.
        embed: (N,) int64 segment indices → (N, E) unit rows of the image encoder.
        query_bank_CD, image_bank_CE, seen_C, query_logit_scale, image_logit_scale: as for `class_scores`.
        reach: of this bank and scale, where it was made before.
        strip_rows: bounds memory; the label map does not depend on it.
    """
    by_query_KC = query_probabilities(segments, query_bank_CD, settings, query_logit_scale=query_logit_scale)
    count = len(by_query_KC)
    encoded_K = torch.zeros(count, dtype=torch.bool)
    embeddings_KE = torch.zeros(count, image_bank_CE.shape[1])
    if settings.branches == "query":
        return Pruned(scores_KC=by_query_KC, encoded_K=encoded_K, image_embeddings_KE=embeddings_KE)
    reach = reach or image_range(image_bank_CE, image_logit_scale)
    low_KC, high_KC = score_bounds(by_query_KC, reach, segments.void_logits_K, seen_C, settings)
    shared = settings.branches == "both"
    tied_C = seen_C if shared else torch.zeros_like(seen_C)
    handicap_C = seen_C.float() * settings.calibration
    strips = _mask_strips(segments, settings, strip_rows)
    open_KP = next(strips)
    chosen_N = _holders(segments, by_query_KC).nonzero()[:, 0]
    while len(chosen_N):
        encoded_K[chosen_N] = True
        embeddings_KE[chosen_N] = embed(chosen_N).to(embeddings_KE)
        # All rows at once, though few are new: the last bits of a row depend on its place in the matrix.
        exact_KC = class_scores(
            replace(segments, image_embeddings_KE=embeddings_KE),
            query_bank_CD,
            image_bank_CE,
            seen_C,
            settings,
            query_logit_scale=query_logit_scale,
            image_logit_scale=image_logit_scale,
        )
        low_KC[chosen_N] = high_KC[chosen_N] = exact_KC[chosen_N]
        left = int((~encoded_K).sum())
        if not left:
            break
        tied_C = seen_C if shared else torch.zeros_like(seen_C)
        open_KP = _undecided(open_KP, low_KC, high_KC, tied_C, handicap_C)
        while not open_KP.shape[1] and (strip_KP := next(strips, None)) is not None:
            open_KP = _undecided(strip_KP, low_KC, high_KC, tied_C, handicap_C)
        open_K = open_KP.sum(dim=1) * (high_KC - low_KC).amax(dim=1)
        chosen_N = (
            torch.where(encoded_K, -1.0, open_K).topk(-(-left // 4)).indices[: left * bool(open_KP.shape[1])]
        )
    return Pruned(scores_KC=low_KC, encoded_K=encoded_K, image_embeddings_KE=embeddings_KE)


def _mask_strips(segments: Segments, settings: NamingSettings, strip_rows: int) -> Iterator[Tensor]:
    """(K, P) mask probability of each segment at picture pixels: of a few rows first, then of all, strip by strip.

    The few rows cost little and tell which segments to encode; a pixel that was decided once stays so.
    """
    eye_KK = torch.eye(len(segments.mask_logits_Khw))

    def masks(rows: Tensor) -> Tensor:
        return pixel_scores_of_rows(segments, eye_KK, rows, resize_first=settings.resize_first).flatten(1)

    sample = torch.arange(segments.height)[
        segments.height // (2 * SAMPLED_ROWS) :: -(-segments.height // SAMPLED_ROWS)
    ]
    yield torch.cat([masks(row) for row in sample.split(1)], dim=1)
    for rows in torch.arange(segments.height).split(strip_rows):
        yield masks(rows)


def _undecided(
    masks_KP: Tensor, low_KC: Tensor, high_KC: Tensor, tied_C: Tensor, handicap_C: Tensor
) -> Tensor:
    """The columns of (K, P) mask probabilities at which the label is still open."""
    parts = masks_KP.split(max(1, CHUNK_VALUES // low_KC.shape[1]), dim=1)
    decided = [_is_decided(part, low_KC, high_KC, tied_C, handicap_C) for part in parts]
    return masks_KP[:, ~torch.cat(decided)]


def _is_decided(
    masks_KP: Tensor, low_KC: Tensor, high_KC: Tensor, tied_C: Tensor, handicap_C: Tensor
) -> Tensor:
    """(P,) True where one class leads every other one by more than rounding, whatever the bounds leave open.

    A sum over K segments is off by K·EPSILON of the sum of its terms at worst. The lead is one over terms that add up
    to at most twice the leader's sum and γ; so are, together, the two sums that painting compares. Resizing adds a few.

    The class tried is the one that leads in the middle of its bounds. Scores of tied classes move together: they are a
    known factor times one unknown number of the segment, so that their lead over each other is bounded at its ends.
    """
    middle_CP = ((low_KC + high_KC) / 2).T @ masks_KP - handicap_C[:, None]
    leader_P = middle_CP.argmax(dim=0)
    decided_P = torch.zeros(masks_KP.shape[1], dtype=torch.bool)
    share, handicap = (4 * len(masks_KP) + 64) * EPSILON, float(handicap_C.max())
    for leader in leader_P.unique().tolist():
        lead_KC = low_KC[:, leader, None] - high_KC
        if bool(tied_C[leader]):
            ends = torch.minimum(low_KC[:, leader, None] - low_KC, high_KC[:, leader, None] - high_KC)
            lead_KC = torch.where(tied_C, ends, lead_KC)
        here_P = leader_P == leader
        leads_CP = lead_KC.T @ masks_KP[:, here_P] - (handicap_C[leader] - handicap_C)[:, None]
        leads_CP[leader] = torch.inf
        top_P = high_KC[:, leader] @ masks_KP[:, here_P]
        decided_P[here_P] = leads_CP.amin(dim=0) > share * (top_P + handicap) + SMALLEST
    return decided_P


def _holders(segments: Segments, by_query_KC: Tensor) -> Tensor:
    """(K,) bool: segments that hold half of a mask cell, by mask probability times the probability to be an object."""
    weights_Khw = segments.mask_logits_Khw.sigmoid() * by_query_KC.sum(dim=1)[:, None, None]
    shares_K = (weights_Khw / weights_Khw.sum(dim=0).clamp(min=1e-12)).flatten(1).amax(dim=1)
    return shares_K >= min(HALF, float(shares_K.max()))
