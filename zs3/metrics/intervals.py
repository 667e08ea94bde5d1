"""How sure a score is: bootstrap over images, and a paired randomisation test between two runs.

Images are what was drawn from the world, so images are what is drawn again (with replacement, as many as there are);
pixels of one image are far from independent. A drawing is N weights, and the scores of a drawing are functions of
weights times counts, so all drawings of a block of images are one matrix product. Weights and counts are whole numbers
below 2^53: sums are exact, and the order of images and the size of blocks change nothing.
Sources: Efron and Tibshirani, An Introduction to the Bootstrap (1993), percentile interval; Noreen, Computer-Intensive
Methods for Testing Hypotheses (1989), approximate randomisation.
"""

# N image, R replicate, C column of counts

import warnings
from collections.abc import Iterable, Iterator

import numpy as np

REPLICATES = 2000
"""Drawings: the ends of a 95 % interval then have 50 drawings beyond them each, known to about 14 % of that."""

LEVEL = 0.95
"""Share of drawings inside an interval."""

FEWEST = 2
"""Images that a score must rest on to have an interval: one image, drawn again, is always the same."""

BLOCK = 512
"""Images whose weights are held at once."""


def resampled(
    blocks: Iterable[np.ndarray], images: int, *, replicates: int = REPLICATES, seed: int = 0
) -> np.ndarray:
    """(R, C) float64 sums of the counts of `replicates` drawings of as many images as there are.

    Args:
        blocks: (n, C) whole numbers, images in an order of their own (by id), however cut into blocks.
        images: N, how many there are in all.
        replicates: R.
        seed: chooses the drawings; the same for two runs gives them the same images.
    """
    sums: np.ndarray | None = None
    weights = drawings(images, replicates=replicates, seed=seed)
    for counts in _exactly(blocks, BLOCK):
        part = next(weights) @ counts
        sums = part if sums is None else sums + part
    return np.zeros((replicates, 0)) if sums is None else sums


def drawings(images: int, *, replicates: int, seed: int) -> Iterator[np.ndarray]:
    """(R, n) float64 blocks of how often each image is drawn: multinomial, R times, without the whole R x N at once.

    How many of the N draws fall into a block is binomial given those before it, and within a block all images are
    equally likely.
    """
    rng = np.random.default_rng(seed)
    left = np.full(replicates, images, np.int64)
    for start in range(0, images, BLOCK):
        size = min(BLOCK, images - start)
        here = rng.binomial(left, size / (images - start))
        left = left - here
        which = rng.integers(0, size, int(here.sum()))
        rows = np.repeat(np.arange(replicates), here)
        counts = np.bincount(rows * size + which, minlength=replicates * size)
        yield counts.reshape(replicates, size).astype(np.float64)


def swapped(
    first: Iterable[np.ndarray],
    second: Iterable[np.ndarray],
    *,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """(R, C) sums of two runs whose results were exchanged image by image, each with probability one half.

    Args:
        first: (n, C) counts of one run, images in order.
        second: those of the other, the same images in the same blocks.
    """
    rng = np.random.default_rng(seed)
    one = other = np.zeros((replicates, 0))
    for counts, others in zip(_exactly(first, BLOCK), _exactly(second, BLOCK), strict=True):
        exchanged = rng.integers(0, 2, (replicates, counts.shape[0])).astype(np.float64)
        moved = exchanged @ (others - counts)
        if not one.shape[1]:
            one = other = np.zeros(moved.shape)
        one, other = one + counts.sum(axis=0) + moved, other + others.sum(axis=0) - moved
    return one, other


def interval(values_R: np.ndarray, *, level: float = LEVEL) -> tuple[float, float]:
    """The percentile interval of the drawings in which the score is defined; not numbers where most have none."""
    low, high = intervals(values_R[:, None], level=level)
    return float(low[0]), float(high[0])


def intervals(values_RC: np.ndarray, *, level: float = LEVEL) -> tuple[np.ndarray, np.ndarray]:
    """Both ends of the percentile interval of every column."""
    defined = np.count_nonzero(~np.isnan(values_RC), axis=0) * 2 > values_RC.shape[0]
    tail = 50 * (1 - level)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a column of NaN is told by NaN
        low, high = np.nanpercentile(values_RC, [tail, 100 - tail], axis=0)
    return np.where(defined, low, np.nan), np.where(defined, high, np.nan)


def p_value(observed: float, under_null_R: np.ndarray) -> float:
    """Two-sided: how often the difference of two exchangeable runs is as large; never 0, as there are R drawings.

    The observed exchange (none) is one of those possible, hence the ones. A millionth of a millionth is allowed for
    rounding of equal differences.
    """
    if np.isnan(observed):
        return float("nan")
    null = under_null_R[~np.isnan(under_null_R)]
    as_large = np.count_nonzero(np.abs(null) >= abs(observed) - 1e-10)
    return (1 + as_large) / (1 + null.size)


def _exactly(blocks: Iterable[np.ndarray], size: int) -> Iterator[np.ndarray]:
    """The same rows in blocks of `size`, the last maybe smaller."""
    waiting: list[np.ndarray] = []
    held = 0
    for block in blocks:
        waiting.append(block)
        held += len(block)
        while held >= size:
            rows = np.concatenate(waiting)
            yield rows[:size]
            waiting, held = [rows[size:]], held - size
    if held:
        yield np.concatenate(waiting)
