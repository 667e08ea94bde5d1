"""The result of a sweep of naming settings: each naming's seen-unseen trade-off, the area under it, the best point."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from zs3.metrics import GROUPS, Confusion, EvaluatedClass, Protocol, scores
from zs3.tuning.calibration_sweep import Gammas, Key, confusion_at


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """The scores of one setting; mIoU in percent, NaN where undefined."""

    naming: int
    """Index of its naming among those tried."""
    gamma: float
    """-inf and inf for the ends of a curve: seen names alone, unseen names alone."""
    seen: float
    unseen: float
    harmonic: float
    all: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """The trade-off of one naming: a point for each γ, ascending, between the two ends."""

    points: tuple[Point, ...]

    @property
    def settings(self) -> tuple[Point, ...]:
        """The points that are settings: all but the ends."""
        return self.points[1:-1]

    @property
    def area(self) -> float:
        """The area under unseen over seen mIoU, in [0, 1]: the quality of the naming, whatever γ is chosen.

        The trapezoidal rule along γ (AUSUC; Chao et al. 2016, with accuracies instead of mIoU). A curve that ends off
        the axes, since the data set calls other classes seen than the checkpoint, is continued to them in a straight
        line. NaN where a point is undefined.
        """
        steps = zip(self.points, self.points[1:])
        percent_squared = sum((a.seen - b.seen) * (a.unseen + b.unseen) / 2 for a, b in steps)
        return (percent_squared + self.points[-1].seen * self.points[-1].unseen) / 10_000


def curve(
    sums: Mapping[Key, Confusion],
    naming: int,
    gammas: Gammas,
    classes: Sequence[EvaluatedClass],
    protocol: Protocol,
) -> Curve:
    """The trade-off of one naming.

    Args:
        sums: over all images, of the results of `zs3.tuning.calibration_sweep.sweep`.
        naming: its index among those tried.
        classes: of the data set.
    """
    points = []
    for gamma in (-math.inf, *gammas.values, math.inf):
        result = scores(confusion_at(sums, naming, gamma, gammas), classes, protocol)
        by_group = {group: getattr(result, group) for group in GROUPS}
        points.append(Point(naming=naming, gamma=gamma, **by_group))
    return Curve(points=tuple(points))


def best_point(points: Iterable[Point], own_gamma: float) -> Point:
    """The setting with the highest harmonic mean; on ties the first naming, then the γ nearest to the checkpoint's own.

    A setting without a harmonic mean is the best only where none has one.
    """
    return min(
        points,
        key=lambda point: (
            math.isnan(point.harmonic),
            -point.harmonic,
            point.naming,
            abs(point.gamma - own_gamma),
            point.gamma,
        ),
    )


def best_setting(curves: Sequence[Curve], own_gamma: float) -> Point:
    """The best point that is a setting, of all curves.

    Raises:
        ValueError: no setting has a harmonic mean.
    """
    best = best_point((point for curve in curves for point in curve.settings), own_gamma)
    if math.isnan(best.harmonic):
        raise ValueError(
            "no setting has a harmonic mean, as the truth holds no pixel of a seen class, or none of an unseen one; "
            "tune on a split that has both"
        )
    return best
