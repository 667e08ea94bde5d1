"""Which pixels count under a protocol, and dense counts per class, from which every score is computed.

A score is a function of three numbers per class: pixels that are correctly labelled it, truly it, and labelled it.
Their sums over any weighting of images are a matrix product, which is what bootstrap intervals are made of.
"""

# N image, K scored class, n entries of all images together

from collections.abc import Sequence

import numpy as np

from zs3.metrics.confusions import UNKNOWN, UNLABELLED, Confusion, joined, where
from zs3.metrics.protocols import EvaluatedClass, Protocol
from zs3.wording import first_names

HITS, TRUE, PREDICTED = range(3)
"""The three numbers per class, in this order."""


def scored_classes(classes: Sequence[EvaluatedClass], protocol: Protocol) -> list[EvaluatedClass]:
    """The classes that have a score, in the order of the data set."""
    return [entry for entry in classes if protocol.counts(entry)]


def counted(confusion: Confusion, classes: Sequence[EvaluatedClass], protocol: Protocol) -> Confusion:
    """Only the pixels that count under the protocol.

    Raises:
        ValueError: a true class id is not in the class list.
    """
    refuse_unlisted(confusion, classes)
    scored = np.array([entry.id for entry in scored_classes(classes, protocol)], np.int64)
    kept = where(confusion, np.isin(confusion.truth, scored))
    if not protocol.background_counts:
        return kept
    return joined(kept.truth, as_counted(kept.prediction, classes, protocol), kept.pixels)


def refuse_unlisted(confusion: Confusion, classes: Sequence[EvaluatedClass]) -> None:
    """Every true class is in the class list.

    Raises:
        ValueError: one is not.
    """
    unlisted = np.setdiff1d(confusion.truth, [entry.id for entry in classes])
    if unlisted.size:
        raise ValueError(
            f"truth has class ids {first_names(unlisted)} that the class list of {len(classes)} lacks; "
            "is the data set's class list or its ignore id right?"
        )


def as_counted(prediction: np.ndarray, classes: Sequence[EvaluatedClass], protocol: Protocol) -> np.ndarray:
    """Predicted ids as the protocol takes them: where background is a class, no label means background."""
    if not protocol.background_counts:
        return prediction
    (background,) = [entry.id for entry in classes if entry.role == "background"]
    return np.where((prediction == UNLABELLED) | (prediction == UNKNOWN), background, prediction)


def image_counts(
    lengths: np.ndarray,
    truth: np.ndarray,
    prediction: np.ndarray,
    pixels: np.ndarray,
    classes: Sequence[EvaluatedClass],
    protocol: Protocol,
) -> np.ndarray:
    """(N, 3, K) float64: correct, true and labelled pixels of each scored class in each image.

    All are whole numbers below 2^53, so products and sums of them are exact.

    Args:
        lengths: (N,) int64 entries of each image in the following columns.
        truth, prediction, pixels: (n,) int64, the confusions of the images, one after the other.
    """
    ids = [entry.id for entry in scored_classes(classes, protocol)]
    prediction = as_counted(prediction, classes, protocol)
    counts = np.isin(truth, ids)
    columns = (
        sums_by_image(class_ids, lengths, np.where(keep, pixels, 0), ids)
        for keep, class_ids in (
            (counts & (truth == prediction), truth),
            (counts, truth),
            (counts, prediction),
        )
    )
    return np.stack(list(columns), axis=1)


def sums_by_image(
    class_ids: np.ndarray, lengths: np.ndarray, values: np.ndarray, scored: Sequence[int]
) -> np.ndarray:
    """(N, K) float64 sums of `values` per image and scored class; other classes are left out.

    Args:
        class_ids: (n,) class of each entry.
        lengths: (N,) entries of each image.
        values: (n,) int64.
        scored: ids of the K classes.
    """
    shape = (lengths.size, len(scored))
    if not scored:
        return np.zeros(shape)
    column = np.argsort(scored, kind="stable")
    ids = np.asarray(scored, np.int64)[column]
    keep = np.isin(class_ids, ids)
    images = np.repeat(np.arange(lengths.size), lengths)[keep]
    keys = images * shape[1] + column[np.searchsorted(ids, class_ids[keep])]
    return np.bincount(keys, values[keep].astype(np.float64), minlength=shape[0] * shape[1]).reshape(shape)
