"""The table `scores` as numbers per image: every score under a protocol, with its bootstrap interval."""

# N image, R replicate, C column of counts, K scored class

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from zs3.metrics.counts import HITS, TRUE, image_counts, scored_classes, sums_by_image
from zs3.metrics.intervals import REPLICATES, bootstrap_sums, intervals
from zs3.metrics.protocols import EvaluatedClass, Protocol
from zs3.metrics.scoring import GROUPS, score_arrays

METRICS = ("iou", "accuracy", "pixel_accuracy", "frequency_weighted_iou", "boundary_iou")
"""What is given for seen, unseen, their harmonic mean, and all."""

_REGIONS = ("truth", "prediction", "pixels")
_OUTLINES = ("boundary_truth", "boundary_prediction", "boundary_pixels")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Range:
    """A score with its 95 % interval over other images like these; percent, NaN where undefined."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Ranges:
    """Every score of a run with its interval: (metric, group) -> range, and the IoU of each scored class."""

    means: dict[tuple[str, str], Range]
    iou: tuple[Range, ...]
    boundary_iou: tuple[Range, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AllScores:
    """Scores of R sets of images: (metric, group) -> (R,), and IoU per class of regions and of outlines."""

    means: dict[tuple[str, str], np.ndarray]
    iou_RK: np.ndarray
    boundary_RK: np.ndarray


def ranges(
    blocks: Iterable[pa.Table],
    images: int,
    classes: Sequence[EvaluatedClass],
    protocol: Protocol,
    *,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> Ranges:
    """Every score of all images, and its interval over bootstrap replicates.

    Args:
        blocks: rows of `scores`, ordered by image id.
        images: how many there are.
        classes: of the data set.
        protocol: which pixels count.
        replicates: bootstrap replicates of the images.
        seed: chooses the replicates.
    """
    counts = ScoreCounts(classes, protocol)
    replicated = counts.scores(
        bootstrap_sums(counts.count(blocks), images, replicates=replicates, seed=seed), resamples=True
    )
    whole = counts.scores(counts.total[None])
    keys = list(whole.means)
    values = np.array([whole.means[key][0] for key in keys])
    means = _ranges(values, np.stack([replicated.means[key] for key in keys], axis=1), images)
    return Ranges(
        means=dict(zip(keys, means, strict=True)),
        iou=_ranges(whole.iou_RK[0], replicated.iou_RK, counts.images_with_class),
        boundary_iou=_ranges(whole.boundary_RK[0], replicated.boundary_RK, counts.images_with_class),
    )


class ScoreCounts:
    """From rows of `scores` to count columns, and from sums of such columns to scores.

    Attributes:
        total: (C,) sums over all images counted so far.
        images_with_class: (K,) how many of them truly hold each scored class.
    """

    def __init__(self, classes: Sequence[EvaluatedClass], protocol: Protocol) -> None:
        self._classes, self._protocol = classes, protocol
        self._scored = scored_classes(classes, protocol)
        self._unseen_K = np.array([entry.role == "unseen" for entry in self._scored], bool)
        self.total = np.zeros(6 * len(self._scored))
        self.images_with_class = np.zeros(len(self._scored), np.int64)

    def count(self, blocks: Iterable[pa.Table]) -> Iterator[np.ndarray]:
        """(n, C) counts of each block, added to the totals as they pass."""
        for block in blocks:
            counts = self.columns(block)
            self.total += counts.sum(axis=0)
            true = counts.reshape(len(counts), 2, 3, len(self._scored))[:, 0, TRUE]
            self.images_with_class += np.count_nonzero(true, axis=0)
            yield counts

    def columns(self, block: pa.Table) -> np.ndarray:
        """(n, C) counts: correct, true, labelled pixels per class, then the same of outlines."""
        regions, edges = (self._image_counts(block, *names) for names in (_REGIONS, _OUTLINES))
        ids = [entry.id for entry in self._scored]
        lengths, class_ids = _list_lengths(block["boundary_class"]), _values(block["boundary_class"])
        for row, name in ((TRUE, "boundary_true"), (HITS, "boundary_hits")):
            edges[:, row] = sums_by_image(class_ids, lengths, _values(block[name]), ids)
        return np.concatenate([regions, edges], axis=1).reshape(block.num_rows, -1)

    def _image_counts(self, block: pa.Table, truth: str, prediction: str, pixels: str) -> np.ndarray:
        """(n, 3, K) counts of a confusion in three list columns."""
        return image_counts(
            _list_lengths(block[truth]),
            _values(block[truth]),
            _values(block[prediction]),
            _values(block[pixels]),
            self._classes,
            self._protocol,
        )

    def scores(self, sums_RC: np.ndarray, *, resamples: bool = False) -> AllScores:
        """All scores of R sums of columns; `resamples` as in `score_arrays`."""
        counts = sums_RC.reshape(len(sums_RC), 2, 3, len(self._scored))
        regions, edges = (
            score_arrays(counts[:, part], self._unseen_K, self._protocol, resamples=resamples)
            for part in (0, 1)
        )
        boundary = {("boundary_iou", group): edges.means["iou", group] for group in GROUPS}
        return AllScores(means=regions.means | boundary, iou_RK=regions.iou_RK, boundary_RK=edges.iou_RK)


def _ranges(values: np.ndarray, replicates_RC: np.ndarray, images_C: np.ndarray | int) -> tuple[Range, ...]:
    """The range of each score; no interval where it is undefined or too few images stand behind it."""
    if not values.size:
        return ()
    ends = (np.where(np.isnan(values), np.nan, end) for end in intervals(replicates_RC, images_C))
    return tuple(
        Range(value=float(value), low=float(low), high=float(high))
        for value, low, high in zip(values, *ends, strict=True)
    )


def _list_lengths(column: pa.ChunkedArray) -> np.ndarray:
    """(N,) int64 lengths of a list column."""
    return pc.list_value_length(column).to_numpy().astype(np.int64)


def _values(column: pa.ChunkedArray) -> np.ndarray:
    """(n,) int64 values of a list column."""
    return pc.list_flatten(column).to_numpy().astype(np.int64)
