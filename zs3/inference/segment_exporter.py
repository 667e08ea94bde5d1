"""Grouping to keep: a checkpoint turns pictures into segments for a table, without any class list."""

# K segment, C seen class

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from zs3.checkpoint import Checkpoint, load_checkpoint
from zs3.classification.classifier import SegmentClassifier
from zs3.classification.provenance import provenance
from zs3.classification.scores import class_scores
from zs3.config import digest_of
from zs3.inference.labeller import segmenter_of
from zs3.segmentation.external_masks import external_segments
from zs3.segmentation.segments import Segments
from zs3.vocabulary import ClassEntry, Vocabulary

MANY_CLASSES_IGNORE_ID = 65535


class SegmentExporter:
    """A checkpoint, ready to turn pictures into segments: what `Labeller` does before names come in.

    Attributes:
        digest: SHA-256 over all that defines the segments: weights, settings, mask store, code version.
        provenance: the parts of that digest by name.
    """

    def __init__(self, checkpoint: Checkpoint, store: str, *, device: torch.device) -> None:
        self.segmenter = segmenter_of(checkpoint, checkpoint.recipe.segmenting, device=device)
        self.provenance = segments_provenance(checkpoint, store)
        self.digest = digest_of(self.provenance)
        self._seen = (
            SegmentClassifier(checkpoint, seen_vocabulary(checkpoint), device=device)
            if checkpoint.recipe.segmenting.image_branch
            else None
        )

    def segment(self, pictures: Sequence[np.ndarray]) -> list[tuple[Segments, float]]:
        """(H, W, 3) uint8 RGB pictures → the segments of each, and how far its branches disagree, in [0, 1]."""
        return [(segments, self._disagreement(segments)) for segments in self.segmenter.segment(pictures)]

    def segment_with_masks(self, picture: np.ndarray, given: np.ndarray) -> tuple[Segments, float]:
        """As `group` for one picture, with (G, H, W) int8 logits of given masks instead of its own
        (`zs3.segmentation.external_masks`)."""
        segments = external_segments(self.segmenter, picture, given)
        return segments, self._disagreement(segments)

    def _disagreement(self, segments: Segments) -> float:
        if self._seen is None:
            return 0.0
        by_query, by_image = (
            class_scores(
                segments,
                torch.from_numpy(self._seen.query_bank.embeddings),
                torch.from_numpy(self._seen.image_bank.embeddings),
                torch.ones(len(self._seen.entries), dtype=torch.bool),
                replace(self._seen.settings, branches=branch),
                query_logit_scale=self._seen.query_logit_scale,
                image_logit_scale=self._seen.image_logit_scale,
            )
            for branch in ("query", "image")
        )
        # One by one: hard masks have a cell for each pixel, and floats of all of them would take gigabytes.
        areas_K = torch.tensor([float(mask.sigmoid().mean()) for mask in segments.mask_logits_Khw])
        return disagreement(by_query, by_image, areas_K * by_query.sum(dim=1))


def disagreement(by_query_KC: Tensor, by_image_KC: Tensor, weights_K: Tensor) -> float:
    """How far two branches disagree about the segments of a picture: 0 where they agree, 1 at most.

    The Jensen-Shannon divergence in bits (Lin 1991) of the two distributions over classes, each scaled to sum to 1,
    averaged over segments; 0 where no segment has weight.

    Args:
        by_query_KC, by_image_KC: (K, C) scores, not negative.
        weights_K: (K,) how much each segment counts, not negative.
    """
    one, two = (
        scores.double() / scores.double().sum(dim=1, keepdim=True) for scores in (by_query_KC, by_image_KC)
    )
    divergence_K = _entropy((one + two) / 2) - (_entropy(one) + _entropy(two)) / 2
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
    return Vocabulary(name="seen", classes=entries, ignore_id=MANY_CLASSES_IGNORE_ID)


def segments_provenance(checkpoint: Checkpoint, store: str) -> dict[str, str]:
    """What defines the segments of a picture, part by part; known without loading a network."""
    parts = provenance(checkpoint, seen_vocabulary(checkpoint))
    return {key: part for key, part in parts.items() if key not in ("vocabulary", "naming")} | {
        "store": store
    }


def load_segment_exporter(checkpoint: str, store: str, device: str = "cpu") -> SegmentExporter:
    """The exporter of a shipped name, folder or uri, on the device called `device`."""
    return SegmentExporter(load_checkpoint(checkpoint), store, device=torch.device(device))
