"""The plain procedure of the paper, against which strips and shortcuts are tested."""

from dataclasses import replace

import torch
from torch import Tensor

from zs3.classification.semantic_map import calibration_offsets, pixel_scores_of_rows
from zs3.config import NamingSettings
from zs3.segmentation.segments import Segments


def pixel_scores(segments: Segments, scores_KC: Tensor, seen_C: Tensor, settings: NamingSettings) -> Tensor:
    """(C, H, W) scores of every class at every pixel after calibration."""
    rows = torch.arange(segments.height)
    scores = pixel_scores_of_rows(segments, scores_KC, rows, resize_first=settings.resize_first)
    return scores - calibration_offsets(seen_C, settings.calibration)[:, None, None]


def labels_and_probabilities(
    segments: Segments, scores_KC: Tensor, seen_C: Tensor, settings: NamingSettings
) -> tuple[Tensor, Tensor]:
    """(H, W) the best class after calibration, and its share of the scores of all classes before it."""
    labels = pixel_scores(segments, scores_KC, seen_C, settings).max(dim=0).indices
    plain = pixel_scores(segments, scores_KC, seen_C, replace(settings, calibration=0.0))
    return labels, plain.gather(0, labels[None])[0] / plain.sum(dim=0)
