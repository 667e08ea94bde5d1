"""Composed models on real photographs: labels are names of stored segments, and embeddings those of each mask alone."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from torch.nn.functional import interpolate, normalize

from tests.data.composed_parts import encoder_folder, mask_source_folder
from zs3.checkpoint import load_checkpoint
from zs3.classification.classifier import SegmentClassifier
from zs3.convert.compose import compose
from zs3.encoders.masked_crops import segment_embeddings
from zs3.inference.labeller import Labeller, load_segmenter
from zs3.inference.segment_exporter import SegmentExporter
from zs3.parts.mask_sources import GRID
from zs3.segmentation.composed import cells_inside
from zs3.segmentation.external_masks import external_segments
from zs3.segmentation.segmenter import normalise_and_pad
from zs3.segmentation.table import segments_at, segments_row
from zs3.tables import SEGMENTS
from zs3.vocabulary import parse_class_list

CPU = torch.device("cpu")
CLASSES = parse_class_list("dog: puppy\nsheep*\ngrass\nsky: clouds, fog\n", "four")
MODELS = [
    ("mask2former", "vit", "class_tokens"),
    ("mask2former", "vit", "crops"),
    ("eomt", "convnext", "pooled"),
    ("eomt", "vit", "pooled"),
    ("oneformer", "siglip", "class_tokens"),
    ("sam2", "rn", "pooled"),
]


@pytest.fixture(scope="module")
def composed(tmp_path_factory):
    """Parts and embedding → the checkpoint; made once each."""
    root, made = tmp_path_factory.mktemp("composed"), {}

    def model(masks, encoder, embedding):
        for name, write in ((masks, mask_source_folder), (encoder, encoder_folder)):
            if not (root / name).exists():
                write(name, root / name)
        key = f"{masks}_{encoder}_{embedding}"
        if key not in made:
            compose(str(root / masks), str(root / encoder), root / key, embedding)
            made[key] = load_checkpoint(str(root / key))
        return made[key]

    return model


@pytest.fixture(scope="module")
def photos(shared):
    """A wide and a tall photograph, as large as these tiny models need."""
    pictures = []
    for path in sorted((shared / "data" / "voc_mini" / "JPEGImages").glob("*.jpg")):
        picture = Image.open(path)
        if len(pictures) < 2 and (picture.width > picture.height) == (not pictures):
            picture.thumbnail((120, 120))
            pictures.append(np.asarray(picture))
    return pictures


@pytest.fixture
def small(monkeypatch):
    """Encoders see small pictures, SAM 2 few points."""
    monkeypatch.setitem(GRID, "points_per_crop", 3)

    def smaller(checkpoint):
        recipe = checkpoint.recipe
        sizes = replace(recipe.segmenting, short_side_px=96, max_side_px=192)
        return replace(checkpoint, recipe=replace(recipe, segmenting=sizes))

    return smaller


@pytest.mark.parametrize("parts", MODELS)
def test_labels_of_photographs_are_names_of_their_stored_segments(composed, photos, small, parts):
    checkpoint = small(composed(*parts))
    classifier = SegmentClassifier(checkpoint, CLASSES, device=CPU)
    labeller = Labeller(checkpoint, CLASSES, device=CPU, classifier=classifier)
    exporter = SegmentExporter(checkpoint, "lossless", device=CPU)
    rows = [
        segments_row("a", "a.jpg", segments, disagreement, "r", store="lossless")
        for segments, disagreement in exporter.segment(photos)
    ]
    table = pa.Table.from_pylist(rows, schema=SEGMENTS)
    for index, (labels, scores) in enumerate(labeller.label(photos)):
        stored = segments_at(table, index)
        named, named_scores = classifier.name(stored)
        assert np.array_equal(labels, named) and scores == named_scores
        assert labels.shape == photos[index].shape[:2]
        lengths = stored.image_embeddings_KE.norm(dim=1)
        torch.testing.assert_close(lengths, torch.ones_like(lengths))
        assert set(np.unique(labels)) - {255} and (255 in labels) <= (parts[0] == "sam2")


def test_a_picture_without_masks_is_left_without_labels(composed, photos, small, monkeypatch):
    monkeypatch.setitem(GRID, "pred_iou_thresh", 2.0)
    checkpoint = small(composed("sam2", "rn", "pooled"))
    labels, scores = Labeller(checkpoint, CLASSES, device=CPU).label(photos[:1])[0]
    assert set(np.unique(labels)) == {255} and scores == {}


def test_pooled_embeddings_are_those_of_the_mean_of_the_cells_of_one_mask_at_a_time(composed, photos, small):
    checkpoint = small(composed("eomt", "convnext", "pooled"))
    segmenter = load_segmenter(checkpoint, checkpoint.recipe.segmenting, device=CPU)
    predicted = segmenter.predict_masks(photos[0])
    visual, dense = segmenter.encoder.model.visual, predicted.dense_Chw
    (padded_h, padded_w), (resized_h, resized_w) = predicted.segments.padded_hw, predicted.segments.resized_hw
    rows = []
    for logits in predicted.masks_Khw:
        pixels = interpolate(logits[None, None], size=(padded_h, padded_w), mode="bilinear")[0, 0]
        inside = cells_inside(pixels[None, :resized_h, :resized_w], dense.shape[1:])[0]
        mean = torch.stack([dense[:, y, x] for y, x in inside.nonzero().tolist()]).mean(dim=0)
        with torch.no_grad():
            rows.append(visual.head(visual.trunk.forward_head(mean[None, :, None, None]))[0])
    expected = normalize(torch.stack(rows), dim=1)
    torch.testing.assert_close(
        segmenter.segment(photos[:1])[0].image_embeddings_KE, expected, atol=1e-5, rtol=1e-4
    )


def test_crops_are_those_of_the_picture_without_padding(composed, photos, small):
    checkpoint = small(composed("eomt", "vit", "crops"))
    segmenter = load_segmenter(checkpoint, checkpoint.recipe.segmenting, device=CPU)
    predicted, encoder = segmenter.predict_masks(photos[0]), segmenter.encoder
    image = normalise_and_pad(predicted.resized_3HW, encoder.image_mean, encoder.image_std, 1)
    (padded_h, padded_w), (resized_h, resized_w) = predicted.segments.padded_hw, predicted.segments.resized_hw
    assert (padded_h, padded_w) == (64, 64) != (resized_h, resized_w)
    pixels = interpolate(predicted.masks_Khw[None], size=(padded_h, padded_w), mode="bilinear")
    masks = interpolate(pixels[:, :, :resized_h, :resized_w], size=image.shape[1:], mode="bilinear")[0]
    expected = segment_embeddings(image, masks, encoder, ["crop_and_mask"])
    torch.testing.assert_close(segmenter.segment(photos[:1])[0].image_embeddings_KE, expected)


def test_scores_are_the_image_branchs_times_the_probability_of_an_object(composed, photos, small):
    checkpoint = small(composed("mask2former", "vit", "class_tokens"))
    segments = load_segmenter(checkpoint, checkpoint.recipe.segmenting, device=CPU).segment(photos[:1])[0]
    classifier = SegmentClassifier(checkpoint, CLASSES, device=CPU)
    bank = torch.from_numpy(classifier.image_bank.embeddings)
    of_classes = (classifier.image_logit_scale * segments.image_embeddings_KE @ bank.T).softmax(dim=1)
    expected = of_classes * (1 - segments.no_object_logits_K.sigmoid()[:, None])
    torch.testing.assert_close(classifier.scores(segments), expected)
    assert classifier.seen == {1: False, 2: False, 3: False, 4: False}
    turned = SegmentClassifier(checkpoint, replace(CLASSES, classes=CLASSES.classes[::-1]), device=CPU)
    torch.testing.assert_close(classifier.scores(segments), turned.scores(segments).flip(1))
    with pytest.raises(ValueError, match=r"naming\.branches is 'both', but the segments of a composed model"):
        classifier.with_settings(replace(classifier.settings, branches="both"))


def test_cells_of_a_mask_are_covered_by_half_or_else_the_most():
    mask = torch.full((2, 8, 8), -1.0)
    mask[0, :4, :5], mask[1, 7, 4:7] = 1, 1
    assert cells_inside(mask, (2, 2)).tolist() == [
        [[True, False], [False, False]],
        [[False, False], [False, True]],
    ]


def test_external_masks_are_embedded_too(composed, photos, small):
    checkpoint = small(composed("sam2", "rn", "pooled"))
    segmenter = load_segmenter(checkpoint, checkpoint.recipe.segmenting, device=CPU)
    masks = np.full((2, *photos[0].shape[:2]), -127, np.int8)
    masks[0, :50], masks[1, :, 60:] = 127, 127
    segments = external_segments(segmenter, photos[0], masks)
    torch.testing.assert_close(segments.image_embeddings_KE.norm(dim=1), torch.ones(2))
    assert segments.query_embeddings_KD.shape == (2, 0)
    labels, _ = SegmentClassifier(checkpoint, CLASSES, device=CPU).name(segments)
    assert set(np.unique(labels)) <= {1, 2, 3, 4, 255}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"embedding": "class_tokens"},
            "embedding is 'class_tokens'; this encoder can embed masks by pooled or crops",
        ),
        ({"min_share": 0.1}, "leave min_share at 0 and image_branch on"),
    ],
)
def test_settings_that_a_composed_model_cannot_follow_are_refused(composed, changes, message):
    checkpoint = composed("eomt", "convnext", "pooled")
    with pytest.raises(ValueError, match=message):
        load_segmenter(checkpoint, replace(checkpoint.recipe.segmenting, **changes), device=CPU)
