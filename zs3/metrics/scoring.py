"""Seen, unseen, harmonic and per-class scores of a confusion under a protocol."""

# K scored classes

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from zs3.metrics.confusions import UNKNOWN, UNLABELLED, Confusion, joined, where
from zs3.metrics.protocols import EvaluatedClass, Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassScore:
    """One class: iou and accuracy in percent, not a number where the class has no true pixel that counts."""

    id: int
    name: str
    seen: bool
    iou: float
    accuracy: float
    pixels: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """What a set of images scores; every mean in percent, not a number where undefined."""

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


def counted(confusion: Confusion, classes: Sequence[EvaluatedClass], protocol: Protocol) -> Confusion:
    """Only the pixels that count under the protocol.

    Raises:
        ValueError: a true class id is not in the class list.
    """
    listed = np.array([entry.id for entry in classes], np.int64)
    stray = np.setdiff1d(confusion.truth, listed)
    if stray.size:
        raise ValueError(
            f"truth has class ids {stray.tolist()[:5]} that the class list of {len(classes)} lacks; "
            "is the data set's class list or its ignore id right?"
        )
    scored = np.array([entry.id for entry in classes if protocol.counts(entry)], np.int64)
    kept = where(confusion, np.isin(confusion.truth, scored))
    if not protocol.background_counts:
        return kept
    return joined(kept.truth, as_counted(kept.prediction, classes, protocol), kept.pixels)


def as_counted(prediction: np.ndarray, classes: Sequence[EvaluatedClass], protocol: Protocol) -> np.ndarray:
    """Predicted ids as the protocol takes them: where background is a class, no label means background."""
    if not protocol.background_counts:
        return prediction
    (background,) = [entry.id for entry in classes if entry.role == "background"]
    return np.where((prediction == UNLABELLED) | (prediction == UNKNOWN), background, prediction)


def scored_classes(classes: Sequence[EvaluatedClass], protocol: Protocol) -> list[EvaluatedClass]:
    """The classes that have a score, in the order of the data set."""
    return [entry for entry in classes if protocol.counts(entry)]


def scores(confusion: Confusion, classes: Sequence[EvaluatedClass], protocol: Protocol) -> Scores:
    """Seen, unseen, harmonic and per-class scores, as `Protocol.words` says (ZegFormer: train_net.py).

    Args:
        confusion: the sum over all images.
        classes: the data set's class list, void roles included.
        protocol: which pixels count.

    Raises:
        ValueError: a true class id is not in the class list.
    """
    kept = counted(confusion, classes, protocol)
    scored = scored_classes(classes, protocol)
    right = kept.truth == kept.prediction
    hits = _by_class(kept.truth[right], kept.pixels[right], scored)
    true = _by_class(kept.truth, kept.pixels, scored)
    predicted = _by_class(kept.prediction, kept.pixels, scored)
    present = true > 0
    iou = _ratio(hits, true + predicted - hits, present)
    accuracy = _ratio(hits, true, present)
    unseen = np.array([entry.role == "unseen" for entry in scored], bool)
    if protocol.absent == "skip":
        means = [_mean(iou[group & present]) for group in (~unseen, unseen, present)]
    else:
        occurring = int(np.count_nonzero(true + predicted))
        means = [_mean(iou[~unseen]), _mean(iou[unseen]), _quotient(float(iou[present].sum()), occurring)]
    pixels = int(true.sum())
    return Scores(
        seen=means[0],
        unseen=means[1],
        harmonic=harmonic(means[0], means[1], undefined=math.nan if protocol.absent == "nan" else 0.0),
        all=means[2],
        pixel_accuracy=100 * _quotient(int(hits.sum()), pixels),
        mean_accuracy=_mean(accuracy[present]),
        frequency_weighted_iou=_quotient(float((iou[present] * true[present]).sum()), pixels),
        pixels=pixels,
        classes=tuple(
            ClassScore(
                id=entry.id,
                name=entry.name,
                seen=entry.role != "unseen",
                iou=float(iou[k]),
                accuracy=float(accuracy[k]),
                pixels=int(true[k]),
            )
            for k, entry in enumerate(scored)
        ),
        absent=tuple(entry.name for k, entry in enumerate(scored) if not present[k]),
    )


def harmonic(seen: float, unseen: float, *, undefined: float = 0.0) -> float:
    """Harmonic mean 2su / (s + u); `undefined` where both are zero."""
    return undefined if seen + unseen == 0 else 2 * seen * unseen / (seen + unseen)


def _by_class(ids: np.ndarray, pixels: np.ndarray, scored: Sequence[EvaluatedClass]) -> np.ndarray:
    """(K,) int64 pixels of each scored class."""
    return np.array([int(pixels[ids == entry.id].sum()) for entry in scored], np.int64)


def _ratio(part: np.ndarray, whole: np.ndarray, defined: np.ndarray) -> np.ndarray:
    """100 * part / whole where defined, else not a number."""
    return np.divide(100.0 * part, whole, out=np.full(part.shape, np.nan), where=defined)


def _mean(values: np.ndarray) -> float:
    """The mean, not a number of nothing."""
    return _quotient(float(values.sum()), values.size)


def _quotient(part: float, whole: int) -> float:
    """part / whole, not a number where whole is zero."""
    return part / whole if whole else math.nan
