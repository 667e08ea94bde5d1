"""Segmenting for a table: a checkpoint turns pictures into segments, without any class list."""

# K segment, C seen class

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from zs3.checkpoint import Checkpoint, load_checkpoint
from zs3.classification.classifier import SegmentClassifier
from zs3.classification.provenance import segments_provenance
from zs3.config import digest_of
from zs3.inference.labeller import load_segmenter
from zs3.segmentation.external_masks import external_segments
from zs3.segmentation.segments import Segments
from zs3.vocabulary import ClassEntry, Vocabulary

IGNORE_ID = 65535


class SegmentExporter:
    """A checkpoint, ready to turn pictures into segments.

    Attributes:
        digest: SHA-256 over all that defines the segments: weights, settings, mask store, code version.
        provenance: the parts of that digest by name.
    """

    def __init__(self, checkpoint: Checkpoint, store: str, *, device: torch.device) -> None:
        self.provenance = segments_provenance(checkpoint, store)
        self.segmenter = load_segmenter(checkpoint, checkpoint.recipe.segmenting, device=device)
        self.digest = digest_of(self.provenance)
        self._branches: list[SegmentClassifier] = []
        has_queries = checkpoint.recipe.model.architecture != "composed"
        if has_queries and checkpoint.recipe.segmenting.image_branch:
            both = SegmentClassifier(checkpoint, seen_vocabulary(checkpoint), device=device)
            self._branches = [
                both.with_settings(replace(both.settings, branches="query")),
                both.with_settings(replace(both.settings, branches="image")),
            ]

    def segment(self, pictures: Sequence[np.ndarray]) -> list[tuple[Segments, float]]:
        """(H, W, 3) uint8 RGB pictures → the segments of each, and the disagreement of its branches, in [0, 1]."""
        return [(segments, self._disagreement(segments)) for segments in self.segmenter.segment(pictures)]

    def segment_with_masks(self, picture: np.ndarray, masks_GHW: np.ndarray) -> tuple[Segments, float]:
        """As `segment` for one picture, with int8 logits of external masks (`zs3.masks.binary`) instead of predicted
        ones."""
        segments = external_segments(self.segmenter, picture, masks_GHW)
        return segments, self._disagreement(segments)

    def _disagreement(self, segments: Segments) -> float:
        if not self._branches:
            return 0.0
        by_query, by_image = (branch.scores(segments) for branch in self._branches)
        # One by one: binary masks have a cell for each pixel, and floats of all of them would take gigabytes.
        areas_K = torch.tensor([float(mask.sigmoid().mean()) for mask in segments.mask_logits_Khw])
        return disagreement(by_query, by_image, areas_K * by_query.sum(dim=1))


def disagreement(by_query_KC: Tensor, by_image_KC: Tensor, weights_K: Tensor) -> float:
    """How far two branches disagree about the segments of a picture, from 0 (not at all) to 1.

    The Jensen-Shannon divergence in bits (Lin 1991) of the two distributions over classes, each scaled to sum to 1,
    averaged over segments; 0 if no segment has weight.

    Args:
        by_query_KC, by_image_KC: (K, C) scores, not negative.
        weights_K: (K,) weight of each segment, not negative.
    """
    query_KC, image_KC = (
        scores.double() / scores.double().sum(dim=1, keepdim=True) for scores in (by_query_KC, by_image_KC)
    )
    divergence_K = _entropy((query_KC + image_KC) / 2) - (_entropy(query_KC) + _entropy(image_KC)) / 2
    total = float(weights_K.double().sum())
    mean = float((divergence_K * weights_K.double()).sum()) / total if total > 0 else 0.0
    return min(1.0, max(0.0, mean))


def _entropy(shares_KC: Tensor) -> Tensor:
    """(K,) in bits."""
    return -torch.special.xlogy(shares_KC, shares_KC).sum(dim=1) / np.log(2)


def seen_vocabulary(checkpoint: Checkpoint) -> Vocabulary:
    """The classes that a checkpoint was trained on, as a class list."""
    entries = tuple(
        ClassEntry(id=row, name=name) for row, name in enumerate(checkpoint.seen_classes, start=1)
    )
    return Vocabulary(name="seen", classes=entries, ignore_id=IGNORE_ID)


def load_segment_exporter(checkpoint: str, store: str, device: str = "cpu") -> SegmentExporter:
    """The exporter of a shipped name, folder or uri, on the device called `device`."""
    return SegmentExporter(load_checkpoint(checkpoint), store, device=torch.device(device))
