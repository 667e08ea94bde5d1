"""Boundary IoU (Cheng et al. 2021, arXiv 2103.16562): how well outlines are met, whatever the size of the region.

Of every mask only pixels within d of its outline count; d is 2 % of the picture's diagonal. A pixel is such a pixel
exactly when another label, or the edge of the picture, lies within d in the chessboard metric; so the outlines of all
classes are found at once from the largest and the smallest label of a window, instead of eroding mask by mask.
As in the authors' code, masks end at the edge of the picture. Ignored truth is a label of its own while outlines are
looked for, and its pixels do not count afterwards.
"""

# H W pixels

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import maximum_filter1d, minimum_filter1d

from zs3.metrics.confusions import Confusion, confusion

DILATION_RATIO = 0.02
"""Distance to the outline in picture diagonals."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BoundaryCounts:
    """The outline pixels of one image, ignored truth left out.

    Attributes:
        predicted: pixels within d of the outline of their predicted region, by true and predicted class.
        classes: (n,) int64 ids of the true classes.
        true: (n,) int64 pixels within d of the outline of the true region.
        hits: (n,) int64 pixels of both outlines, truly and predicted as the class.
    """

    predicted: Confusion
    classes: np.ndarray
    true: np.ndarray
    hits: np.ndarray


def boundary_counts(
    truth_HW: np.ndarray, prediction_HW: np.ndarray, *, ignore_id: int, ratio: float = DILATION_RATIO
) -> BoundaryCounts:
    """Sums of which Boundary IoU of every class is made: hits / (true + predicted - hits).

    Args:
        truth_HW: integer class ids.
        prediction_HW: integer class ids, of the same shape.
        ignore_id: the truth value of ignored pixels.
        ratio: distance to the outline in diagonals; at least one pixel is taken.
    """
    distance = max(1, round(ratio * float(np.hypot(*truth_HW.shape))))
    true_edge, edge = near_outline(truth_HW, distance), near_outline(prediction_HW, distance)
    true = confusion(truth_HW[true_edge], truth_HW[true_edge], ignore_id=ignore_id)
    both = true_edge & edge & (truth_HW == prediction_HW)
    met = confusion(truth_HW[both], truth_HW[both], ignore_id=ignore_id)
    hits = np.zeros(true.truth.shape, np.int64)
    hits[np.searchsorted(true.truth, met.truth)] = met.pixels
    return BoundaryCounts(
        predicted=confusion(truth_HW[edge], prediction_HW[edge], ignore_id=ignore_id),
        classes=true.truth,
        true=true.pixels,
        hits=hits,
    )


def near_outline(labels_HW: np.ndarray, distance: int) -> np.ndarray:
    """(H, W) bool: whether another label or the edge of the picture lies within `distance` (chessboard metric)."""
    window = 2 * distance + 1
    height, width = labels_HW.shape
    if min(height, width) < window:
        return np.ones(labels_HW.shape, bool)
    near = np.ones(labels_HW.shape, bool)
    largest = maximum_filter1d(maximum_filter1d(labels_HW, window, axis=0), window, axis=1)
    smallest = minimum_filter1d(minimum_filter1d(labels_HW, window, axis=0), window, axis=1)
    inner = (slice(distance, height - distance), slice(distance, width - distance))
    near[inner] = largest[inner] != smallest[inner]
    return near
