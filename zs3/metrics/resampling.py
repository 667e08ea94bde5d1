"""The table `scores` as numbers per image: sums, drawings and intervals of every score under a protocol."""

# N image, R replicate, K scored class

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from zs3.metrics.counts import (
    GROUPS,
    HITS,
    TRUE,
    Pairs,
    by_image,
    image_counts,
    score_arrays,
)
from zs3.metrics.intervals import FEWEST, REPLICATES, intervals, resampled
from zs3.metrics.protocols import EvaluatedClass, Protocol
from zs3.metrics.scoring import scored_classes

METRICS = ("iou", "accuracy", "pixel_accuracy", "frequency_weighted_iou", "boundary_iou")
"""What is given for seen, unseen, their harmonic mean, and all."""

COLUMNS = (
    "truth", "prediction", "pixels", "boundary_truth", "boundary_prediction", "boundary_pixels",
    "boundary_class", "boundary_true", "boundary_hits",
)  # fmt: skip
"""What is read of the table."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Range:
    """A score with the interval in which it would lie on other images like these; percent.

    Attributes:
        value, low, high: not a number where undefined.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Ranges:
    """Every score of a run with its interval.

    Attributes:
        means: (metric, group) -> range.
        iou: per scored class.
        boundary_iou: per scored class.
    """

    means: dict[tuple[str, str], Range]
    iou: tuple[Range, ...]
    boundary_iou: tuple[Range, ...]


def ranges(
    blocks: Iterable[pa.Table],
    images: int,
    classes: Sequence[EvaluatedClass],
    protocol: Protocol,
    *,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> Ranges:
    """Every score of all images, and its interval over drawings of them.

    Args:
        blocks: rows of `scores`, ordered by image id.
        images: how many rows there are in all.
        classes: of the data set.
        protocol: which pixels count.
        replicates: drawings.
        seed: chooses them.
    """
    sums = Sums(classes, protocol)
    drawn = resampled(sums.iterate_with_timeout(blocks), images, replicates=replicates, seed=seed)
    whole, replicated = sums.scores(sums.total[None]), sums.scores(drawn)
    enough_K = sums.images_with_class >= FEWEST
    means = {}
    low, high = intervals(np.stack([replicated.means[key] for key in replicated.means], axis=1))
    for number, key in enumerate(replicated.means):
        void = sums.undefined(key)
        wide = images >= FEWEST and not void
        value = float("nan") if void else float(whole.means[key][0])
        means[key] = Range(
            value=value,
            low=float(low[number]) if wide else float("nan"),
            high=float(high[number]) if wide else float("nan"),
        )
    return Ranges(
        means=means,
        iou=_class_ranges(whole.iou_RK[0], replicated.iou_RK, enough_K),
        boundary_iou=_class_ranges(whole.boundary_RK[0], replicated.boundary_RK, enough_K),
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AllScores:
    """Scores of R sets of images: (metric, group) -> (R,), and IoU per class of regions and of outlines."""

    means: dict[tuple[str, str], np.ndarray]
    iou_RK: np.ndarray
    boundary_RK: np.ndarray


class Sums:
    """From rows of `scores` to count columns, and from sums of such columns to scores.

    Attributes:
        total: (C,) sums of all images seen so far.
        images_with_class: (K,) how many of them truly hold each scored class.
        unseen_K: bool.
    """

    def __init__(self, classes: Sequence[EvaluatedClass], protocol: Protocol) -> None:
        self._classes, self._protocol = classes, protocol
        self._scored = scored_classes(classes, protocol)
        self.unseen_K = np.array([entry.role == "unseen" for entry in self._scored], bool)
        self.total = np.zeros(6 * len(self._scored))
        self.images_with_class = np.zeros(len(self._scored), np.int64)

    def iterate_with_timeout(self, blocks: Iterable[pa.Table]) -> Iterator[np.ndarray]:
        """(n, C) counts of each block, added to the totals as they pass."""
        for block in blocks:
            counts = self.columns(block)
            self.total += counts.sum(axis=0)
            true = counts.reshape(len(counts), 2, 3, len(self._scored))[:, 0, TRUE]
            self.images_with_class += np.count_nonzero(true, axis=0)
            yield counts

    def columns(self, block: pa.Table) -> np.ndarray:
        """(n, C) counts: right, true, labelled pixels per class, then the same of outlines."""
        regions = image_counts(_pairs(block, "truth", "prediction", "pixels"), self._classes, self._protocol)
        named = ("boundary_truth", "boundary_prediction", "boundary_pixels")
        edges = image_counts(_pairs(block, *named), self._classes, self._protocol)
        ids = [entry.id for entry in self._scored]
        lengths, class_ids = _flat(block, "boundary_class")
        for row, name in ((TRUE, "boundary_true"), (HITS, "boundary_hits")):
            edges[:, row] = by_image(class_ids, lengths, _flat(block, name)[1], ids)
        return np.concatenate([regions, edges], axis=1).reshape(block.num_rows, -1)

    def undefined(self, key: tuple[str, str]) -> bool:
        """Whether the protocol gives no mean IoU of a group to these images, as they lack one of its classes."""
        metric, group = key
        if self._protocol.absent != "nan" or metric not in ("iou", "boundary_iou") or group == "all":
            return False
        members = {"seen": ~self.unseen_K, "unseen": self.unseen_K}.get(group, np.ones_like(self.unseen_K))
        return bool((self.images_with_class[members] == 0).any())

    def scores(self, sums_RC: np.ndarray) -> AllScores:
        """All scores of R sums of columns."""
        counts = sums_RC.reshape(len(sums_RC), 2, 3, len(self._scored))
        regions = score_arrays(counts[:, 0], self.unseen_K, self._protocol)
        edges = score_arrays(counts[:, 1], self.unseen_K, self._protocol)
        means = dict(regions.means)
        means |= {("boundary_iou", group): edges.means["iou", group] for group in GROUPS}
        return AllScores(means=means, iou_RK=regions.iou_RK, boundary_RK=edges.iou_RK)


def _class_ranges(values: np.ndarray, drawn_RK: np.ndarray, enough_K: np.ndarray) -> tuple[Range, ...]:
    """The range of each class; no interval for one that too few images hold."""
    if not values.size:
        return ()
    low, high = intervals(drawn_RK)
    low, high = np.where(enough_K, low, np.nan), np.where(enough_K, high, np.nan)
    return tuple(
        Range(value=float(value), low=float(least), high=float(most))
        for value, least, most in zip(values, low, high, strict=True)
    )


def _pairs(block: pa.Table, truth: str, prediction: str, pixels: str) -> Pairs:
    """Three parallel list columns, flat."""
    lengths, ids = _flat(block, truth)
    return Pairs(
        lengths=lengths, truth=ids, prediction=_flat(block, prediction)[1], pixels=_flat(block, pixels)[1]
    )


def _flat(block: pa.Table, name: str) -> tuple[np.ndarray, np.ndarray]:
    """(N,) lengths and (n,) int64 values of a list column."""
    column = block[name]
    lengths = pc.list_value_length(column).to_numpy().astype(np.int64)
    return lengths, pc.list_flatten(column).to_numpy().astype(np.int64)
