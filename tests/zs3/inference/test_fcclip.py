"""An FC-CLIP is used as any checkpoint: embedded once, named many times, with the labels of labelling."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch

from tests.data.fcclip_networks import checkpoint_of, network_of, recorded_vocabulary, tiny_fcclip
from tests.support.parity import SMALL
from zs3.checkpoint import load_checkpoint, save_checkpoint
from zs3.classification.classifier import SegmentClassifier
from zs3.config import NamingSettings
from zs3.inference.labeller import Labeller, load_segmenter
from zs3.inference.segment_exporter import SegmentExporter
from zs3.nets.content_transfer import ContentTransfer, picture_context
from zs3.nets.networks import build_network
from zs3.segmentation.external_masks import external_segments
from zs3.segmentation.table import segments_at, segments_row
from zs3.tables import SEGMENTS
from zs3.vocabulary import parse_class_list

CPU = torch.device("cpu")
PICTURE = SMALL("fcclip")["rn/img4/image"]
OTHER = parse_class_list("dog: puppy\nsheep*\ngrass\nsky: clouds, fog\n", "four")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """The recorded ResNet as a folder, CLIP's text tower included."""
    folder = tmp_path_factory.mktemp("fcclip") / "model"
    recorded = checkpoint_of("rn")
    save_checkpoint(folder, recorded.recipe, network_of("rn"), recorded.seen_classes)
    return load_checkpoint(str(folder))


@pytest.fixture(scope="module")
def classifier(checkpoint):
    """Of the four classes."""
    return SegmentClassifier(checkpoint, OTHER, device=CPU)


@pytest.fixture(scope="module")
def stored(checkpoint):
    """The segments of the picture, out of a row of the lossless table."""
    ((segments, disagreement),) = SegmentExporter(checkpoint, "lossless", device=CPU).segment([PICTURE])
    assert 0 <= disagreement <= 1
    row = segments_row("a", "a.jpg", segments, disagreement, "r", store="lossless")
    return segments_at(pa.Table.from_pylist([row], schema=SEGMENTS), 0)


def test_labels_are_names_of_stored_segments_for_any_class_list(checkpoint, classifier, stored):
    recorded = SegmentClassifier(checkpoint, recorded_vocabulary(), device=CPU)
    for names in (classifier, recorded):
        labeller = Labeller(checkpoint, OTHER, device=CPU, classifier=names)
        (labels, scores), (named, named_scores) = labeller.label([PICTURE])[0], names.name(stored)
        assert np.array_equal(labels, named) and scores == named_scores
    assert int((named - 1 != SMALL("fcclip")["rn/img4/argmax"]).sum()) <= 1


def test_scores_permute_with_the_class_list(checkpoint, classifier, stored):
    turned = replace(OTHER, classes=OTHER.classes[::-1])
    other = SegmentClassifier(checkpoint, turned, device=CPU)
    torch.testing.assert_close(classifier.scores(stored), other.scores(stored).flip(1), atol=1e-7, rtol=0)
    assert classifier.seen == other.seen == {1: True, 2: False, 3: True, 4: True}


def test_masks_without_a_cell_of_clips_map_have_no_image_embedding(stored):
    zero = (stored.image_embeddings_KE == 0).all(dim=1)
    assert int(zero.sum()) == 13, "as recorded of this picture"
    torch.testing.assert_close(stored.image_embeddings_KE[~zero].norm(dim=1), torch.ones(7))


def test_external_masks_are_embedded_too(checkpoint, classifier):
    segmenter = load_segmenter(checkpoint, checkpoint.recipe.segmenting, device=CPU)
    masks = np.full((2, *PICTURE.shape[:2]), -127, np.int8)
    masks[0, :50], masks[1, :, 60:] = 127, 127
    segments = external_segments(segmenter, PICTURE, masks)
    torch.testing.assert_close(segments.image_embeddings_KE.norm(dim=1), torch.ones(2))
    assert set(np.unique(classifier.name(segments)[0])) <= {1, 2, 3, 4, 255}


