"""Class scores of segments: their embeddings against the text banks of both branches."""

# K segment, C class, R row of a bank, D E embedding

from __future__ import annotations

import torch
from torch import Tensor

from zs3.classification.fusion import geometric_ensemble, with_image
from zs3.config import NamingSettings
from zs3.nets.zegformer import nearest_rows
from zs3.segmentation.segments import Segments


def class_scores(
    segments: Segments,
    query_bank_RD: Tensor,
    image_bank_RE: Tensor,
    seen_C: Tensor,
    settings: NamingSettings,
    *,
    query_logit_scale: float,
    image_logit_scale: float,
    class_of_row_R: Tensor | None = None,
) -> Tensor:
    """(K, C) score of each class for each segment, in [0, 1].

    Each branch takes a softmax over the classes and `no object`, which is then dropped (the released code's
    `mask_former/mask_former_model.py`); a segment that is no object scores low for every class. See
    `zs3.classification.fusion.geometric_ensemble` for FC-CLIP's scores.

    Args:
        query_bank_RD: (R, D) unit rows. image_bank_RE: (R, E) unit rows, unused without an image branch.
        seen_C: (C,) bool. query_logit_scale, image_logit_scale: 1 / temperature of each branch.
        class_of_row_R: (R,) int64, the class of each row of both banks, of which the nearest counts; None: row by row.

    Raises:
        ValueError: scores are not finite.
    """
    no_object_K1 = segments.no_object_logits_K[:, None]
    if segments.query_embeddings_KD.shape[1] == 0:
        by_image = image_logit_scale * _cosines(segments.image_embeddings_KE, image_bank_RE, class_of_row_R)
        return _finite(by_image.softmax(dim=1) * torch.sigmoid(-no_object_K1))
    by_query = query_logit_scale * _cosines(segments.query_embeddings_KD, query_bank_RD, class_of_row_R)
    with_no_object = torch.cat((by_query, no_object_K1), dim=1) / settings.query_temperature
    query_KC = with_no_object.softmax(dim=1)[:, :-1]
    if settings.branches == "query" or segments.image_embeddings_KE.shape[1] == 0:
        return _finite(query_KC)
    by_image = image_logit_scale * _cosines(segments.image_embeddings_KE, image_bank_RE, class_of_row_R)
    if settings.branches == "geometric_ensemble":
        valid_K = (segments.image_embeddings_KE != 0).any(dim=1)
        return _finite(geometric_ensemble(with_no_object, by_image, seen_C, valid_K, settings))
    if settings.void_in_image_softmax:
        by_image = torch.cat((by_image, no_object_K1), dim=1).softmax(dim=1)[:, :-1]
    else:
        by_image = by_image.softmax(dim=1)
    return _finite(with_image(query_KC, by_image, seen_C, settings))


def _cosines(rows_KD: Tensor, bank_RD: Tensor, class_of_row_R: Tensor | None) -> Tensor:
    """(K, C) products of unit rows, in double precision so that the number of threads changes no bit."""
    if not len(rows_KD):  # a table row without segments has embeddings of length 0
        cosines_KR = rows_KD.new_zeros(0, len(bank_RD))
    else:
        cosines_KR = (rows_KD.double() @ bank_RD.double().T).float()
    return nearest_rows(cosines_KR, class_of_row_R)


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
