"""Zero-shot segmentation scores: sparse confusions, protocols, scores, outlines, calibration, intervals.

Imports nothing of ours.
Begin with `confusions.confusion`, then `scoring.scores`.
"""

from zs3.metrics.confusions import (
    UNKNOWN,
    UNLABELLED,
    Confusion,
    confusion,
    total,
    with_true_masks,
    with_true_names,
)
from zs3.metrics.counts import counted
from zs3.metrics.protocols import PROTOCOLS, EvaluatedClass, Protocol
from zs3.metrics.scoring import GROUPS, ClassScore, Scores, finite, harmonic, scores

__all__ = [
    "GROUPS",
    "PROTOCOLS",
    "UNKNOWN",
    "UNLABELLED",
    "ClassScore",
    "Confusion",
    "EvaluatedClass",
    "Protocol",
    "Scores",
    "confusion",
    "counted",
    "finite",
    "harmonic",
    "scores",
    "total",
    "with_true_masks",
    "with_true_names",
]
