"""Oracles never lose pixels, perfect segments leave no error, and what is computed in strips is what a loop gives."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.pixel_scores import pixel_scores
from zs3.classification.semantic_map import semantic_map
from zs3.config import NamingSettings
from zs3.evaluation.oracles import ORACLES, candidates_of, dominant_segment, error_split, named_in_group
from zs3.metrics import PROTOCOLS, UNKNOWN, UNLABELLED, confusion, counted, scores, with_true_names
from zs3.segmentation.segments import Segments
from zs3.vocabulary import ClassEntry, Vocabulary

FARM = Vocabulary(
    name="farm",
    classes=(
        ClassEntry(id=0, name="ground", role="background"),
        ClassEntry(id=1, name="cat"),
        ClassEntry(id=2, name="sofa"),
        ClassEntry(id=3, name="cow", role="unseen"),
        ClassEntry(id=4, name="yak", role="unseen"),
        ClassEntry(id=5, name="blur", role="excluded"),
    ),
)
MATCHES = {"yak": 4, "kitten": 1, "unicorn": UNKNOWN, "couch": 2, "cow": 3}
ENTRIES = tuple(ClassEntry(id=10 + row, name=name) for row, name in enumerate(MATCHES))
SEEN = {entry.id: entry.name in ("kitten", "couch") for entry in ENTRIES}
ZS3, VOC21 = PROTOCOLS["zs3"], PROTOCOLS["voc21"]
NAMED = candidates_of(ENTRIES, SEEN, MATCHES, FARM, ZS3)


def segments_of(mask_logits_Khw, hw, resized_hw=None):
    count, rows, columns = mask_logits_Khw.shape
    return Segments(
        mask_logits_Khw=mask_logits_Khw,
        query_embeddings_KD=torch.zeros(count, 2),
        image_embeddings_KE=torch.zeros(count, 0),
        no_object_logits_K=torch.zeros(count),
        padded_hw=(4 * rows, 4 * columns),
        resized_hw=resized_hw or (4 * rows, 4 * columns),
        height=hw[0],
        width=hw[1],
    )


class Case:
    """A picture of 70 x 31 pixels, whose segments, scores and truth are drawn."""

    def __init__(self, seed, count=5, calibration=0.1, resize_first=False, classes=5):
        draw = torch.Generator().manual_seed(seed)
        masks = 3 * torch.randn(count, 9, 6, generator=draw)
        self.segments = segments_of(masks, (70, 31), (34, 22))
        self.scores = torch.rand(count, classes, generator=draw)
        self.settings = NamingSettings(calibration=calibration, resize_first=resize_first)
        self.truth = (
            np.random.default_rng(seed).choice([0, 1, 2, 3, 4, 5, 255], (7, 4)).repeat(10, 0).repeat(8, 1)
        )
        self.truth = self.truth[:, :31]

    def labels(self, named=NAMED):
        return semantic_map(self.segments, self.scores, named.trained_C, self.settings)[0].numpy()

    def split(self, named=NAMED, protocol=ZS3, labels=None):
        labels = self.labels(named) if labels is None else labels
        return error_split(
            self.segments, self.scores, labels, self.truth, named, self.settings, FARM, protocol
        )

    def predicted(self, named=NAMED, protocol=ZS3):
        held = confusion(self.truth, named.ids_C[self.labels(named)], ignore_id=255)
        return counted(held, FARM.classes, protocol)


def right(held):
    return int(held.pixels[held.truth == held.prediction].sum())


@settings(max_examples=30)
@given(
    st.integers(0, 10_000),
    st.sampled_from([0.0, 0.2, 1.0, -0.2]),
    st.booleans(),
    st.sampled_from([ZS3, VOC21]),
)
def test_no_oracle_on_predicted_masks_loses_a_pixel_and_pieces_are_named_at_least_as_well_as_regions(
    seed, calibration, resize_first, protocol
):
    case = Case(seed, calibration=calibration, resize_first=resize_first)
    named = candidates_of(ENTRIES, SEEN, MATCHES, FARM, protocol)
    predicted, split = case.predicted(named, protocol), case.split(named, protocol)
    assert tuple(split) == ORACLES
    assert all(held.pixels.sum() == predicted.pixels.sum() for held in split.values())
    assert right(predicted) <= right(with_true_names(predicted)) <= right(split["oracle_names"])
    assert right(predicted) <= right(split["oracle_group"])


def test_no_naming_of_the_pieces_has_more_pixels_right():
    case = Case(3, count=2, classes=5)
    labels = case.labels()
    painter = dominant_segment(case.segments, case.scores, labels, resize_first=False)
    pieces, index = np.unique(np.stack([labels, painter]).reshape(2, -1), axis=1, return_inverse=True)
    assert 2 < pieces.shape[1] < 7
    truth = case.truth.ravel()
    best = max(
        int((np.array(names)[index.ravel()] == truth).sum())
        for names in itertools.product((1, 2, 3, 4), repeat=pieces.shape[1])
    )
    assert right(case.split()["oracle_names"]) == best


@pytest.mark.parametrize("resize_first", [False, True])
def test_the_painter_of_a_pixel_gave_most_to_its_label_and_regions_pool_the_score_volume(resize_first):
    case = Case(5, resize_first=resize_first)
    labels = case.labels()
    alone = [
        pixel_scores(
            case.segments,
            torch.diag(torch.ones(5))[:, segment : segment + 1] * case.scores[segment, label],
            torch.zeros(1, dtype=torch.bool),
            case.settings,
        )[0]
        for segment in range(5)
        for label in range(len(ENTRIES))
    ]
    shares_KCHW = torch.stack(alone).view(5, len(ENTRIES), *labels.shape).numpy()
    given_KHW = np.take_along_axis(shares_KCHW, labels[None, None], axis=1)[:, 0]
    painter = dominant_segment(case.segments, case.scores, labels, resize_first=resize_first)
    chosen = np.take_along_axis(given_KHW, painter[None], axis=0)[0]
    assert np.allclose(chosen, given_KHW.max(axis=0), rtol=1e-5)

    volume = pixel_scores(case.segments, case.scores, NAMED.trained_C, case.settings).double().numpy()
    held = case.split()["true_masks"]
    for truth, prediction, pixels in zip(held.truth, held.prediction, held.pixels):
        region = case.truth == truth
        assert prediction == NAMED.ids_C[volume[:, region].mean(axis=1).argmax()]
        assert pixels == region.sum()


def test_perfect_segments_score_100_everywhere():
    truth_cells = np.array([[1, 1, 3, 2, 2, 4]] * 3)  # bands: resizing rounds corners off
    classes = [1, 2, 3, 4]
    masks = torch.stack(
        [torch.from_numpy(np.where(truth_cells == one, 20.0, -20.0)).float() for one in classes]
    )
    named = candidates_of(
        FARM.candidates,
        {1: True, 2: True, 3: False, 4: False},
        {e.name: e.id for e in FARM.candidates},
        FARM,
        ZS3,
    )
    segments, truth = segments_of(masks, (12, 24)), truth_cells.repeat(4, 0).repeat(4, 1)
    held = NamingSettings(calibration=0.0)
    labels = semantic_map(segments, torch.eye(4), named.trained_C, held)[0].numpy()
    split = error_split(segments, torch.eye(4), labels, truth, named, held, FARM, ZS3)
    found = [confusion(truth, named.ids_C[labels], ignore_id=255), *split.values()]
    for one in (scores(held, FARM.classes, ZS3) for held in found):
        assert [one.seen, one.unseen, one.harmonic, one.all] == [100.0] * 4


@settings(max_examples=10)
@given(st.integers(0, 10_000), st.permutations(range(len(ENTRIES))))
def test_the_order_of_the_class_list_changes_nothing(seed, order):
    case = Case(seed)
    expected = case.split()
    case.scores = case.scores[:, order]
    entries = [ENTRIES[row] for row in order]
    again = case.split(candidates_of(entries, SEEN, MATCHES, FARM, ZS3))
    for name in ORACLES:
        for part in ("truth", "prediction", "pixels"):
            assert np.array_equal(getattr(expected[name], part), getattr(again[name], part))


def test_with_one_candidate_in_each_group_knowing_the_group_is_knowing_the_class():
    case = Case(7, classes=2)
    case.truth = np.where(case.truth % 2, 1, 3)
    two = candidates_of([ENTRIES[1], ENTRIES[4]], SEEN, MATCHES, FARM, ZS3)
    held = case.split(two)["oracle_group"]
    assert right(held) == held.pixels.sum() > right(case.predicted(two))


def test_a_group_without_a_candidate_has_no_labels():
    case = Case(8, classes=2)
    seen_only = candidates_of([ENTRIES[1], ENTRIES[3]], SEEN, MATCHES, FARM, ZS3)
    labels = case.labels(seen_only)
    found = named_in_group(case.segments, case.scores, labels, case.truth, seen_only, case.settings, FARM)
    unseen = np.isin(case.truth, (3, 4))
    assert (found[unseen] == UNLABELLED).all()
    assert np.array_equal(found[~unseen], seen_only.ids_C[labels][~unseen])


def test_a_class_that_the_data_set_lacks_belongs_to_the_group_that_the_checkpoint_says():
    assert NAMED.ids_C.tolist() == [4, 1, UNKNOWN, 2, 3]
    assert NAMED.unseen_C.tolist() == [True, False, True, False, True]
    assert NAMED.trained_C.tolist() == [False, True, False, True, False]
    assert not candidates_of(ENTRIES, SEEN, MATCHES, FARM, VOC21).unseen_C[2]
    learnt = candidates_of(ENTRIES, SEEN | {12: True}, MATCHES, FARM, ZS3)
    assert learnt.unseen_C.tolist() == [True, False, False, False, True]


def test_where_no_mask_reaches_no_oracle_on_predicted_masks_names_anything():
    case = Case(9)
    labels = case.labels().copy()
    labels[:35] = -1
    split = case.split(labels=labels)
    for name in ("oracle_names", "oracle_group"):
        void = split[name].prediction == UNLABELLED
        assert split[name].pixels[void].sum() == np.isin(case.truth[:35], (1, 2, 3, 4)).sum()
    none = Case(9, count=0)
    nothing = none.split(labels=np.full(none.truth.shape, -1))
    assert all((held.prediction == UNLABELLED).all() for held in nothing.values())
