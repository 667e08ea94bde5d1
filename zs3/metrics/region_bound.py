"""An upper bound of what naming can reach: no names for the labelled regions of all images score more.

The names with the highest mean IoU cannot be found in reasonable time, since a region that one class gains others lose.
So each class gets the regions that make its own IoU highest, whatever the others get. For one class these are the
regions of which the class has more than a certain share; the driver keeps sums by share, not regions.
"""

# K scored class, B bin of shares

from collections.abc import Sequence

import numpy as np

from zs3.metrics.confusions import UNLABELLED, Confusion
from zs3.metrics.counts import scored_classes
from zs3.metrics.protocols import EvaluatedClass, Protocol

BINS = 1000
"""Equal parts of (0, 1]. Regions in the last bin that a class gets are taken as the best that the bin can hold, so that
the bound is at most a thousandth too high."""


class RegionBound:
    """Sums over images: for each class and each share of a region that truly is the class, those regions' pixels."""

    def __init__(self, classes: Sequence[EvaluatedClass], protocol: Protocol) -> None:
        self._ids = np.array([entry.id for entry in scored_classes(classes, protocol)], np.int64)
        self._true_K = np.zeros(len(self._ids))
        self._hits_KB = np.zeros((len(self._ids), BINS))
        self._pixels_KB = np.zeros((len(self._ids), BINS))

    def add(self, image: Confusion) -> None:
        """Count one image, of which `zs3.metrics.counted` has kept the pixels that count."""
        place_n = np.searchsorted(self._ids, image.truth, sorter=(order := np.argsort(self._ids)))
        class_n = order[place_n]
        self._true_K += np.bincount(class_n, image.pixels, minlength=len(self._ids))
        regions, region_n = np.unique(image.prediction, return_inverse=True)
        size_n = np.bincount(region_n, image.pixels, minlength=len(regions))[region_n]
        bin_n = np.ceil(image.pixels / size_n * BINS).astype(np.int64) - 1
        labelled_n = image.prediction != UNLABELLED  # the others stay without a name
        places = (class_n[labelled_n], bin_n[labelled_n])
        np.add.at(self._hits_KB, places, image.pixels[labelled_n])
        np.add.at(self._pixels_KB, places, size_n[labelled_n])

    def counts(self) -> np.ndarray:
        """(3, K) correct, true and labelled pixels of each class, as `zs3.metrics.counts` orders them."""
        hits_KB, pixels_KB = self._hits_KB[:, ::-1], self._pixels_KB[:, ::-1]
        highest_share_B = np.arange(BINS, 0, -1) / BINS
        correct_KB = hits_KB.cumsum(axis=1)
        labelled_KB = pixels_KB.cumsum(axis=1) - pixels_KB + hits_KB / highest_share_B
        iou_KB = correct_KB / np.maximum(1, self._true_K[:, None] + labelled_KB - correct_KB)
        best_K1 = iou_KB.argmax(axis=1, keepdims=True)
        correct_K, labelled_K = (
            np.take_along_axis(part, best_K1, axis=1)[:, 0] for part in (correct_KB, labelled_KB)
        )
        return np.stack([correct_K, self._true_K, labelled_K])
