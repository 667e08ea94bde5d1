"""Every γ of a sweep gives the label map that `semantic_map` gives under it, to the pixel, ties included."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.pixel_scores import pixel_scores
from zs3.classification.semantic_map import (
    calibration_offsets,
    candidate_classes,
    semantic_map,
    uncovered_pixels,
)
from zs3.config import NamingSettings
from zs3.metrics import UNKNOWN, UNLABELLED, confusion, total
from zs3.segmentation.segments import Segments
from zs3.tuning import calibration_sweep
from zs3.tuning.calibration_sweep import Gammas, GroupBest, added, confusion_at, seen_count

SEEN = torch.tensor([True, False, True, False, True, False])
IDS = np.array([1, 2, 3, 4, UNKNOWN, 3])
GAMMAS = Gammas(values=(-0.5, -0.25, -0.1, 0.0, 0.1, 0.125, 0.3, 0.75))


def random_segments(seed, segments=4, size=(19, 23), flat=False):
    draw = torch.Generator().manual_seed(seed)
    masks = 3 * torch.randn(segments, 8, 8, generator=draw)
    if flat:  # halves of masks and eighths of scores: pixels tie with each other and with γ
        masks = torch.where(masks > 0, 0.0, -200.0)
    return Segments(
        mask_logits_Khw=masks,
        query_embeddings_KD=torch.zeros(segments, 1),
        image_embeddings_KE=torch.zeros(segments, 0),
        no_object_logits_K=torch.zeros(segments),
        padded_hw=(32, 32),
        resized_hw=(28, 30),
        height=size[0],
        width=size[1],
    )


def random_scores(seed, segments=4, flat=False):
    draw = torch.Generator().manual_seed(seed + 1)
    if flat:
        return torch.randint(0, 5, (segments, 6), generator=draw) / 8
    return torch.rand(segments, 6, generator=draw) ** 2


def random_truth(seed, size=(19, 23)):
    return np.random.default_rng(seed).choice([0, 1, 2, 3, 4, 255], size)


def sweep(segments, truth, scores, seen=SEEN, ids=IDS, gammas=GAMMAS, resize_first=False):
    return calibration_sweep.sweep(
        segments, truth, scores, seen, ids, gammas, ignore_id=255, resize_first=resize_first
    )  # fmt: skip


def painted(segments, truth, scores, gamma, seen=SEEN, ids=IDS, resize_first=False):
    naming = NamingSettings(calibration=gamma, resize_first=resize_first)
    labels = ids[semantic_map(segments, scores, seen, naming)[0].numpy()]
    if segments.binary:
        labels = np.where(uncovered_pixels(segments).numpy(), UNLABELLED, labels)
    return confusion(truth, labels, ignore_id=255)


def same(one, two):
    return all(
        np.array_equal(getattr(one, key), getattr(two, key)) for key in ("truth", "prediction", "pixels")
    )


@given(seed=st.integers(0, 10_000), flat=st.booleans(), resize_first=st.booleans())
@settings(max_examples=40)
def test_every_gamma_gives_the_confusion_of_its_own_painted_map(seed, flat, resize_first):
    segments, truth = random_segments(seed, flat=flat), random_truth(seed)
    scores = [random_scores(seed, flat=flat), random_scores(seed + 7, flat=flat)]
    found = sweep(segments, truth, scores, resize_first=resize_first)
    for naming, one in enumerate(scores):
        for gamma in GAMMAS.values:
            expected = painted(segments, truth, one, gamma, resize_first=resize_first)
            assert same(confusion_at(found, naming, gamma, GAMMAS), expected), gamma


def test_the_ends_are_the_maps_of_one_group_alone():
    segments, truth, scores = random_segments(3), random_truth(3), random_scores(3)
    found = sweep(segments, truth, [scores])
    volume = pixel_scores(segments, scores, SEEN, NamingSettings()).numpy()
    for gamma, members in ((-np.inf, SEEN.numpy()), (np.inf, ~SEEN.numpy())):
        alone = IDS[members][volume[members].argmax(axis=0)]
        assert same(
            confusion_at(found, 0, gamma, GAMMAS), confusion(truth, alone, ignore_id=255)
        ), gamma  # fmt: skip
        beyond = painted(segments, truth, scores, 100.0 * np.sign(gamma))
        assert same(confusion_at(found, 0, gamma, GAMMAS), beyond)


def test_neither_strips_nor_the_order_of_pictures_change_a_sum(monkeypatch):
    pictures = [(random_segments(seed), random_truth(seed), [random_scores(seed)]) for seed in range(4)]
    whole = [sweep(*picture) for picture in pictures]
    monkeypatch.setattr(calibration_sweep, "VALUES_AT_ONCE", 23 * 6 * 5)
    strips = [sweep(*picture) for picture in pictures[::-1]]
    one, two = added(whole), added([added(strips[:3]), added(strips[3:])])
    assert one.keys() == two.keys() and all(same(one[key], two[key]) for key in one)
    expected = total(painted(*picture[:2], picture[2][0], 0.1) for picture in pictures)
    assert same(confusion_at(one, 0, 0.1, GAMMAS), expected)


@given(seed=st.integers(0, 10_000))
@settings(max_examples=20)
def test_a_class_that_never_wins_changes_no_point(seed):
    segments, truth, scores = random_segments(seed), random_truth(seed), random_scores(seed)
    more = torch.cat((scores, scores.min(dim=1, keepdim=True).values / 2), dim=1)
    for kind in (True, False):
        seen, ids = torch.cat((SEEN, torch.tensor([kind]))), np.append(IDS, 9)
        without, with_it = sweep(segments, truth, [scores]), sweep(segments, truth, [more], seen, ids)
        for gamma in (-np.inf, *GAMMAS.values, np.inf):
            assert same(confusion_at(without, 0, gamma, GAMMAS), confusion_at(with_it, 0, gamma, GAMMAS))


def test_pixels_outside_of_given_masks_stay_without_a_label():
    masks = torch.full((2, 19, 23), -127, dtype=torch.int8)
    masks[0, :5], masks[1, 3:9, :11] = 127, 127
    segments = replace(
        random_segments(1, segments=2), mask_logits_Khw=masks, padded_hw=(19, 23), resized_hw=(19, 23)
    )
    truth, scores = random_truth(1), random_scores(1, segments=2)
    found = sweep(segments, truth, [scores])
    for gamma in GAMMAS.values:
        expected = painted(segments, truth, scores, gamma)
        assert UNLABELLED in expected.prediction
        assert same(confusion_at(found, 0, gamma, GAMMAS), expected)


def test_seen_count_counts_the_gammas_under_which_the_seen_class_wins():
    best = GroupBest(
        seen_P=torch.tensor([0, 3, 0, 3, 0]),
        seen_score_P=torch.tensor([0.5, 0.5, 0.1, 0.9, 0.0]),
        unseen_P=torch.tensor([1, 1, 1, 1, 1]),
        unseen_score_P=torch.tensor([0.25, 0.25, 0.2, 0.0, 0.0]),
    )
    # A lead of exactly 0.25 goes to the class that is listed first: the seen one, then the unseen one.
    assert seen_count(best, (0.125, 0.25, 0.5)).tolist() == [2, 1, 0, 3, 0]
    assert seen_count(best, (-0.25, -0.1)).tolist() == [2, 2, 2, 2, 2]
    assert seen_count(best, (0.0,)).tolist() == [1, 1, 0, 1, 1]
    assert seen_count(best, ()).tolist() == [0] * 5


@given(seed=st.integers(0, 10_000), gamma=st.sampled_from([-0.7, -0.2, 0.0, 0.2, 0.7]))
@settings(max_examples=30)
def test_no_class_that_could_win_is_left_out_for_any_sign_of_gamma(seed, gamma):
    segments, scores = random_segments(seed), random_scores(seed)
    naming = NamingSettings(calibration=gamma)
    best, expected = pixel_scores(segments, scores, SEEN, naming).max(dim=0)
    labels, _ = semantic_map(segments, scores, SEEN, naming)
    assert torch.equal(labels, expected) and float(best.min()) >= 0
    kept = candidate_classes(scores, calibration_offsets(SEEN, gamma) > 0)
    assert set(expected.unique().tolist()) <= set(kept.tolist())


@pytest.mark.parametrize("values", [(), (0.1, float("nan")), (float("inf"),), (1e300,)])
def test_no_gamma_and_gammas_without_bounds_are_refused(values):
    with pytest.raises(ValueError, match="expected one or more finite numbers"):
        Gammas(values=values)
