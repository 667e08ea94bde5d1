"""What a whole costs, from what a sample of it cost: totals with intervals.

A stratified sample: all images are parted by something cheap that tells of their cost, as the size of their files, and
some are drawn at random from each part. What differs between parts then adds nothing to the error.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from scipy import stats

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """An estimate, and the bounds between which the truth lies with the confidence that was asked for."""

    estimate: float
    low: float
    high: float

    def times(self, factor: float) -> Interval:
        """Of something that is so many times as large; the factor is not negative."""
        return Interval(estimate=self.estimate * factor, low=self.low * factor, high=self.high * factor)

    def plus(self, other: Interval) -> Interval:
        """Of the sum with another quantity, bound by bound; wider than it need be where the two are independent."""
        return Interval(
            estimate=self.estimate + other.estimate, low=self.low + other.low, high=self.high + other.high
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Stratum:
    """A part of the whole, and what was measured of the items that were drawn from it without replacement."""

    size: int
    """Items in it."""
    values: tuple[float, ...]
    """One for each item that was drawn; all items, or at least two."""


def exactly(value: float) -> Interval:
    """The interval of what is known."""
    return Interval(estimate=value, low=value, high=value)


def larger(one: Interval, other: Interval) -> Interval:
    """The larger of two quantities, bound by bound."""
    return Interval(
        estimate=max(one.estimate, other.estimate),
        low=max(one.low, other.low),
        high=max(one.high, other.high),
    )


def total(strata: Sequence[Stratum], confidence: float = CONFIDENCE) -> Interval:
    """The sum of a value over all items.

    With N items in a stratum, of which n were drawn, their mean m and their variance s² (of n - 1): the estimate is
    the sum of N m over strata, its variance the sum of g s² with g = N (N - n) / n, which is 0 where all items were
    drawn; the interval is that of Student's t with the degrees of freedom (Σ g s²)² / Σ (g² s⁴ / (n - 1)). Source:
    W. G. Cochran, Sampling Techniques, 3rd edition, Wiley 1977, sections 5.3 and 5.4; the degrees of freedom are those
    of F. E. Satterthwaite, Biometrics Bulletin 2, 1946. Where no value is negative, no bound is lower than the sum of
    those measured.

    Args:
        strata: parts that together are the whole.
        confidence: share of samples whose interval holds the truth, in (0, 1).

    Raises:
        ValueError: a stratum has more values than items, or too few to tell how they vary.
    """
    estimate = measured = variance = spread = 0.0
    for stratum in strata:
        size, drawn = stratum.size, len(stratum.values)
        if drawn > size or (drawn < 2 and drawn < size):
            raise ValueError(
                f"a stratum of {size} items has {drawn} values; expected at least 2, or one of every item"
            )
        if not size:
            continue
        mean = math.fsum(stratum.values) / drawn
        estimate += size * mean
        measured += math.fsum(stratum.values)
        if drawn < size:
            squares = math.fsum((value - mean) ** 2 for value in stratum.values) / (drawn - 1)
            share = size * (size - drawn) / drawn * squares
            variance += share
            spread += share**2 / (drawn - 1)
    if not variance:
        return exactly(estimate)
    margin = float(stats.t.ppf((1 + confidence) / 2, variance**2 / spread)) * math.sqrt(variance)
    floor = measured if all(value >= 0 for stratum in strata for value in stratum.values) else -math.inf
    return Interval(estimate=estimate, low=max(estimate - margin, floor), high=estimate + margin)


def allocation(images: int, sample: int, per_stratum: int = 8) -> tuple[int, int]:
    """How many strata to make of so many images, and how many images to draw from each.

    All are drawn where the sample is not smaller than the whole.

    Args:
        images: in all.
        sample: how many to draw, at least 2.
        per_stratum: how many to draw from a stratum, so that their variance is known well enough.

    Raises:
        ValueError: the sample is too small.
    """
    if sample < 2:
        raise ValueError(
            f"sample is {sample}; expected at least 2, since one image does not tell how they vary"
        )
    if images <= sample:
        return 1, images
    strata = max(1, sample // per_stratum)
    return strata, sample // strata


def parts_of_size(
    size_of: Callable[[Sequence[int]], float], items: Sequence[int]
) -> tuple[list[float], float]:
    """How a file's size is made up: what each item adds to it, and what remains.

    An item adds the difference that it makes to the file of all; what they share, and what belongs to none of them
    (schemas, statistics), remains. The sizes of files of other items like these are then the sum of what theirs add,
    and that remainder.

    Args:
        size_of: the size of a file of some of the items.
        items: numbers that stand for them.
    """
    whole = size_of(items)
    adds = [whole - size_of([other for other in items if other != item]) for item in items]
    return adds, whole - math.fsum(adds)
