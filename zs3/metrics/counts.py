"""From the sparse confusions of many images to dense counts per class, and from counts to every score at once.

A score is a function of three numbers per class: pixels that are rightly it, truly it, and labelled it. Their sums over
any weighting of images are a matrix product, which is what intervals are made of.
"""

# N image, R replicate, K scored class, n entries of all images together

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from zs3.metrics.protocols import EvaluatedClass, Protocol
from zs3.metrics.scoring import as_counted, scored_classes

GROUPS = ("seen", "unseen", "harmonic", "all")
"""What every metric is given for."""

HITS, TRUE, PREDICTED = range(3)
"""The three numbers per class, in this order."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pairs:
    """The confusions of several images, one behind the other.

    Attributes:
        lengths: (N,) int64 entries of each image.
        truth: (n,) int64 class ids.
        prediction: (n,) int64 class ids.
        pixels: (n,) int64.
    """

    lengths: np.ndarray
    truth: np.ndarray
    prediction: np.ndarray
    pixels: np.ndarray


def image_counts(pairs: Pairs, classes: Sequence[EvaluatedClass], protocol: Protocol) -> np.ndarray:
    """(N, 3, K) float64: right, true and labelled pixels of each scored class in each image.

    All are whole numbers below 2^53, so products and sums of them are exact.
    """
    scored = scored_classes(classes, protocol)
    ids, column = _sorted([entry.id for entry in scored])
    images = np.repeat(np.arange(pairs.lengths.size), pairs.lengths)
    prediction = as_counted(pairs.prediction, classes, protocol)
    counted = np.isin(pairs.truth, ids)
    right = counted & (pairs.truth == prediction)
    given = counted & np.isin(prediction, ids)
    shape = (pairs.lengths.size, len(scored))
    return np.stack(
        [
            _by_image(images[keep], values[keep], pairs.pixels[keep], ids, column, shape)
            for keep, values in ((right, pairs.truth), (counted, pairs.truth), (given, prediction))
        ],
        axis=1,
    )


def by_image(
    class_ids: np.ndarray, lengths: np.ndarray, values: np.ndarray, scored: Sequence[int]
) -> np.ndarray:
    """(N, K) float64 sums of `values` per image and scored class; other classes are passed over.

    Args:
        class_ids: (n,) class of each entry.
        lengths: (N,) entries of each image.
        values: (n,) int64.
        scored: ids of the K classes.
    """
    ids, column = _sorted(list(scored))
    images = np.repeat(np.arange(lengths.size), lengths)
    keep = np.isin(class_ids, ids)
    return _by_image(images[keep], class_ids[keep], values[keep], ids, column, (lengths.size, len(scored)))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ScoreArrays:
    """Every score of R sets of images; percent, not a number where undefined.

    Attributes:
        means: (metric, group) -> (R,); metrics are iou, accuracy, pixel_accuracy and frequency_weighted_iou.
        iou_RK: of each class.
    """

    means: dict[tuple[str, str], np.ndarray]
    iou_RK: np.ndarray


def score_arrays(counts_R3K: np.ndarray, unseen_K: np.ndarray, protocol: Protocol) -> ScoreArrays:
    """All scores of counts that are summed over images.

    A class without a true pixel is left out of the means, under every protocol: a resample is the run on other images,
    and that it happened to draw none of a class says nothing of the run. (Under `paper` such a class would leave most
    resamples without a number.) What the protocol says of a class that the whole set lacks is not decided here.

    Args:
        counts_R3K: right, true and labelled pixels.
        unseen_K: bool.
        protocol: how `all` is divided.
    """
    hits, true, predicted = (counts_R3K[:, which] for which in (HITS, TRUE, PREDICTED))
    present = true > 0
    iou = _percent(hits, true + predicted - hits, present)
    accuracy = _percent(hits, true, present)
    groups = {"seen": ~unseen_K, "unseen": unseen_K, "all": np.ones_like(unseen_K)}
    means: dict[tuple[str, str], np.ndarray] = {}
    for group, members in groups.items():
        inside = present & members
        count = np.count_nonzero(inside, axis=1)
        pixels = (true * members).sum(axis=1)
        means["iou", group] = _quotient(_sum(iou, inside), count)
        means["accuracy", group] = _quotient(_sum(accuracy, inside), count)
        means["pixel_accuracy", group] = 100 * _quotient((hits * members).sum(axis=1), pixels)
        means["frequency_weighted_iou", group] = _quotient(_sum(iou * true, inside), pixels)
    if protocol.absent == "nan":
        means["iou", "all"] = _quotient(_sum(iou, present), np.count_nonzero(true + predicted, axis=1))
    for metric in ("iou", "accuracy", "pixel_accuracy", "frequency_weighted_iou"):
        seen, unseen = means[metric, "seen"], means[metric, "unseen"]
        both = np.where(seen + unseen == 0, 1.0, seen + unseen)
        means[metric, "harmonic"] = 2 * seen * unseen / both
    return ScoreArrays(means=means, iou_RK=iou)


def finite(value: float) -> float | None:
    """A number for JSON, which knows no NaN."""
    return None if math.isnan(value) else float(value)


def _by_image(
    images: np.ndarray,
    class_ids: np.ndarray,
    values: np.ndarray,
    ids: np.ndarray,
    column: np.ndarray,
    shape: tuple[int, int],
) -> np.ndarray:
    """Sums per image and class, all of whose ids are known."""
    if not ids.size:
        return np.zeros(shape)
    keys = images * shape[1] + column[np.searchsorted(ids, class_ids)]
    return np.bincount(keys, values.astype(np.float64), minlength=shape[0] * shape[1]).reshape(shape)


def _sorted(ids: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Ids in order, and the column that each has."""
    held = np.array(ids, np.int64)
    column = np.argsort(held, kind="stable")
    return held[column], column


def _percent(part: np.ndarray, whole: np.ndarray, defined: np.ndarray) -> np.ndarray:
    """100 * part / whole where defined, else not a number."""
    return np.divide(100.0 * part, whole, out=np.full(part.shape, np.nan), where=defined)


def _sum(values: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """(R,) sums of what is kept."""
    return np.where(keep, values, 0.0).sum(axis=1)


def _quotient(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole, not a number where whole is zero."""
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)