def test_settings_that_are_about_crops_are_refused(checkpoint):
    with pytest.raises(ValueError, match=r"min_share is 0\.1; an FC-CLIP makes no crops"):
        load_segmenter(checkpoint, replace(checkpoint.recipe.segmenting, min_share=0.1), device=CPU)


# MAFT+: no recording stands behind it, so its laws are tested.


@pytest.fixture(scope="module")
def maft_plus(tmp_path_factory):
    """A MAFT+ with random weights."""
    torch.manual_seed(0)
    tiny = tiny_fcclip("convnext")
    recipe = replace(
        tiny,
        model=replace(tiny.model, text_transfer="semantic"),
        naming=NamingSettings(
            branches="geometric_ensemble", image_weight_seen=1.0, image_weight_unseen=1.0, void_in_image_softmax=False
        ),
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("maft") / "model"
    save_checkpoint(folder, recipe, build_network(recipe.model), ["dog", "sheep"])
    return load_checkpoint(str(folder))


def test_class_scores_of_maft_plus_are_those_of_the_transferred_bank(maft_plus):
    segmenter = load_segmenter(maft_plus, maft_plus.recipe.segmenting, device=CPU)
    classifier = SegmentClassifier(maft_plus, OTHER, device=CPU)
    segments = segmenter.segment([PICTURE])[0]
    assert segments.context_TE.shape == (3 * 4, 64)
    transfer = maft_plus.content_transfer()
    with torch.no_grad():
        bank = transfer(torch.from_numpy(classifier.image_bank.embeddings), segments.context_TE, (3, 4))
    rows = maft_plus.image_logit_scale * segments.image_embeddings_KE @ bank.T
    owner = torch.from_numpy(classifier.image_bank.class_of_row)
    logits = torch.stack([rows[:, owner == k].amax(dim=1) for k in range(4)], dim=1)
    scores = classifier.scores(segments)
    torch.testing.assert_close(
        scores / scores.sum(dim=1, keepdim=True), logits.softmax(dim=1), atol=1e-5, rtol=0
    )


def test_the_two_forms_of_the_transfer_normalise_the_sum_or_what_is_added():
    bank, context = torch.randn(5, 16), torch.randn(6, 16)
    semantic = ContentTransfer(16, "semantic")
    panoptic = ContentTransfer(16, "panoptic")
    panoptic.load_state_dict(semantic.state_dict())
    with torch.no_grad():
        first, second = (form(bank, context, (2, 3)) for form in (semantic, panoptic))
        torch.testing.assert_close(first.mean(dim=1), torch.zeros(5), atol=1e-6, rtol=0)
        torch.testing.assert_close((second - bank).mean(dim=1), torch.zeros(5), atol=1e-6, rtol=0)
        # Rows do not see one another: a bank of one row has the same result.
        torch.testing.assert_close(semantic(bank[2:3], context, (2, 3)), first[2:3])


def test_the_context_cuts_the_map_without_bringing_channels_together():
    trunk = network_of("convnext").backbone
    dense = torch.randn(128, 2, 3)
    first = dense.flatten()[:128]
    with torch.no_grad():
        torch.testing.assert_close(picture_context(trunk, dense)[0], trunk.embed(first))


def test_a_maft_plus_labels_and_its_segments_are_refused(maft_plus):
    labels, _ = Labeller(maft_plus, OTHER, device=CPU).label([PICTURE])[0]
    assert labels.shape == PICTURE.shape[:2]
    with pytest.raises(ValueError, match="is a MAFT\\+, whose class embeddings look at the picture"):
        SegmentExporter(maft_plus, "lossless", device=CPU)
    segments = load_segmenter(maft_plus, maft_plus.recipe.segmenting, device=CPU).segment([PICTURE])[0]
    with pytest.raises(ValueError, match="these segments have no context; label the pictures"):
        SegmentClassifier(maft_plus, OTHER, device=CPU).scores(replace(segments, context_TE=None))
