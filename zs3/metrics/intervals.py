"""How sure a score is: bootstrap over images, and a paired randomisation test between two runs.

A bootstrap replicate draws as many images as there are, with replacement; images, not pixels, since the pixels of one
image are far from independent. A replicate is N weights, and its scores are functions of weights times counts, so all
replicates of a block of images are one matrix product. Weights and counts are whole numbers below 2^53: sums are
exact, and the size of blocks changes nothing.
Sources: Efron and Tibshirani, An Introduction to the Bootstrap (1993), percentile interval; Noreen, Computer-Intensive
Methods for Testing Hypotheses (1989), approximate randomisation.
"""

# N image, R replicate, C column of counts

import warnings
from collections.abc import Iterable, Iterator

import numpy as np

REPLICATES = 2000
"""The ends of a 95 % interval then have 50 replicates beyond them each, known to about 14 % of that."""

MIN_IMAGES = 2
"""Images that a score must rest on to have an interval: one image, drawn again, is always the same."""

BLOCK = 512
"""Images whose weights are in memory at once."""


def bootstrap_sums(
    blocks: Iterable[np.ndarray], images: int, *, replicates: int = REPLICATES, seed: int = 0
) -> np.ndarray:
    """(R, C) float64 sums of the counts of every bootstrap replicate.

    Args:
        blocks: (n, C) whole numbers, images in a fixed order (by id), in blocks of any size.
        images: N, how many there are in all.
        replicates: R.
        seed: chooses the replicates; two runs with the same seed get the same images.
    """
    sums: np.ndarray | None = None
    weights = bootstrap_weights(images, replicates=replicates, seed=seed)
    for counts in _in_blocks(blocks, BLOCK):
        part = next(weights) @ counts
        sums = part if sums is None else sums + part
    return np.zeros((replicates, 0)) if sums is None else sums


def bootstrap_weights(images: int, *, replicates: int, seed: int) -> Iterator[np.ndarray]:
    """(R, n) float64 blocks of how often each image is drawn: multinomial, R times, without the whole R x N at once.

    How many of the N draws fall into a block is binomial given those before it, and within a block all images are
    equally likely.
    """
    rng = np.random.default_rng(seed)
    remaining = np.full(replicates, images, np.int64)
    for start in range(0, images, BLOCK):
        size = min(BLOCK, images - start)
        draws = rng.binomial(remaining, size / (images - start))
        remaining = remaining - draws
        places = rng.integers(0, size, int(draws.sum()))
        rows = np.repeat(np.arange(replicates), draws)
        counts = np.bincount(rows * size + places, minlength=replicates * size)
        yield counts.reshape(replicates, size).astype(np.float64)


def exchanged_sums(
    first: Iterable[np.ndarray],
    second: Iterable[np.ndarray],
    *,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """(R, C) sums of two runs whose results were exchanged image by image, each with probability one half.

    Args:
        first: (n, C) counts of the first run, images in order.
        second: those of the second, the same images in the same order.
    """
    rng = np.random.default_rng(seed)
    first_sums = second_sums = np.zeros((replicates, 0))
    for counts, others in zip(_in_blocks(first, BLOCK), _in_blocks(second, BLOCK), strict=True):
        exchanged = rng.integers(0, 2, (replicates, counts.shape[0])).astype(np.float64)
        moved = exchanged @ (others - counts)
        if not first_sums.shape[1]:
            first_sums = second_sums = np.zeros(moved.shape)
        first_sums = first_sums + counts.sum(axis=0) + moved
        second_sums = second_sums + others.sum(axis=0) - moved
    return first_sums, second_sums


def intervals(
    values_RC: np.ndarray, images_C: np.ndarray | int, *, level: float = 0.95
) -> tuple[np.ndarray, np.ndarray]:
    """(C,) both ends of the percentile interval of every column.

    NaN where most replicates have no score, and where fewer than `MIN_IMAGES` images stand behind it.

    Args:
        images_C: how many images stand behind each column.
    """
    defined = np.count_nonzero(~np.isnan(values_RC), axis=0) * 2 > values_RC.shape[0]
    defined &= np.asarray(images_C) >= MIN_IMAGES
    tail = 50 * (1 - level)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a column without a number gives NaN
        low, high = np.nanpercentile(values_RC, [tail, 100 - tail], axis=0)
    return np.where(defined, low, np.nan), np.where(defined, high, np.nan)


def p_value(observed: float, under_null_R: np.ndarray) -> float:
    """Two-sided: how often the difference of two exchangeable runs is as large; never 0, as there are R replicates.

    The observed exchange (none) is one of those possible, hence the ones. 1e-10 is allowed for rounding of equal
    differences.
    """
    if np.isnan(observed):
        return float("nan")
    null = under_null_R[~np.isnan(under_null_R)]
    as_large = np.count_nonzero(np.abs(null) >= abs(observed) - 1e-10)
    return (1 + as_large) / (1 + null.size)


def _in_blocks(blocks: Iterable[np.ndarray], size: int) -> Iterator[np.ndarray]:
    """The same rows in blocks of `size`, the last maybe smaller."""
    pending: list[np.ndarray] = []
    count = 0
    for block in blocks:
        pending.append(block)
        count += len(block)
        while count >= size:
            rows = np.concatenate(pending)
            yield rows[:size]
            pending, count = [rows[size:]], count - size
    if count:
        yield np.concatenate(pending)
