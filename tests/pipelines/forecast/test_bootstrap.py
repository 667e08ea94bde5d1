"""Bootstrap totals: against closed forms and by simulation of many samples from known populations."""

import numpy as np
import pytest

from pipelines.forecast.bootstrap import Interval, bootstrap_weights, percentile_interval


def interval(values, population, seed=0):
    return percentile_interval(bootstrap_weights(len(values), population, seed) @ np.asarray(values))


def test_a_measured_whole_has_no_error():
    assert interval([1.0, 2.0, 6.0], 3) == Interval(estimate=9, low=9, high=9)
    assert interval([7.0], 1) == Interval(estimate=7, low=7, high=7)


def test_the_replicates_vary_as_an_estimate_from_a_sample_without_replacement_does():
    values, population = np.random.default_rng(0).lognormal(0, 1, 40), 100
    estimate, *replicates = bootstrap_weights(40, population, 0) @ values
    assert estimate == pytest.approx(population * values.mean())
    # Var = N² (1 - n/N) s² / n; 1000 replicates give a standard deviation to about 2 %.
    expected = population * np.sqrt((1 - 40 / population) * values.var(ddof=1) / 40)
    assert np.std(replicates) == pytest.approx(expected, rel=0.07)


@pytest.mark.parametrize(("population", "spread"), [(4000, 0.3), (4000, 0.7), (100, 0.3)])
def test_intervals_contain_the_truth_for_about_95_of_100_samples(population, spread):
    random = np.random.default_rng(5)
    costs = random.lognormal(0, spread, population)
    intervals = [interval(random.choice(costs, 64, replace=False), population, seed) for seed in range(300)]
    covered = np.mean([each.low <= costs.sum() <= each.high for each in intervals])
    # 1000 samples cover 95, 93 and 94 %, less with skewed costs; 300 samples give a share to 1.4 points.
    assert 0.89 < covered < 0.99


def test_four_times_the_sample_halves_the_interval():
    random = np.random.default_rng(1)
    widths = []
    for size in (64, 256):
        intervals = [interval(random.lognormal(0, 0.5, size), 100_000, seed) for seed in range(20)]
        widths.append(np.median([each.high - each.low for each in intervals]))
    assert widths[0] / widths[1] == pytest.approx(2, rel=0.15)


def test_intervals_scale():
    assert Interval(estimate=5, low=1, high=9).times(2) == Interval(estimate=10, low=2, high=18)
