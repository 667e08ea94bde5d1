"""Given masks become segments that name exactly, and are embedded as predicted ones are."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from zs3.checkpoint import load_checkpoint, save_checkpoint
from zs3.classification.classifier import SegmentClassifier
from zs3.classification.semantic_map import semantic_map
from zs3.classification.settings import naming_provenance
from zs3.config import NamingSettings, digest_of
from zs3.inference.segment_exporter import SegmentExporter
from zs3.nets.zegformer import ZegFormer
from zs3.segmentation.external_masks import (
    NEVER_NO_OBJECT,
    coverage,
    covered_pixels,
    external_segments,
    overlaps,
)
from zs3.segmentation.segmenter import Segmenter
from zs3.segmentation.segments import Segments
from zs3.vocabulary import parse_class_list

CPU = torch.device("cpu")
CLASSES = parse_class_list("dog\nsheep*\n", "two")


class Colours:
    """An encoder that sees the mean colour of a crop."""

    image_dim, image_size_px = 3, 16
    image_mean = image_std = (127.5, 127.5, 127.5)

    def encode_images(self, images):
        return F.normalize(images.mean(dim=(2, 3)), dim=1)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, tiny_recipe):
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("given") / "model"
    save_checkpoint(folder, tiny_recipe, ZegFormer(tiny_recipe.model), ["dog", "sheep", "grass"])
    return load_checkpoint(str(folder))


@pytest.fixture(scope="module")
def segmenter(checkpoint):
    settings = replace(checkpoint.recipe.segmenting, image_branch=True, crops_per_pass=2)
    return Segmenter(checkpoint.network(), Colours(), settings, device=CPU)


@pytest.fixture
def picture():
    """Red on the left, blue on the right."""
    pixels = np.zeros((48, 80, 3), np.uint8)
    pixels[:, :30, 0], pixels[:, 30:, 2] = 255, 255
    return pixels


def logits(*masks):
    return np.where(np.stack(masks), np.int8(127), np.int8(-127))


def given_alone(masks_KHW):
    """Segments of given masks, named by nothing."""
    count, height, width = masks_KHW.shape
    return Segments(
        mask_logits_Khw=torch.from_numpy(masks_KHW),
        query_embeddings_KD=torch.zeros(count, 0),
        image_embeddings_KE=torch.zeros(count, 0),
        no_object_logits_K=torch.full((count,), NEVER_NO_OBJECT),
        padded_hw=(height, width),
        resized_hw=(height, width),
        height=height,
        width=width,
    )


@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.tuples(st.integers(1, 90), st.integers(1, 30)),
    count=st.integers(1, 6),
    resize_first=st.booleans(),
    calibration=st.sampled_from([0.0, 0.3]),
)
def test_true_names_of_a_given_partition_paint_it_exactly(seed, size, count, resize_first, calibration):
    draw = np.random.default_rng(seed)
    truth = draw.integers(0, count, size)
    names = torch.from_numpy(draw.permutation(count))
    segments = given_alone(logits(*(truth == region for region in range(count))))
    settings = NamingSettings(resize_first=resize_first, calibration=calibration)
    seen = torch.arange(count) % 2 == 0
    labels, best = semantic_map(segments, F.one_hot(names, count).float(), seen, settings)
    assert np.array_equal(labels.numpy(), names.numpy()[truth])
    assert torch.equal(best, torch.ones(size)), "one name for a region, whatever γ is"


def test_hard_masks_paint_as_soft_ones_of_the_same_logits():
    truth = np.random.default_rng(0).integers(0, 3, (70, 20))
    hard = given_alone(logits(*(truth != region for region in range(3))))
    soft = replace(hard, mask_logits_Khw=hard.mask_logits_Khw.float())
    scores, seen = torch.rand(3, 4, generator=torch.manual_seed(0)), torch.arange(4) < 2
    for settings in (NamingSettings(), NamingSettings(calibration=0.2, resize_first=True)):
        for ours, theirs in zip(
            semantic_map(hard, scores, seen, settings), semantic_map(soft, scores, seen, settings)
        ):
            assert torch.equal(ours, theirs)


def test_where_given_masks_overlap_their_scores_add_up():
    left, right = np.zeros((4, 9), bool), np.zeros((4, 9), bool)
    left[:, :6], right[:, 3:] = True, True
    scores = torch.tensor([[0.4, 0.0, 0.3], [0.0, 0.5, 0.3]])
    labels, best = semantic_map(
        given_alone(logits(left, right)), scores, torch.zeros(3, dtype=torch.bool), NamingSettings()
    )
    assert labels[0].tolist() == [0] * 3 + [2] * 3 + [1] * 3
    assert best[0].tolist() == pytest.approx([0.4 / 0.7] * 3 + [0.6 / 1.5] * 3 + [0.5 / 0.8] * 3)


def test_strips_of_many_large_masks_change_no_label(monkeypatch):
    truth = np.random.default_rng(0).integers(0, 3, (70, 20))
    segments = given_alone(logits(*(truth == region for region in range(3))))
    scores, seen = torch.rand(3, 4, generator=torch.manual_seed(0)), torch.zeros(4, dtype=torch.bool)
    labels, best = semantic_map(segments, scores, seen, NamingSettings())
    monkeypatch.setattr("zs3.classification.semantic_map.MAX_VALUES_IN_STRIP", 3 * 20 * 7)
    again, same = semantic_map(segments, scores, seen, NamingSettings())
    assert torch.equal(labels, again) and torch.equal(best, same)


def test_pixels_that_no_given_mask_covers_are_not_labelled(checkpoint, segmenter, picture):
    mask = np.zeros((48, 80), bool)
    mask[5:20, 10:33] = True
    classifier = SegmentClassifier(checkpoint, CLASSES, device=CPU)
    labels, scores = classifier.name(external_segments(segmenter, picture, logits(mask)))
    assert np.array_equal(labels != CLASSES.ignore_id, mask)
    assert set(scores) == set(labels[mask].tolist()) and all(score > 0 for score in scores.values())
    for nothing in (
        external_segments(segmenter, picture, np.zeros((0, 48, 80), np.int8)),
        given_alone(np.zeros((0, 48, 80), np.int8)),
    ):
        labels, scores = classifier.name(nothing)
        assert (labels == CLASSES.ignore_id).all() and labels.shape == (48, 80) and scores == {}


def test_masks_of_the_network_given_back_to_it_have_their_own_image_embeddings(segmenter):
    # At the network's scale and without padding, so that its masks are those of the picture to the pixel.
    picture = np.random.default_rng(0).integers(0, 256, (64, 128, 3), dtype=np.uint8)
    theirs = segmenter.segment([picture])[0]
    assert theirs.resized_hw == theirs.padded_hw == (64, 128)
    masks = (
        F.interpolate(theirs.mask_logits_Khw[None], size=(64, 128), mode="bilinear", align_corners=False)[0]
        > 0
    )
    filled = masks.flatten(1).any(dim=1)
    assert filled.sum() > 2
    ours = external_segments(segmenter, picture, logits(*masks[filled].numpy()))
    assert torch.allclose(ours.image_embeddings_KE, theirs.image_embeddings_KE[filled], atol=1e-6)
    nearest = overlaps(masks[filled].float(), theirs.mask_logits_Khw, (64, 128)).argmax(dim=1)
    assert torch.equal(ours.query_embeddings_KD, theirs.query_embeddings_KD[nearest])
    assert (ours.height, ours.width, ours.padded_hw, ours.resized_hw) == (64, 128, (64, 128), (64, 128))


def test_the_image_branch_sees_each_given_mask(segmenter, picture):
    left = np.zeros((48, 80), bool)
    left[:, :30] = True
    dot = np.zeros((48, 80), bool)
    dot[40, 60] = True
    found = external_segments(segmenter, picture, logits(left, ~left, dot))
    red, blue, _ = found.image_embeddings_KE
    assert float(red[0] - red[2]) > 1 and float(blue[2] - blue[0]) > 1
    turned = external_segments(segmenter, picture, logits(dot, ~left, left))
    assert torch.allclose(turned.image_embeddings_KE.flip(0), found.image_embeddings_KE, atol=1e-6), (
        "passes of two"
    )


def test_a_mask_smaller_than_a_pixel_of_the_network_keeps_one():
    mask = torch.zeros(1, 400, 400, dtype=torch.bool)
    mask[0, 100, 101] = True
    cover = coverage(mask, (40, 40), (64, 64))
    assert float(cover.max()) < 0.5
    found = covered_pixels(cover)[0].nonzero()
    assert len(found) == 1 and found[0].tolist() == [10, 10]
    assert not covered_pixels(cover)[:, 40:].any() and not covered_pixels(cover)[..., 40:].any()


def test_the_best_overlap_is_the_largest_share_of_the_union():
    cover = torch.zeros(3, 16, 16)
    cover[0, :8], cover[1, 2:4, 2:4], cover[2, 12:, 12:] = 1, 1, 1
    predicted = torch.full((3, 4, 4), -3.0)
    predicted[0, :2], predicted[1, :3], predicted[2, :1] = 0.1, 20, 20
    predicted[1, 3, 3] = -1
    shares = overlaps(cover, predicted, (16, 16))
    # A quarter of a cell, in cells of 4 by 4 pixels, against 8, 12 and 4 cells.
    expected = torch.tensor([[1.0, 2 / 3, 0.5], [0.25 / 8, 0.25 / 12, 0.25 / 4]])
    assert torch.allclose(shares[:2], expected, atol=1e-6)
    assert shares[2].argmax() == 1 and float(shares[2].min()) > 0, "covered by none, it goes to the likeliest"
    padded = F.pad(cover, (0, 16)), F.pad(predicted, (0, 4), value=50.0)
    assert torch.equal(overlaps(*padded, (16, 16)), shares), "what masks do in the padding does not count"


def test_labels_of_given_masks_are_another_run(checkpoint):
    exporter = SegmentExporter(checkpoint, "lossless", device=CPU)
    settings = checkpoint.recipe.naming
    own = naming_provenance(checkpoint, CLASSES, settings, exporter.provenance)
    given = naming_provenance(checkpoint, CLASSES, settings, exporter.provenance | {"proposals": "p"})
    assert given == own | {"proposals": "p"} and digest_of(given) != digest_of(own)
    picture = np.zeros((8, 8, 3), np.uint8)
    segments, apart = exporter.segment_with_masks(picture, logits(np.ones((8, 8), bool)))
    assert segments.binary and segments.image_embeddings_KE.shape == (1, 0) and apart == 0
