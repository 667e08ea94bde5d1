"""Where the error is, from stored segments alone: the same images with one part of the work done by an oracle.

`oracle_names`: the masks are predicted, their names are true. A label map is cut into pieces, the pixels that one
segment contributed most to under one name; each piece takes the name that most of its pixels truly have. No other
naming of the pieces has more correct pixels. So neither has the predicted one, nor a naming of whole regions
(`zs3.metrics.with_true_names`, all that a label table allows), since regions consist of pieces.

`true_masks`: the masks are true, their names are predicted. A true region, all pixels of a class in an image, takes the
candidate with the highest mean pixel score there: sum over segments of class score times mean mask probability within
the region, less γ. The region is still seen through the predicted masks; to ask the networks about the region itself,
segment with the true masks as external masks and name those.

`oracle_group`: at every pixel only candidates of the truth's own group, seen or unseen, compete. No correct pixel
becomes wrong.

The predicted naming is that of `zs3.classification.semantic_map.semantic_map`.
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
from zs3.metrics.counts import scored_classes
from zs3.segmentation.segments import Segments
from zs3.vocabulary import ClassEntry, Vocabulary

ORACLES = ("oracle_names", "true_masks", "oracle_group")

STRIP_ROWS = 64
"""Rows whose mask probabilities are in memory at once; fewer where there are many segments."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Candidates:
    """The classes that compete for a pixel, in the order of the class scores, and their meaning in the data set."""

    ids_C: NDArray[np.int64]
    """Class id of the data set, or `UNKNOWN` where it has no such class."""
    unseen_C: NDArray[np.bool_]
    """Group in the data set; a class that it lacks is unseen if the checkpoint had no masks of it."""
    trained_C: Tensor
    """Bool, True where the checkpoint had masks: γ is subtracted from their scores."""


