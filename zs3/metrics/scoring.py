"""Seen, unseen, harmonic and per-class scores under a protocol, of one set of images or of many resamples at once."""

# R set of images, K scored class

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from zs3.metrics.confusions import Confusion
from zs3.metrics.counts import HITS, PREDICTED, TRUE, image_counts, refuse_unlisted, scored_classes
from zs3.metrics.protocols import EvaluatedClass, Protocol

GROUPS = ("seen", "unseen", "harmonic", "all")
"""What every metric is given for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassScore:
    """One class: iou and accuracy in percent, NaN where the class has no true pixel that counts; and of the pixels that
    count, how many truly are the class and how many are labelled it."""

    id: int
    name: str
    seen: bool
    iou: float
    accuracy: float
    pixels: int
    labelled: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """The scores of one set of images; every mean in percent, NaN where undefined."""

    seen: float
    unseen: float
    harmonic: float
    all: float
    pixel_accuracy: float
    mean_accuracy: float
    frequency_weighted_iou: float
    pixels: int
    classes: tuple[ClassScore, ...]
    absent: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ScoreArrays:
    """Every score of R sets of images; percent, NaN where undefined.

    Attributes:
        means: (metric, group) -> (R,); metrics are iou, accuracy, pixel_accuracy and frequency_weighted_iou.
        iou_RK, accuracy_RK: of each class.
    """

    means: dict[tuple[str, str], np.ndarray]
    iou_RK: np.ndarray
    accuracy_RK: np.ndarray


def scores(confusion: Confusion, classes: Sequence[EvaluatedClass], protocol: Protocol) -> Scores:
    """Seen, unseen, harmonic and per-class scores, as `Protocol.words` says (ZegFormer: train_net.py).

    Args:
        confusion: the sum over all images.
        classes: the data set's class list, ignored roles included.
        protocol: which pixels count.

    Raises:
        ValueError: a true class id is not in the class list.
    """
    refuse_unlisted(confusion, classes)
    scored = scored_classes(classes, protocol)
    unseen_K = np.array([entry.role == "unseen" for entry in scored], bool)
    lengths = np.array([confusion.truth.size])
    counts_13K = image_counts(
        lengths, confusion.truth, confusion.prediction, confusion.pixels, classes, protocol
    )
    arrays = score_arrays(counts_13K, unseen_K, protocol)
    true_K, labelled_K = (counts_13K[0, part].astype(np.int64) for part in (TRUE, PREDICTED))
    return Scores(
        **{group: float(arrays.means["iou", group][0]) for group in GROUPS},
        pixel_accuracy=float(arrays.means["pixel_accuracy", "all"][0]),
        mean_accuracy=float(arrays.means["accuracy", "all"][0]),
        frequency_weighted_iou=float(arrays.means["frequency_weighted_iou", "all"][0]),
        pixels=int(true_K.sum()),
        classes=tuple(
            ClassScore(
                id=entry.id,
                name=entry.name,
                seen=entry.role != "unseen",
                iou=float(arrays.iou_RK[0, k]),
                accuracy=float(arrays.accuracy_RK[0, k]),
                pixels=int(true_K[k]),
                labelled=int(labelled_K[k]),
            )
            for k, entry in enumerate(scored)
        ),
        absent=tuple(entry.name for entry, pixels in zip(scored, true_K, strict=True) if not pixels),
    )


def score_arrays(
    counts_R3K: np.ndarray, unseen_K: np.ndarray, protocol: Protocol, *, resamples: bool = False
) -> ScoreArrays:
    """All scores of counts that are summed over images: the one rule by which classes are averaged into groups.

    A class without a true pixel is left out of the means, or, where the protocol says so, makes the mean IoU of its
    group undefined. In resamples it is always left out: that a resample happened to draw no image of a class says
    nothing about the run, and most resamples would have no score.

    Args:
        counts_R3K: correct, true and labelled pixels.
        unseen_K: bool.
        protocol: how absent classes are treated.
        resamples: whether the counts are those of bootstrap replicates.
    """
    hits, true, predicted = (counts_R3K[:, which] for which in (HITS, TRUE, PREDICTED))
    present = true > 0
    iou, accuracy = (
        np.divide(100.0 * hits, whole, out=np.full(hits.shape, np.nan), where=present)
        for whole in (true + predicted - hits, true)
    )
    numerators = {
        "iou": (iou, present),
        "accuracy": (accuracy, present),
        "pixel_accuracy": (100.0 * hits, true),
        "frequency_weighted_iou": (iou * true, true),
    }
    groups = {"seen": ~unseen_K, "unseen": unseen_K, "all": np.ones_like(unseen_K)}
    means: dict[tuple[str, str], np.ndarray] = {}
    for metric, (values, weights) in numerators.items():
        for group, members in groups.items():
            total = np.where(present & members, values, 0.0).sum(axis=1)
            means[metric, group] = _quotient(total, (weights * members).sum(axis=1))
    undefined = 0.0
    if protocol.absent == "nan":
        occurring = np.count_nonzero(true + predicted, axis=1)
        means["iou", "all"] = _quotient(np.where(present, iou, 0.0).sum(axis=1), occurring)
        if not resamples:
            undefined = math.nan
            for group in ("seen", "unseen"):
                complete = (present | ~groups[group]).all(axis=1)
                means["iou", group] = np.where(complete, means["iou", group], np.nan)
    for metric in numerators:
        pair = means[metric, "seen"], means[metric, "unseen"]
        means[metric, "harmonic"] = harmonic(*pair, undefined=undefined if metric == "iou" else 0.0)
    return ScoreArrays(means=means, iou_RK=iou, accuracy_RK=accuracy)


def harmonic(seen: Any, unseen: Any, *, undefined: float = 0.0) -> np.ndarray:
    """Harmonic mean 2su / (s + u) of numbers or arrays; `undefined` where both are zero."""
    both = np.asarray(seen + unseen)
    return np.where(both == 0, undefined, 2 * seen * unseen / np.where(both == 0, 1.0, both))


def finite(value: float) -> float | None:
    """A number for JSON, which has no NaN."""
    return None if math.isnan(value) else float(value)


def _quotient(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole, NaN where whole is zero."""
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)
