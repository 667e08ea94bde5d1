"""Class scores of segments: their embeddings against the text banks of both branches."""

# K segment, C class, D E embedding

from __future__ import annotations

import torch
from torch import Tensor

from zs3.classification.fusion import with_image
from zs3.config import NamingSettings
from zs3.segmentation.segments import Segments


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

    Each branch takes a softmax over the classes and `no object`, which is then dropped (the released code's
    `mask_former/mask_former_model.py`); a segment that is no object scores low for every class.

    Args:
        query_bank_CD: (C, D) unit rows. image_bank_CE: (C, E) unit rows, unused without an image branch.
        seen_C: (C,) bool. query_logit_scale, image_logit_scale: 1 / temperature of each branch.

    Raises:
        ValueError: scores are not finite.
    """
    by_query = query_probabilities(segments, query_bank_CD, settings, query_logit_scale=query_logit_scale)
    if settings.branches == "query" or segments.image_embeddings_KE.shape[1] == 0:
        return _finite(by_query)
    no_object_K1 = segments.no_object_logits_K[:, None]
    by_image = image_logit_scale * _cosines(segments.image_embeddings_KE, image_bank_CE)
    if settings.void_in_image_softmax:
        by_image = torch.cat((by_image, no_object_K1), dim=1).softmax(dim=1)[:, :-1]
    else:
        by_image = by_image.softmax(dim=1)
    return _finite(with_image(by_query, by_image, seen_C, settings))


def query_probabilities(
    segments: Segments, query_bank_CD: Tensor, settings: NamingSettings, *, query_logit_scale: float
) -> Tensor:
    """(K, C) probabilities of the query branch, which together with `no object` sum to 1."""
    logits = query_logit_scale * _cosines(segments.query_embeddings_KD, query_bank_CD)
    logits = torch.cat((logits, segments.no_object_logits_K[:, None]), dim=1) / settings.query_temperature
    return logits.softmax(dim=1)[:, :-1]


def _cosines(rows_KD: Tensor, bank_CD: Tensor) -> Tensor:
    """(K, C) products of unit rows, in double precision so that the number of threads changes no bit."""
    if not len(rows_KD):  # a table row without segments has embeddings of length 0
        return rows_KD.new_zeros(0, len(bank_CD))
    return (rows_KD.double() @ bank_CD.double().T).float()


def _finite(scores_KC: Tensor) -> Tensor:
    """The scores, unless some are not finite: a NaN would win every pixel of the first class."""
    wrong_KC = ~torch.isfinite(scores_KC)
    if bool(wrong_KC.any()):
        segment, class_index = (int(index) for index in wrong_KC.nonzero()[0])
        raise ValueError(
            f"{int(wrong_KC.sum())} of {wrong_KC.numel()} class scores are not finite, the first of segment {segment} "
            f"and class number {class_index}; are the checkpoint's weights sound?"
        )
    return scores_KC
