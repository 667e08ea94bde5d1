"""Outlines against mask-by-mask erosion, as the authors of Boundary IoU do it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import binary_erosion

from zs3.metrics.boundaries import boundary_counts, near_outline

IGNORE = 255


def eroded_away(mask_HW: np.ndarray, distance: int) -> np.ndarray:
    """The mask without its erosion by a 3x3 square, `distance` times, in a picture surrounded by nothing."""
    padded = np.pad(mask_HW, 1)
    return (padded & ~binary_erosion(padded, np.ones((3, 3)), iterations=distance))[1:-1, 1:-1]


def blocks(seed: int, values: list[int]) -> np.ndarray:
    """(24, 36) map of 4x6 blocks."""
    return np.random.default_rng(seed).choice(values, (6, 6)).repeat(4, 0).repeat(6, 1)


@given(st.integers(0, 10_000), st.integers(1, 14))
def test_one_pass_over_all_labels_gives_what_eroding_every_mask_gives(seed: int, distance: int) -> None:
    labels = blocks(seed, [0, 1, 2, 7])
    expected = np.zeros(labels.shape, bool)
    for value in np.unique(labels):
        expected |= eroded_away(labels == value, distance)
    assert np.array_equal(near_outline(labels, distance), expected)


@given(st.integers(0, 10_000))
def test_counts_are_those_of_a_loop_over_classes_without_void_pixels(seed: int) -> None:
    truth, prediction = blocks(seed, [1, 2, 3, IGNORE]), blocks(seed + 1, [1, 2, 3, -1])
    distance = max(1, round(0.05 * float(np.hypot(24, 36))))
    counts = boundary_counts(truth, prediction, ignore_id=IGNORE, ratio=0.05)
    given_pixels = dict.fromkeys([1, 2, 3], 0)
    for label, pixels in zip(
        counts.predicted.prediction.tolist(), counts.predicted.pixels.tolist(), strict=True
    ):
        given_pixels[label] = given_pixels.get(label, 0) + pixels
    true = dict(zip(counts.classes.tolist(), zip(counts.true.tolist(), counts.hits.tolist()), strict=True))
    for label in (1, 2, 3):
        outline = eroded_away(truth == label, distance)
        met = eroded_away(prediction == label, distance) & (truth != IGNORE)
        assert true.get(label, (0, 0)) == (outline.sum(), (outline & met).sum())
        assert given_pixels[label] == met.sum()


def test_a_map_meets_its_own_outlines_and_a_picture_smaller_than_the_window_is_all_outline() -> None:
    labels = blocks(3, [1, 2])
    counts = boundary_counts(labels, labels, ignore_id=IGNORE)
    assert np.array_equal(counts.true, counts.hits)
    assert near_outline(np.ones((5, 40), int), 3).all()
    assert not near_outline(np.ones((9, 9), int), 3).all()


@pytest.mark.parametrize("distance", [1, 3])
def test_pixels_at_the_edge_of_the_picture_belong_to_the_outline(distance: int) -> None:
    near = near_outline(np.ones((20, 20), int), distance)
    assert near.sum() == 400 - (20 - 2 * distance) ** 2
