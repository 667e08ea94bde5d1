"""Two runs on the same images: how far apart every score is, how sure that is, and whether chance would do."""

# N image, R replicate, K scored class

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from zs3.metrics.intervals import REPLICATES, intervals, p_value, resampled, swapped
from zs3.metrics.protocols import EvaluatedClass, Protocol
from zs3.metrics.resampling import AllScores, Sums
from zs3.metrics.scoring import scored_classes


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A score of two runs, in percent, and the second less the first, in points.

    Attributes:
        first, second, difference: not a number where undefined.
        low, high: 95 % interval of the difference over drawings of the images, the same for both runs.
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

    Both runs are drawn the same images, so what makes an image hard for both cancels. The test exchanges the runs'
    results image by image: were the runs alike, the difference would be as large that often.

    Args:
        first, second: give the rows of `scores`, ordered by image id, the same images in both; read twice, so that
            no counts are kept.
        images: how many.
        classes: of the data set.
        protocol: of both.
    """
    sums = (Sums(classes, protocol), Sums(classes, protocol))
    drawn = [
        resampled(one.iterate_with_timeout(rows()), images, replicates=replicates, seed=seed)
        for one, rows in zip(sums, (first, second), strict=True)
    ]
    again = [map(one.columns, rows()) for one, rows in zip(sums, (first, second), strict=True)]
    exchanged = swapped(*again, replicates=replicates, seed=seed)
    whole = [one.scores(one.total[None]) for one in sums]
    resamples = [one.scores(sums_RC) for one, sums_RC in zip(sums, drawn, strict=True)]
    null = [one.scores(sums_RC) for one, sums_RC in zip(sums, exchanged, strict=True)]
    keys = list(whole[0].means)
    for one, scores in zip(sums, whole, strict=True):
        for key in filter(one.undefined, keys):
            scores.means[key] = np.full(1, np.nan)
    means = _differences(*([_stacked(scores, keys) for scores in pair] for pair in (whole, resamples, null)))
    per_class = _differences(*([scores.iou_RK for scores in pair] for pair in (whole, resamples, null)))
    named = zip(scored_classes(classes, protocol), per_class, strict=True)
    return Paired(
        means=dict(zip(keys, means, strict=True)),
        classes=tuple((entry.name, entry.role != "unseen", held) for entry, held in named),
    )


def _differences(
    whole: Sequence[np.ndarray], drawn: Sequence[np.ndarray], null: Sequence[np.ndarray]
) -> list[Difference]:
    """One difference per column of (R, C) scores, each given for the first and the second run."""
    observed, by_chance = (whole[1] - whole[0])[0], null[1] - null[0]
    low, high = (np.where(np.isnan(observed), np.nan, end) for end in intervals(drawn[1] - drawn[0]))
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
