"""What a sweep of naming settings tells: each naming's seen-unseen trade-off, the area under it, the best point."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from zs3.metrics import Confusion, EvaluatedClass, Protocol, scores
from zs3.tuning.calibration_sweep import Gammas, Key, confusion_at


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """What one setting scores; mIoU in percent, not a number where undefined."""

    naming: int
    """Place of its naming among those tried."""
    gamma: float
    """-inf and inf for the ends of a curve: seen names alone, unseen names alone."""
    seen: float
    unseen: float
    harmonic: float
    all: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """The trade-off of one naming: a point for each γ, ascending, between both ends."""

    points: tuple[Point, ...]
    """More than two."""

    @property
    def settings(self) -> tuple[Point, ...]:
        """The points that are settings: all but the ends."""
        return self.points[1:-1]

    @property
    def area(self) -> float:
        """The area under unseen over seen mIoU, in [0, 1]: what the naming can do, whatever γ is chosen.

        The trapezoidal rule along γ (AUSUC; Chao et al. 2016, who have accuracies where we have mIoU). A curve that
        ends off the axes, since the data set calls other classes seen than the checkpoint, goes on to them straight.
        Not a number where a point is none.
        """
        steps = zip(self.points, self.points[1:])
        percent_squared = sum((one.seen - two.seen) * (one.unseen + two.unseen) / 2 for one, two in steps)
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
        sums: over all pictures, of `zs3.tuning.calibration_sweep.swept`.
        naming: its place among those tried.
        classes: of the data set.
    """
    return Curve(
        points=tuple(
            point(confusion_at(sums, naming, gamma, gammas), naming, gamma, classes, protocol)
            for gamma in (-math.inf, *gammas.values, math.inf)
        )
    )


def point(
    held: Confusion, naming: int, gamma: float, classes: Sequence[EvaluatedClass], protocol: Protocol
) -> Point:
    """The scores of one confusion."""
    found = scores(held, classes, protocol)
    return Point(
        naming=naming,
        gamma=gamma,
        seen=found.seen,
        unseen=found.unseen,
        harmonic=found.harmonic,
        all=found.all,
    )


def best_point(curves: Sequence[Curve], own_gamma: float) -> Point:
    """The setting with the largest harmonic mean; of equals the first naming, then γ nearest to the checkpoint's own.

    Raises:
        ValueError: no setting has a harmonic mean.
    """
    settings = [one for held in curves for one in held.settings if not math.isnan(one.harmonic)]
    if not settings:
        raise ValueError(
            "no setting has a harmonic mean, as the truth holds no pixel of a seen class, or none of an unseen one; "
            "tune on a split that has both"
        )
    return min(settings, key=lambda one: (-one.harmonic, one.naming, abs(one.gamma - own_gamma), one.gamma))
