"""Fusion of the class probabilities of the query branch and of the image branch."""

# K segment, C class

from __future__ import annotations

import torch
from torch import Tensor

from zs3.config import NamingSettings

EPSILON = 1e-8
"""Added to each score of FC-CLIP before its logarithm is taken."""


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


def with_image(by_query_KC: Tensor, by_image_KC: Tensor, seen_C: Tensor, settings: NamingSettings) -> Tensor:
    """(K, C) scores from the probabilities of both branches, by the settings; never falls as by_image grows."""
    if settings.branches == "image":
        return by_image_KC
    if settings.branches == "both_for_every_class":
        return fuse(by_query_KC, by_image_KC, torch.zeros_like(seen_C), settings.weight)
    return fuse(by_query_KC, by_image_KC, seen_C, settings.weight, own=settings.branches == "both_own")


def geometric_ensemble(
    query_logits_KC1: Tensor,
    image_logits_KC: Tensor,
    seen_C: Tensor,
    valid_K: Tensor,
    settings: NamingSettings,
) -> Tensor:
    """(K, C) scores of FC-CLIP: a geometric mean of two class distributions, renormalised, times 1 - P(no object).

    `no object` takes part in neither distribution; its probability is that of the query branch. The released code adds
    1e-8 to each score before it normalises them again, which is kept. It takes logarithms of probabilities, where ours
    takes those of the softmax at once, so that a probability of 0 gives no NaN.

    Args:
        query_logits_KC1: (K, C + 1), `no object` last.
        valid_K: (K,) bool, False where the image branch saw nothing; the query branch then names alone.
    """
    # Double precision: 1 - P(no object) is a difference of numbers near 1, which float32 rounds by percents.
    query_logits_KC1, image_logits_KC = query_logits_KC1.double(), image_logits_KC.double()
    no_object_K1 = query_logits_KC1.softmax(dim=1)[:, -1:]
    exponent_C = torch.where(seen_C, settings.image_weight_seen, settings.image_weight_unseen)
    exponent_KC = exponent_C.double() * valid_K[:, None]
    by_query_KC, by_image_KC = query_logits_KC1[:, :-1].log_softmax(dim=1), image_logits_KC.log_softmax(dim=1)
    scores_KC = ((1 - exponent_KC) * by_query_KC + exponent_KC * by_image_KC).softmax(dim=1) * (
        1 - no_object_K1
    )
    return ((scores_KC + EPSILON) / (1 + (scores_KC.shape[1] + 1) * EPSILON)).float()
