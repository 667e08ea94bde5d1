"""Where the error is, told from stored segments alone: the same picture with one part of the work done by an oracle.

`oracle_names`: the masks are the model's, their names are the truth's. A label map falls into pieces, the pixels that
one segment painted with one name; each piece takes the name that most of its pixels truly have. No other naming of the
pieces has more pixels right; so the model's own has at most as many, and so has a naming of whole regions
(`zs3.metrics.with_true_names`, all that a label table allows), since regions are made of pieces.

`true_masks`: the masks are the truth's, their names are the model's. A true region, all pixels of a class in a picture,
takes the candidate with the largest mean pixel score there: sum over segments of class score times mean mask
probability within the region, less γ. What the segments know of the region still comes through their own masks; to ask
what the networks would make of the region itself, segment with the true masks as proposals and name those.

`oracle_group`: at every pixel only candidates of the truth's own group, seen or unseen, compete. No pixel that was
right becomes wrong.

The model's own naming is the fourth; it is that of `zs3.classification.semantic_map.semantic_map`.
`zs3.evaluation.diagnosis` asks the like of a network.
"""

# K segment, C candidate class, R true region, H W pixels, n rows of a strip
from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zs3.classification.semantic_map import (
    MAX_VALUES_IN_STRIP,
    calibration_offsets,
    pixel_scores_of_rows,
    semantic_map,
)
from zs3.config import NamingSettings
from zs3.metrics import UNKNOWN, UNLABELLED, Confusion, Protocol, confusion, counted, with_true_names
from zs3.metrics.confusions import joined
from zs3.metrics.scoring import scored_classes
from zs3.segmentation.segments import Segments
from zs3.vocabulary import ClassEntry, Vocabulary

ORACLES = ("oracle_names", "true_masks", "oracle_group")

STRIP_ROWS = 64
"""Rows whose mask probabilities are in memory at once, or fewer where there are many segments."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Candidates:
    """What a pixel may be called, in the order of the class scores, and what that means in the data set."""

    ids_C: NDArray[np.int64]
    """Class id of the data set, or `UNKNOWN` where it has no such class."""
    unseen_C: NDArray[np.bool_]
    """Group: as the data set has it; a class that it lacks is unseen if the checkpoint had no masks of it."""
    trained_C: Tensor
    """Bool, True where the checkpoint had masks: what calibration calibration_offsets."""


def candidates(
    entries: Sequence[ClassEntry],
    seen: Mapping[int, bool],
    matches: Mapping[str, int],
    vocabulary: Vocabulary,
    protocol: Protocol,
) -> Candidates:
    """The candidates of a naming class list against a data set.

    Args:
        entries: of the class list, in the order of the scores.
        seen: id in the class list -> whether the checkpoint had masks of it.
        matches: name -> class id of the data set, or `UNKNOWN`.
        vocabulary: the data set's.
        protocol: where it counts background, it takes classes that the data set lacks as that.
    """
    roles = {entry.id: entry.role for entry in vocabulary.classes}
    ids = [matches[entry.name] for entry in entries]
    unseen = [
        not (seen[entry.id] or protocol.background_counts) if held == UNKNOWN else roles[held] == "unseen"
        for entry, held in zip(entries, ids, strict=True)
    ]
    return Candidates(
        ids_C=np.array(ids, np.int64),
        unseen_C=np.array(unseen, np.bool_),
        trained_C=torch.tensor([seen[entry.id] for entry in entries]),
    )


@torch.inference_mode()
def error_split(
    segments: Segments,
    scores_KC: Tensor,
    labels_HW: NDArray[np.integer],
    truth_HW: NDArray[np.integer],
    named: Candidates,
    settings: NamingSettings,
    vocabulary: Vocabulary,
    protocol: Protocol,
) -> dict[str, Confusion]:
    """One confusion per oracle of `ORACLES`, of the pixels that count; see the module.

    Args:
        scores_KC: score of each candidate for each segment.
        labels_HW: index of the candidate that the model gave to each pixel, -1 where no mask reaches: there, only
            `true_masks` names anything.
        truth_HW: class ids of the data set.
        named: the candidates.
        settings: with which the model named.
        vocabulary: the data set's.
        protocol: which pixels count.
    """
    painters_HW = painters(segments, scores_KC, labels_HW, resize_first=settings.resize_first)
    # Pieces have numbers beyond those of classes: a protocol may count no label as one of these.
    beyond = 1 + max(entry.id for entry in vocabulary.classes)
    pieces_HW = beyond + labels_HW.astype(np.int64) * max(1, len(scores_KC)) + painters_HW
    pieces_HW[labels_HW < 0] = UNLABELLED
    grouped_HW = named_in_group(segments, scores_KC, labels_HW, truth_HW, named, settings, vocabulary)
    held = {
        "oracle_names": confusion(truth_HW, pieces_HW, ignore_id=vocabulary.ignore_id),
        "true_masks": named_regions(segments, scores_KC, truth_HW, named, settings, vocabulary, protocol),
        "oracle_group": confusion(truth_HW, grouped_HW, ignore_id=vocabulary.ignore_id),
    }
    kept = {name: counted(one, vocabulary.classes, protocol) for name, one in held.items()}
    return kept | {"oracle_names": with_true_names(kept["oracle_names"])}


def painters(
    segments: Segments, scores_KC: Tensor, labels_HW: NDArray[np.integer], *, resize_first: bool
) -> NDArray[np.int64]:
    """(H, W) which segment gave the most to the score of each pixel's label; ties go to the first, none is 0."""
    found = np.zeros(labels_HW.shape, np.int64)
    if len(scores_KC):
        labels = torch.from_numpy(labels_HW.astype(np.int64))
        for rows, probabilities_KnW in _strips(segments, resize_first=resize_first):
            shares_KnW = scores_KC[:, labels[rows]] * probabilities_KnW
            found[rows] = shares_KnW.max(dim=0).indices.numpy()
    return found


