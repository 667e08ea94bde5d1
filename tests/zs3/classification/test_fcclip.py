"""FC-CLIP's naming equals the recorded one: text bank, seen classes, ensemble, label map, panoptic map, instances."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.data.fcclip_networks import checkpoint_of, recorded_vocabulary
from tests.support.parity import facts
from zs3.classification.classifier import SegmentClassifier
from zs3.classification.fusion import geometric_ensemble
from zs3.classification.panoptic import instances, panoptic_map, picture_mask
from zs3.classification.semantic_map import pixel_scores_of_rows
from zs3.config import NamingSettings
from zs3.inference.labeller import load_segmenter
from zs3.segmentation.segments import Segments

CPU = torch.device("cpu")
NETWORKS = {"img0": "convnext", "img1": "convnext", "img2": "convnext", "img4": "rn", "img5": "rn"}
SAFE = ("img0", "img1", "img4")
"""Pictures without a mask logit within 3e-4 of a threshold; in the others one flipped cell moves a logit by 0.1."""

MODES = {
    "other_alpha_beta": ("img2", {"image_weight_seen": 0.7, "image_weight_unseen": 0.2}, {}),
    "in_vocab_only": ("img2", {"image_weight_seen": 0.0, "image_weight_unseen": 0.0}, {}),
    "out_vocab_only": ("img2", {"image_weight_seen": 1.0, "image_weight_unseen": 1.0}, {}),
    "semantic_only": ("img0", {"resize_first": False}, {}),
    "valid_mask": ("img1", {}, {"crop_empty_masks": False}),
    "no_valid_mask": ("img4", {}, {"crop_empty_masks": True}),
}


@pytest.fixture(scope="module")
def classifiers():
    """Network → its classifier of the recorded classes."""
    return {
        name: SegmentClassifier(checkpoint_of(name), recorded_vocabulary(), device=CPU)
        for name in ("convnext", "rn")
    }


def segments_of(recording, image, **segmenting):
    """The segments of a recorded picture, by the network."""
    checkpoint = checkpoint_of(NETWORKS[image], 160 if image == "img2" else 96)
    settings = replace(checkpoint.recipe.segmenting, **segmenting)
    segmenter = load_segmenter(checkpoint, settings, device=CPU)
    return segmenter.segment([recording[f"{NETWORKS[image]}/{image}/image"]])[0]


def assert_scores(recorded_log, scores):
    """(K, C) scores equal the recorded logarithms, whose last column is `no object`.

    Where the recorded `no object` is nearly 1, float32 kept only a few bits of what remains.
    """
    assert float(np.abs(np.exp(recorded_log[:, :-1]) - scores.numpy()).max()) < 2e-5
    objects = recorded_log[:, -1] < np.log(0.999)
    worst = np.abs(recorded_log[objects, :-1] - scores[torch.from_numpy(objects)].log().numpy())
    assert float(worst.max()) < 3e-4


@pytest.mark.parametrize("name", ["convnext", "rn"])
def test_the_bank_has_the_recorded_row_for_each_synonym(recordings, classifiers, name):
    bank, recording = classifiers[name].query_bank, recordings("fcclip")
    counts = recording[f"{name}/text/num_templates_test"]
    assert bank.class_of_row.tolist() == np.repeat(np.arange(12), counts).tolist()
    # Measured 3e-7, float32 on both sides; the mean over the synonyms of a class is off by 0.1 and more.
    assert recording.worst(f"{name}/text/classifier_test", bank.embeddings) < 2e-6


def test_a_class_is_seen_if_it_shares_a_name_letter_by_letter(recordings, classifiers):
    flags = recordings("fcclip")["convnext/text/category_overlapping_mask"]
    assert list(classifiers["convnext"].seen.values()) == flags.astype(bool).tolist()
    names = dict(zip(facts("fcclip")["test"], flags))
    assert (names["Cat,kitten"], names["road ,highway"], names["cloudscape, clouds"]) == (0, 0, 1)


@pytest.mark.parametrize("image", NETWORKS)
def test_a_picture_ends_in_the_recorded_scores_and_label_map(recordings, classifiers, image):
    recording, name = recordings("fcclip"), NETWORKS[image]
    segments, classifier = segments_of(recording, image), classifiers[name]
    if image in SAFE:
        assert_scores(recording[f"{name}/{image}/mask_cls_log"], classifier.scores(segments))
    if f"{name}/{image}/sem_seg" in recording:
        rows = torch.arange(segments.height)
        scores = pixel_scores_of_rows(segments, classifier.scores(segments), rows, resize_first=True)
        assert recording.worst(f"{name}/{image}/sem_seg", scores) < (2e-4 if image == "img0" else 5e-3)
    labels, _ = classifier.name(segments)
    assert int((labels - 1 != recording[f"{name}/{image}/argmax"]).sum()) <= 1


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_gives_the_recorded_scores_and_label_map(recordings, classifiers, mode):
    image, naming, segmenting = MODES[mode]
    recording, name = recordings("fcclip"), NETWORKS[image]
    classifier = classifiers[name].with_settings(replace(classifiers[name].settings, **naming))
    segments = segments_of(recording, image, **segmenting)
    key = f"{name}/mode_{mode}_{image}"
    assert_scores(recording[f"{key}/mask_cls_log"], classifier.scores(segments))
    labels, _ = classifier.name(segments)
    assert int((labels - 1 != recording[f"{key}/argmax"]).sum()) <= 1


def things():
    return torch.tensor(facts("fcclip")["things"])


@pytest.mark.parametrize(
    ("image", "mode", "min_score", "min_overlap"),
    [("img0", "", 0.0, 0.8), ("img4", "", 0.0, 0.8), ("img0", "mode_thresholds_", 0.5, 0.3)],
)
def test_panoptic_map_and_instances_equal_the_recorded_ones(
    recordings, classifiers, image, mode, min_score, min_overlap
):
    recording, name = recordings("fcclip"), NETWORKS[image]
    key = f"{name}/{mode}{image}"
    segments = segments_of(recording, image)
    scores = classifiers[name].scores(segments)
    labels, found = panoptic_map(segments, scores, things(), min_score=min_score, min_overlap=min_overlap)
    assert int((labels.numpy() != recording[f"{key}/panoptic_seg"]).sum()) <= 1
    rows = [[one.id, one.class_index, int(one.is_thing)] for one in found]
    assert rows == recording[f"{key}/panoptic_info"].tolist()
    objects = sorted((one.class_index, one.score) for one in instances(segments, scores, things()))
    recorded = sorted(
        zip(recording[f"{key}/inst_classes"].tolist(), recording[f"{key}/inst_scores"].tolist())
    )
    assert [index for index, _ in objects] == [index for index, _ in recorded]
    # Scores are products of a class score and a mean; measured 2e-6.
    assert max(abs(ours - theirs) for (_, ours), (_, theirs) in zip(objects, recorded)) < 1e-5


def handmade(recording):
    """(segments, (K, C) scores, (C,) things) of twenty masks made by hand."""
    masks = torch.from_numpy(recording["postproc/mask_logits"])
    height, width = masks.shape[1:]
    log_scores = torch.from_numpy(recording["postproc/mask_cls_log"])
    flags = torch.zeros(12, dtype=torch.bool)
    flags[torch.from_numpy(recording["postproc/things"]).long()] = True
    segments = Segments(
        mask_logits_Khw=masks,
        query_embeddings_KD=torch.zeros(20, 1),
        image_embeddings_KE=torch.zeros(20, 0),
        no_object_logits_K=torch.zeros(20),
        padded_hw=(height, width),
        resized_hw=(height, width),
        height=height,
        width=width,
    )
    # In double precision, since two segments are tied and float32 softmaxes differ between processors.
    return segments, log_scores.double().softmax(dim=1)[:, :-1].float(), flags


@pytest.mark.parametrize(
    ("case", "min_score", "min_overlap"),
    [
        ("released_0_0.8", 0.0, 0.8),
        ("base_0.8_0.8", 0.8, 0.8),
        ("0.4_0.8", 0.4, 0.8),
        ("0_0", 0.0, 0.0),
        ("0.99_0.8_nothing", 0.99, 0.8),
    ],
)
def test_handmade_masks_give_the_recorded_panoptic_map(recordings, case, min_score, min_overlap):
    recording = recordings("fcclip")
    segments, scores, flags = handmade(recording)
    labels, found = panoptic_map(segments, scores, flags, min_score=min_score, min_overlap=min_overlap)
    assert np.array_equal(labels.numpy(), recording[f"postproc/panoptic_{case}"])
    described = [{"id": o.id, "isthing": o.is_thing, "category_id": o.class_index} for o in found]
    assert described == facts("fcclip")["panoptic"][case]


@pytest.mark.parametrize("count", [10, 30, 100])
def test_handmade_masks_give_the_recorded_instances(recordings, count):
    recording = recordings("fcclip")
    segments, scores, flags = handmade(recording)
    found = instances(segments, scores, flags, max_instances=count)
    assert recording.worst(f"postproc/inst{count}_scores", [one.score for one in found]) < 1e-6
    areas = [int((picture_mask(segments, one.segment) > 0).sum()) for one in found]
    ours = sorted((-round(one.score, 5), one.class_index, area) for one, area in zip(found, areas))
    keys = (recording[f"postproc/inst{count}_{part}"].tolist() for part in ("scores", "classes", "area"))
    assert ours == sorted((-round(score, 5), index, area) for score, index, area in zip(*keys))


LOGITS = torch.tensor([[3.0, 1.0, 0.0, -1.0], [0.0, 0.0, 1.0, 5.0]])
IMAGE = torch.tensor([[0.0, 2.0, 1.0], [1.0, 0.0, 0.0]])
SEEN = torch.tensor([True, False, True])
BOTH = torch.tensor([True, True])


def ensemble(valid=BOTH, **changes):
    return geometric_ensemble(LOGITS, IMAGE, SEEN, valid, NamingSettings(**changes))


def test_scores_and_no_object_sum_to_one():
    no_object = LOGITS.softmax(dim=1)[:, -1]
    torch.testing.assert_close(ensemble().sum(dim=1) + no_object, torch.ones(2))


def test_exponents_of_zero_and_one_leave_one_branch():
    image = IMAGE.softmax(dim=1) * (1 - LOGITS.softmax(dim=1)[:, -1:])
    torch.testing.assert_close(
        ensemble(image_weight_seen=0.0, image_weight_unseen=0.0), LOGITS.softmax(dim=1)[:, :-1]
    )
    torch.testing.assert_close(ensemble(image_weight_seen=1.0, image_weight_unseen=1.0), image)


def test_where_the_image_branch_saw_nothing_the_query_branch_names_alone():
    some = ensemble(torch.tensor([True, False]))
    assert torch.equal(some[0], ensemble()[0])
    torch.testing.assert_close(some[1], LOGITS.softmax(dim=1)[1, :-1])


def test_a_probability_of_zero_gives_no_nan():
    far = LOGITS.clone()
    far[0, 1] = -500.0
    assert geometric_ensemble(far, IMAGE, SEEN, BOTH, NamingSettings()).isfinite().all()
