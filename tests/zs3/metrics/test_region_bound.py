"""No names for labelled regions score more than the bound, and the bound is not far above the best names."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zs3.metrics import GROUPS, PROTOCOLS, UNLABELLED, Confusion, counted, scores, total, with_true_names
from zs3.metrics.confusions import joined
from zs3.metrics.region_bound import RegionBound
from zs3.metrics.scoring import score_arrays
from zs3.vocabulary import ClassEntry

CLASSES = (
    ClassEntry(id=4, name="cat"),
    ClassEntry(id=1, name="dog"),
    ClassEntry(id=7, name="cow", role="unseen"),
    ClassEntry(id=0, name="ground", role="background"),
)
ZS3 = PROTOCOLS["zs3"]


def bound(images: list[Confusion]) -> dict[str, float]:
    """The bound of each group in percent."""
    sums = RegionBound(CLASSES, ZS3)
    for image in images:
        sums.add(counted(image, CLASSES, ZS3))
    unseen = np.array([False, False, True])
    means = score_arrays(sums.counts()[None], unseen, ZS3).means
    return {group: float(means["iou", group][0]) for group in GROUPS}


def named(images: list[Confusion], names: tuple[int, ...]) -> dict[str, float]:
    """The scores of all images when their regions take these names, in order."""
    rest, renamed = iter(names), []
    for image in images:
        of = {region: next(rest) for region in np.unique(image.prediction).tolist() if region != UNLABELLED}
        prediction = [of.get(region, UNLABELLED) for region in image.prediction.tolist()]
        renamed.append(joined(image.truth, np.array(prediction), image.pixels))
    result = scores(total(renamed), CLASSES, ZS3)
    return {group: getattr(result, group) for group in GROUPS}


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), images=st.integers(1, 2))
def test_no_names_of_the_regions_score_more_than_the_bound(seed: int, images: int) -> None:
    draw = np.random.default_rng(seed)
    parts = [
        joined(
            draw.choice([4, 1, 7, 0], 40), draw.choice([4, 1, 7, UNLABELLED], 40), draw.integers(1, 50, 40)
        )
        for _ in range(images)
    ]
    highest = bound(parts)
    regions = sum(len(set(part.prediction.tolist()) - {UNLABELLED}) for part in parts)
    every = [named(parts, names) for names in itertools.product((4, 1, 7), repeat=regions)]
    for group in GROUPS:
        best = max((found[group] for found in every), default=0.0)
        assert np.isnan(best) or best <= highest[group] + 1e-9


def test_the_bound_holds_where_names_of_the_majority_score_less_than_the_labels() -> None:
    """A small class in a region of a large one loses all its pixels to the majority's name."""
    image = joined(np.array([4, 4, 7, 7, 1]), np.array([4, 7, 7, 1, 1]), np.array([100, 12, 10, 1, 50]))
    as_labelled = scores(image, CLASSES, ZS3)
    majority = scores(with_true_names(image), CLASSES, ZS3)
    assert majority.pixel_accuracy > as_labelled.pixel_accuracy
    assert majority.unseen == 0 < as_labelled.unseen <= bound([image])["unseen"]


def test_regions_of_one_class_each_can_be_named_perfectly() -> None:
    image = joined(np.array([4, 1, 7]), np.array([7, 4, 1]), np.array([5, 6, 7]))
    assert bound([image]) == dict.fromkeys(GROUPS, 100.0)


def test_pixels_without_a_label_and_background_stay_as_they_are() -> None:
    image = joined(np.array([4, 4, 1, 7, 0]), np.array([4, UNLABELLED, 1, 7, 4]), np.array([3, 1, 5, 5, 90]))
    assert bound([image])["seen"] == pytest.approx((75 + 100) / 2)
