"""Calibration of scores: of the pixels that a labeller is 70 % sure of, are 70 % correct?

A region has one score, so an image keeps one score per predicted class beside its confusion. The protocol decides which
pixels count, as it does for IoU.
Source: Guo et al. 2017, On Calibration of Modern Neural Networks (reliability diagram, expected calibration error).
"""

# B bin

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from zs3.metrics.confusions import Confusion
from zs3.metrics.counts import counted
from zs3.metrics.protocols import EvaluatedClass, Protocol
from zs3.metrics.scoring import finite, harmonic

BINS = 20
"""Equal parts of [0, 1]."""

_ROWS = ("pixels", "right", "score")


@dataclass(slots=True, kw_only=True)
class Reliability:
    """Sums per bin of the score: pixels, correct pixels, and scores; seen and unseen labels apart.

    Attributes:
        sums_2B3: whether the label is unseen, bin, (pixels, correct pixels, score times pixels).
        outside: pixels whose score is no probability, which are in no bin: label tables of earlier versions hold sums
            that exceed 1.
    """

    sums_2B3: np.ndarray = field(default_factory=lambda: np.zeros((2, BINS, len(_ROWS))))
    outside: int = 0

    def add(
        self,
        image: Confusion,
        scores: dict[int, float],
        classes: Sequence[EvaluatedClass],
        protocol: Protocol,
    ) -> None:
        """Count one image.

        Args:
            image: its confusion, before any protocol.
            scores: predicted class id -> score of its region, a probability.
            classes: of the data set.
            protocol: which pixels count. A pixel without a label has no score and is left out.
        """
        kept = counted(image, classes, protocol)
        unseen = {entry.id for entry in classes if entry.role == "unseen"}
        for class_id, score in scores.items():
            labelled = kept.prediction == class_id
            pixels = int(kept.pixels[labelled].sum())
            right = int(kept.pixels[labelled & (kept.truth == class_id)].sum())
            if not 0 <= score <= 1:
                self.outside += pixels
                continue
            self.sums_2B3[int(class_id in unseen), min(BINS - 1, int(score * BINS))] += (
                pixels,
                right,
                score * pixels,
            )

    def curve(self) -> list[dict[str, float | int | None]]:
        """Every bin: low, high, pixels, mean score and accuracy in [0, 1]; None where the bin is empty."""
        return [
            {
                "low": number / BINS,
                "high": (number + 1) / BINS,
                "pixels": int(pixels),
                "score": finite(score / pixels) if pixels else None,
                "accuracy": finite(right / pixels) if pixels else None,
            }
            for number, (pixels, right, score) in enumerate(self.sums_2B3.sum(axis=0).tolist())
        ]

    def errors(self) -> dict[str, float]:
        """Expected calibration error in percent of seen labels, unseen labels, both, and the harmonic mean of the
        first two; NaN where no pixel counts."""
        seen, unseen = (_error(sums) for sums in self.sums_2B3)
        return {
            "seen": seen,
            "unseen": unseen,
            "harmonic": float(harmonic(seen, unseen)),
            "all": _error(self.sums_2B3.sum(axis=0)),
        }


def _error(sums_B3: np.ndarray) -> float:
    """Mean over pixels of |accuracy - score| of their bin, in percent."""
    pixels, right, score = sums_B3.T
    total = float(pixels.sum())
    return 100 * float(np.abs(right - score).sum()) / total if total else float("nan")
