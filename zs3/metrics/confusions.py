"""Sparse confusions, whose sums are exact: score anywhere, in any order.

One image gives one `Confusion`: for every pair (true class, predicted class) that occurs, its pixels.
It still holds everything, background included; a `Protocol` decides afterwards which pixels count,
so that the same confusion can be scored in several ways.
"""

# H W pixels, n pairs of classes that occur

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

UNLABELLED = -1
"""Prediction id of a pixel that was given no class: a miss of the true class, and no class's false alarm."""

UNKNOWN = -2
"""Prediction id of a pixel given a class that the data set lacks: counted like an unlabelled pixel."""

_DENSE_BINS = 1 << 21
"""Up to this many possible pairs a dense histogram is faster than sorting."""

_EXACT = 1 << 53
"""Sums below this are exact in float64, which is what a weighted histogram adds in."""

_PIXELS_PER_RUN = 4
"""Where runs are shorter than this on average, counting pixels is faster than counting runs."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Confusion:
    """How many pixels of each true class were given each class: n pairs, each once, in order.

    Attributes:
        truth: (n,) int64 class ids.
        prediction: (n,) int64 class ids, or `UNLABELLED`, or `UNKNOWN`.
        pixels: (n,) int64, at least 1 each.
    """

    truth: np.ndarray
    prediction: np.ndarray
    pixels: np.ndarray

    def __post_init__(self) -> None:
        assert self.truth.shape == self.prediction.shape == self.pixels.shape, (
            "one entry per pair in each column"
        )


def confusion(truth_HW: np.ndarray, prediction_HW: np.ndarray, *, ignore_id: int) -> Confusion:
    """The pairs of classes of one image and their pixels; pixels whose truth is `ignore_id` are left out.

    Args:
        truth_HW: integer class ids.
        prediction_HW: integer class ids of the same shape; `UNLABELLED` where there is none.
        ignore_id: the truth value of ignored pixels.

    Raises:
        ValueError: shapes differ, or values are not integers.
    """
    if truth_HW.shape != prediction_HW.shape:
        raise ValueError(
            f"truth has shape {truth_HW.shape}, prediction {prediction_HW.shape}; "
            "both must be of the same picture"
        )
    for what, values in (("truth", truth_HW), ("prediction", prediction_HW)):
        if not np.issubdtype(values.dtype, np.integer):
            raise ValueError(f"{what} holds {values.dtype} values; expected integer class ids")
    truth, prediction = truth_HW.ravel(), prediction_HW.ravel()
    if truth.size == 0:
        return joined(truth, prediction, truth)
    changed = truth[1:] != truth[:-1]
    changed |= prediction[1:] != prediction[:-1]
    if np.count_nonzero(changed) * _PIXELS_PER_RUN > truth.size:
        return _without(joined(truth, prediction), ignore_id)
    # Label maps are regions, so that runs of equal pixels are far fewer than pixels.
    ends = np.append(np.flatnonzero(changed), truth.size - 1)
    lengths = ends.copy()
    lengths[0] += 1
    lengths[1:] -= ends[:-1]
    return _without(joined(truth[ends], prediction[ends], lengths), ignore_id)


def total(parts: Iterable[Confusion]) -> Confusion:
    """The exact sum: the confusion of all pixels together."""
    listed = list(parts)
    if not listed:
        return joined(np.empty(0, np.int64), np.empty(0, np.int64))
    return joined(
        np.concatenate([part.truth for part in listed]),
        np.concatenate([part.prediction for part in listed]),
        np.concatenate([part.pixels for part in listed]),
    )


def with_true_names(image: Confusion) -> Confusion:
    """Masks alone: every labelled region of one image renamed to the class that most of its pixels truly are.

    Pixels without a label stay so. Take `counted` first, or pixels that do not count may name a region.
    """
    return _renamed(image, by=image.prediction, to=image.truth, keep=image.prediction == UNLABELLED)


def with_true_masks(image: Confusion) -> Confusion:
    """Names alone: every true region of one image given, as one, the label that most of its pixels got."""
    return _renamed(image, by=image.truth, to=image.prediction, keep=np.zeros(image.truth.shape, bool))


def _renamed(image: Confusion, *, by: np.ndarray, to: np.ndarray, keep: np.ndarray) -> Confusion:
    """Predictions replaced, group by group, by the group's largest pair; ties go to the smaller id."""
    order = np.lexsort((to, -image.pixels, by))
    groups, first = np.unique(by[order], return_index=True)
    names = to[order][first][np.searchsorted(groups, by)]
    return joined(image.truth, np.where(keep, image.prediction, names), image.pixels)


def joined(truth: np.ndarray, prediction: np.ndarray, pixels: np.ndarray | None = None) -> Confusion:
    """Equal pairs joined and sorted; every entry weighs 1 where `pixels` is not given.

    Args:
        truth: (m,) integer class ids.
        prediction: (m,) integer class ids.
        pixels: (m,) int64 weights.
    """
    if truth.size == 0:
        empty = np.empty(0, np.int64)
        return Confusion(truth=empty, prediction=empty, pixels=empty)
    lowest_truth, lowest = int(truth.min()), int(prediction.min())
    width = int(prediction.max()) - lowest + 1
    bins = (int(truth.max()) - lowest_truth + 1) * width
    fits = all(np.can_cast(ids.dtype, np.int32) for ids in (truth, prediction)) and bins <= _DENSE_BINS
    kind = np.dtype(np.int32 if fits else np.int64)
    keys = (truth.astype(kind, copy=False) - lowest_truth) * width
    keys += prediction.astype(kind, copy=False) - lowest
    if bins <= _DENSE_BINS and (pixels is None or _sum_is_exact(pixels)):
        histogram = np.bincount(keys, pixels)
        places = np.flatnonzero(histogram != 0)  # without the comparison it takes ten times as long
        sums = histogram[places]
    else:
        order = np.argsort(keys, kind="stable")
        places, start = np.unique(keys[order], return_index=True)
        weights = np.ones(keys.shape, np.int64) if pixels is None else pixels[order]
        sums = np.add.reduceat(weights, start)
    return Confusion(
        truth=places // width + lowest_truth, prediction=places % width + lowest, pixels=sums.astype(np.int64)
    )


def _sum_is_exact(pixels: np.ndarray) -> bool:
    """Whether these weights may be added as float64."""
    return int(pixels.max()) < _EXACT // pixels.size


def _without(confusion: Confusion, ignore_id: int) -> Confusion:
    """All pairs whose truth is not `ignore_id`."""
    return where(confusion, confusion.truth != ignore_id)


def where(confusion: Confusion, keep: np.ndarray) -> Confusion:
    """Only the pairs marked in `keep`."""
    return Confusion(
        truth=confusion.truth[keep], prediction=confusion.prediction[keep], pixels=confusion.pixels[keep]
    )