def named_regions(
    segments: Segments,
    scores_KC: Tensor,
    truth_HW: NDArray[np.integer],
    named: Candidates,
    settings: NamingSettings,
    vocabulary: Vocabulary,
    protocol: Protocol,
) -> Confusion:
    """True regions, each called by the candidate with the largest mean pixel score there; no label where no mask is."""
    scored = np.array([entry.id for entry in scored_classes(vocabulary.classes, protocol)])
    regions_R = np.intersect1d(truth_HW, scored).astype(np.int64)
    pixels_R = np.array([np.count_nonzero(truth_HW == class_id) for class_id in regions_R], np.int64)
    masses_RK = torch.zeros(len(regions_R), len(scores_KC), dtype=torch.float64)
    if len(scores_KC):
        for rows, probabilities_KnW in _strips(segments, resize_first=settings.resize_first):
            inside_RnW = torch.from_numpy(truth_HW[rows] == regions_R[:, None, None])
            masses_RK += inside_RnW.flatten(1).double() @ probabilities_KnW.flatten(1).double().T
    means_RK = masses_RK / torch.from_numpy(pixels_R)[:, None]
    volume_RC = means_RK @ scores_KC.double() - calibration_offsets(named.trained_C, settings.calibration)
    names_R = named.ids_C[volume_RC.numpy().argmax(axis=1)]
    reached_R = masses_RK.sum(dim=1).numpy() > 0
    return joined(regions_R, np.where(reached_R, names_R, UNLABELLED), pixels_R)


def named_in_group(
    segments: Segments,
    scores_KC: Tensor,
    labels_HW: NDArray[np.integer],
    truth_HW: NDArray[np.integer],
    named: Candidates,
    settings: NamingSettings,
    vocabulary: Vocabulary,
) -> NDArray[np.int64]:
    """(H, W) class ids of the data set where only candidates of the truth's group compete; void counts as seen.

    Where a group has no candidate, its pixels get no label.
    """
    unseen = [entry.id for entry in vocabulary.classes if entry.role == "unseen"]
    group_HW = np.isin(truth_HW, unseen)
    # A label of the right group is also the best one within it; painted again it could differ by rounding.
    crossed_HW = (labels_HW >= 0) & (named.unseen_C[labels_HW] != group_HW)
    found = np.append(named.ids_C, UNLABELLED)[labels_HW]
    for group in (False, True):
        pixels_HW = crossed_HW & (group_HW == group)
        members = np.flatnonzero(named.unseen_C == group)
        if not len(members):
            found[pixels_HW] = UNLABELLED
        elif pixels_HW.any():
            index, _ = semantic_map(segments, scores_KC[:, members], named.trained_C[members], settings)
            found[pixels_HW] = named.ids_C[members[index.numpy()]][pixels_HW]
    return found


def _strips(segments: Segments, *, resize_first: bool) -> Iterator[tuple[slice, Tensor]]:
    """Rows of the picture and the (K, n, W) mask probabilities of every segment there, as painting has them."""
    alone_KK = torch.eye(len(segments.mask_logits_Khw))
    step = max(1, min(STRIP_ROWS, MAX_VALUES_IN_STRIP // (len(alone_KK) * segments.width)))
    for start in range(0, segments.height, step):
        rows = slice(start, min(start + step, segments.height))
        index = torch.arange(rows.start, rows.stop)
        yield rows, pixel_scores_of_rows(segments, alone_KK, index, resize_first=resize_first)
