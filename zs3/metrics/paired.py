"""Two runs on the same images: how far apart every score is, how sure that is, and whether it may be chance."""

# N image, R replicate, C score

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from operator import attrgetter

import numpy as np
import pyarrow as pa

from zs3.metrics.counts import scored_classes
from zs3.metrics.intervals import REPLICATES, bootstrap_sums, exchanged_sums, intervals, p_value
from zs3.metrics.protocols import EvaluatedClass, Protocol
from zs3.metrics.resampling import AllScores, ScoreCounts


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A score of two runs, in percent, and the second less the first, in points.

    Attributes:
        first, second, difference: NaN where undefined.
        low, high: 95 % interval of the difference over bootstrap replicates of the images, the same for both runs.
        p: two-sided, of the paired randomisation test.
    """

    first: float
    second: float
    difference: float
    low: float
    high: float
    p: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Paired:
    """Every score of two runs: (metric, group) -> difference, and IoU class by class, in the order of the data set."""

    means: dict[tuple[str, str], Difference]
    classes: tuple[tuple[str, bool, Difference], ...]
    """Name, seen, difference."""


def paired(
    first: Callable[[], Iterable[pa.Table]],
    second: Callable[[], Iterable[pa.Table]],
    images: int,
    classes: Sequence[EvaluatedClass],
    protocol: Protocol,
    *,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> Paired:
    """The differences of two runs.

    Both runs get the same bootstrap replicates, so what makes an image hard for both cancels. The test exchanges the
    runs' results image by image: p is how often the difference would be as large if the runs were alike.

    Args:
        first, second: give the rows of `scores`, ordered by image id, the same images in both; read twice, so that
            no counts are kept.
        images: how many.
        classes: of the data set.
        protocol: of both.
    """
    sources = (first, second)
    counts = (ScoreCounts(classes, protocol), ScoreCounts(classes, protocol))
    resampled = [
        run.scores(
            bootstrap_sums(run.count(rows()), images, replicates=replicates, seed=seed), resamples=True
        )
        for run, rows in zip(counts, sources, strict=True)
    ]
    whole = [run.scores(run.total[None]) for run in counts]
    columns = [map(run.columns, rows()) for run, rows in zip(counts, sources, strict=True)]
    exchanged = exchanged_sums(*columns, replicates=replicates, seed=seed)
    null = [run.scores(sums_RC, resamples=True) for run, sums_RC in zip(counts, exchanged, strict=True)]
    keys = list(whole[0].means)
    sets = (whole, resampled, null)
    by_mean, by_class = (
        [(part(first), part(second)) for first, second in sets]
        for part in (partial(_stacked, keys=keys), attrgetter("iou_RK"))
    )
    means = _differences(*by_mean, images_C=images)
    classes_K = _differences(*by_class, images_C=counts[0].images_with_class)
    return Paired(
        means=dict(zip(keys, means, strict=True)),
        classes=tuple(
            (entry.name, entry.role != "unseen", difference)
            for entry, difference in zip(scored_classes(classes, protocol), classes_K, strict=True)
        ),
    )


def _differences(
    whole: Sequence[np.ndarray],
    resampled: Sequence[np.ndarray],
    null: Sequence[np.ndarray],
    *,
    images_C: np.ndarray | int,
) -> list[Difference]:
    """One difference per column of (R, C) scores, each given for the first and the second run.

    Args:
        images_C: how many images stand behind each column.
    """
    observed, by_chance = (whole[1] - whole[0])[0], null[1] - null[0]
    ends = intervals(resampled[1] - resampled[0], images_C)
    low, high = (np.where(np.isnan(observed), np.nan, end) for end in ends)
    return [
        Difference(
            first=float(whole[0][0, c]),
            second=float(whole[1][0, c]),
            difference=float(observed[c]),
            low=float(low[c]),
            high=float(high[c]),
            p=p_value(float(observed[c]), by_chance[:, c]),
        )
        for c in range(observed.size)
    ]


def _stacked(scores: AllScores, keys: Sequence[tuple[str, str]]) -> np.ndarray:
    """(R, C) means, a column per key."""
    return np.stack([scores.means[key] for key in keys], axis=1)