def candidates_of(
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
        protocol: where background counts, classes that the data set lacks are taken as background.
    """
    roles = {entry.id: entry.role for entry in vocabulary.classes}
    ids = [matches[entry.name] for entry in entries]
    unseen = [
        not (seen[entry.id] or protocol.background_counts)
        if class_id == UNKNOWN
        else roles[class_id] == "unseen"
        for entry, class_id in zip(entries, ids, strict=True)
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
    candidates: Candidates,
    settings: NamingSettings,
    vocabulary: Vocabulary,
    protocol: Protocol,
) -> dict[str, Confusion]:
    """One confusion per oracle of `ORACLES`, of the pixels that count; see the module.

    Args:
        scores_KC: score of each candidate for each segment.
        labels_HW: index of the candidate predicted at each pixel, -1 where no mask reaches; there, only
            `true_masks` gives names.
        truth_HW: class ids of the data set.
        candidates: the classes that compete.
        settings: of the predicted naming.
        vocabulary: the data set's.
        protocol: which pixels count.
    """
    dominant_HW = dominant_segment(segments, scores_KC, labels_HW, resize_first=settings.resize_first)
    # Pieces have numbers beyond those of classes: a protocol may count no label as one of these.
    beyond = 1 + max(entry.id for entry in vocabulary.classes)
    pieces_HW = beyond + labels_HW.astype(np.int64) * max(1, len(scores_KC)) + dominant_HW
    pieces_HW[labels_HW < 0] = UNLABELLED
    grouped_HW = named_in_group(segments, scores_KC, labels_HW, truth_HW, candidates, settings, vocabulary)
    by_oracle = {
        "oracle_names": confusion(truth_HW, pieces_HW, ignore_id=vocabulary.ignore_id),
        "true_masks": named_regions(
            segments, scores_KC, truth_HW, candidates, settings, vocabulary, protocol
        ),
        "oracle_group": confusion(truth_HW, grouped_HW, ignore_id=vocabulary.ignore_id),
    }
    kept = {name: counted(part, vocabulary.classes, protocol) for name, part in by_oracle.items()}
    return kept | {"oracle_names": with_true_names(kept["oracle_names"])}


def dominant_segment(
    segments: Segments, scores_KC: Tensor, labels_HW: NDArray[np.integer], *, resize_first: bool
) -> NDArray[np.int64]:
    """(H, W) the segment that contributed most to the score of each pixel's label; the first on ties, 0 without any."""
    dominant_HW = np.zeros(labels_HW.shape, np.int64)
    if len(scores_KC):
        labels = torch.from_numpy(labels_HW.astype(np.int64))
        for rows, probabilities_KnW in _strips(segments, resize_first=resize_first):
            shares_KnW = scores_KC[:, labels[rows]] * probabilities_KnW
            dominant_HW[rows] = shares_KnW.max(dim=0).indices.numpy()
    return dominant_HW


def named_regions(
    segments: Segments,
    scores_KC: Tensor,
    truth_HW: NDArray[np.integer],
    candidates: Candidates,
    settings: NamingSettings,
    vocabulary: Vocabulary,
    protocol: Protocol,
) -> Confusion:
    """True regions, each named by the candidate with the highest mean pixel score there; no label where no mask is."""
    scored = np.array([entry.id for entry in scored_classes(vocabulary.classes, protocol)])
    regions_R = np.intersect1d(truth_HW, scored).astype(np.int64)
    pixels_R = np.array([np.count_nonzero(truth_HW == class_id) for class_id in regions_R], np.int64)
    masses_RK = torch.zeros(len(regions_R), len(scores_KC), dtype=torch.float64)
    if len(scores_KC):
        for rows, probabilities_KnW in _strips(segments, resize_first=settings.resize_first):
            inside_RnW = torch.from_numpy(truth_HW[rows] == regions_R[:, None, None])
            masses_RK += inside_RnW.flatten(1).double() @ probabilities_KnW.flatten(1).double().T
    means_RK = masses_RK / torch.from_numpy(pixels_R)[:, None]
    volume_RC = means_RK @ scores_KC.double() - calibration_offsets(
        candidates.trained_C, settings.calibration
    )
    names_R = candidates.ids_C[volume_RC.numpy().argmax(axis=1)]
    reached_R = masses_RK.sum(dim=1).numpy() > 0
    return joined(regions_R, np.where(reached_R, names_R, UNLABELLED), pixels_R)


def named_in_group(
    segments: Segments,
    scores_KC: Tensor,
    labels_HW: NDArray[np.integer],
    truth_HW: NDArray[np.integer],
    candidates: Candidates,
    settings: NamingSettings,
    vocabulary: Vocabulary,
) -> NDArray[np.int64]:
    """(H, W) class ids of the data set where only candidates of the truth's group compete.

    Ignored truth counts as seen. Where a group has no candidate, its pixels get no label.
    """
    unseen = [entry.id for entry in vocabulary.classes if entry.role == "unseen"]
    group_HW = np.isin(truth_HW, unseen)
    # A label of the right group is also the best within the group; computed anew it could differ by rounding.
    crossed_HW = (labels_HW >= 0) & (candidates.unseen_C[labels_HW] != group_HW)
    ids_HW = np.append(candidates.ids_C, UNLABELLED)[labels_HW]
    for group in (False, True):
        pixels_HW = crossed_HW & (group_HW == group)
        members = np.flatnonzero(candidates.unseen_C == group)
        if not len(members):
            ids_HW[pixels_HW] = UNLABELLED
        elif pixels_HW.any():
            index, _ = semantic_map(segments, scores_KC[:, members], candidates.trained_C[members], settings)
            ids_HW[pixels_HW] = candidates.ids_C[members[index.numpy()]][pixels_HW]
    return ids_HW


def _strips(segments: Segments, *, resize_first: bool) -> Iterator[tuple[slice, Tensor]]:
    """Rows of the image and the (K, n, W) mask probabilities of every segment there, as `semantic_map` uses them."""
    alone_KK = torch.eye(len(segments.mask_logits_Khw))
    step = max(1, min(STRIP_ROWS, MAX_VALUES_IN_STRIP // (len(alone_KK) * segments.width)))
    for start in range(0, segments.height, step):
        rows = slice(start, min(start + step, segments.height))
        index = torch.arange(rows.start, rows.stop)
        yield rows, pixel_scores_of_rows(segments, alone_KK, index, resize_first=resize_first)
