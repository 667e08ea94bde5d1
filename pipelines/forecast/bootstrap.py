"""Totals over all images, with confidence intervals, from values measured on a simple random sample of them."""

# R bootstrap replicate, N image of the sample
from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

CONFIDENCE = 0.95
"""Share of samples whose interval contains the true total."""

REPLICATES = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """An estimate and the bounds of its 95 % confidence interval."""

    estimate: float
    low: float
    high: float

    def times(self, factor: float) -> Interval:
        """The same quantity in another unit; the factor must not be negative."""
        return Interval(estimate=self.estimate * factor, low=self.low * factor, high=self.high * factor)


ZERO = Interval(estimate=0.0, low=0.0, high=0.0)


def bootstrap_weights(drawn: int, population: int, seed: int) -> NDArray[np.float64]:
    """(1 + R, N) weights whose product with the N sampled values gives totals over the population.

    Row 0 gives the estimate, every other row one bootstrap replicate (Efron, The Annals of Statistics 7, 1979). The
    replicates' deviations from the estimate are scaled by sqrt((1 - f) n / (n - 1)), f being the sampled share, so that
    their variance is that of a sample drawn without replacement; a sample of everything has no error.
    """
    counts_RN = np.random.default_rng(seed).multinomial(drawn, np.full(drawn, 1 / drawn), REPLICATES)
    scale = 0.0 if drawn == population else math.sqrt((1 - drawn / population) * drawn / (drawn - 1))
    return population / drawn * np.vstack([np.ones(drawn), 1 + scale * (counts_RN - 1)])


def percentile_interval(totals: ArrayLike) -> Interval:
    """The estimate (entry 0) and the 2.5 and 97.5 percentiles of the replicates (all other entries)."""
    estimate, *replicates = np.asarray(totals, np.float64)
    low, high = np.quantile(replicates, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(estimate=float(estimate), low=float(low), high=float(high))
