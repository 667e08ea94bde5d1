"""Training sees seen classes only, and the same samples in the same order whoever reads them."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from zs3.datasets import Dataset, ImageRef, open_dataset
from zs3.images.codec import encode_label_png
from zs3.learning.augmentation import Augmentation
from zs3.learning.samples import (
    IGNORE,
    class_index,
    picture_of,
    training_crop,
    training_labels,
    training_plan,
    with_segments,
)
from zs3.learning.settings import TrainingConfig
from zs3.learning.targets import EXCLUDED, NEGATIVE, targets_from_labels
from zs3.recipes import recipe
from zs3.vocabulary import load_vocabulary

UNSEEN = {"potted plant", "sheep", "sofa", "train", "tvmonitor"}
PLAIN = Augmentation(
    crop_px=32, scale_range=(1.0, 1.0), brightness=0, contrast=0, saturation=0, hue_degrees=0
)


def write_folder(root, classes, masks):
    """A folder data set of grey pictures with the given (H, W) masks."""
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    for number, mask in enumerate(masks):
        grey = np.full((*mask.shape, 3), 100, dtype=np.uint8)
        Image.fromarray(grey).save(root / "images" / f"{number}.png")
        (root / "masks" / f"{number}.png").write_bytes(encode_label_png(mask))
    entries = [{"id": i, "name": name, "role": role} for i, (name, role) in enumerate(classes)]
    (root / "classes.json").write_text(json.dumps({"classes": entries, "ignore_index": 255}))
    (root / "splits.json").write_text(json.dumps({"train": [str(i) for i in range(len(masks))]}))
    return open_dataset("folder", str(root), "train")


def read(uri):
    return Path(uri.removeprefix("file://")).read_bytes()


@pytest.fixture
def folder(tmp_path):
    mask = np.zeros((32, 32), dtype=np.uint8)
    mask[8:, :8], mask[8:, 8:16], mask[8:, 16:24], mask[8:, 24:] = 1, 2, 3, 255
    classes = [("background", "background"), ("dog", "seen"), ("sheep", "unseen"), ("horse", "excluded")]
    return write_folder(tmp_path / "one", classes, [mask])


def test_only_seen_and_background_pixels_keep_a_label(folder):
    for negative, ground in ((True, 1), (False, IGNORE)):
        plan = training_plan([folder], background_is_negative=negative)
        assert [c.name for c in plan.classes] == ["dog"]
        _, labels = training_crop(plan, 0, PLAIN, 0, read)
        assert set(np.unique(labels[8:])) == {0, IGNORE}
        assert (labels == 0).sum() == 24 * 8
        assert set(np.unique(labels[:8])) == {ground}


def test_an_unseen_pixel_can_be_called_anything_without_changing_a_sample(folder, tmp_path):
    plan = training_plan([folder], background_is_negative=True)
    before = training_crop(plan, 0, PLAIN, 0, read)
    renamed = np.zeros((32, 32), dtype=np.uint8)
    renamed[8:, :8], renamed[8:, 8:] = 1, 2
    (tmp_path / "one/masks/0.png").write_bytes(encode_label_png(renamed))
    after = training_crop(plan, 0, PLAIN, 0, read)
    assert np.array_equal(before[1], after[1])


def test_a_leak_is_caught(folder):
    plan = training_plan([folder], background_is_negative=True)
    leaking = dict(plan.tables[0]) | {2: 0}
    truth = np.full((4, 4), 2)
    assert (training_labels(truth, plan.tables[0], 1, 255) == IGNORE).all()
    assert (training_labels(truth, leaking, 1, 255) == 0).all(), "the injected leak must show"


def test_a_class_unseen_in_one_set_or_a_synonym_of_it_is_unseen_in_all(tmp_path):
    mask = np.ones((8, 8), dtype=np.uint8)
    one = write_folder(
        tmp_path / "a", [("background", "background"), ("couch", "seen"), ("dog", "seen")], [mask]
    )
    two = write_folder(tmp_path / "b", [("sofa", "unseen"), ("cat", "seen")], [mask])
    plan = training_plan([one, two], background_is_negative=True)
    assert [c.name for c in plan.classes] == ["dog", "cat"]
    assert plan.tables[0] == {0: NEGATIVE, 1: EXCLUDED, 2: 0}
    assert plan.tables[1] == {0: EXCLUDED, 1: 1}


def test_two_classes_of_one_set_stay_two_even_where_their_names_mean_the_same(tmp_path):
    mask = np.ones((8, 8), dtype=np.uint8)
    one = write_folder(tmp_path / "a", [("television", "seen"), ("monitor", "seen"), ("dog", "seen")], [mask])
    two = write_folder(tmp_path / "b", [("tv", "seen"), ("cat", "seen")], [mask])
    plan = training_plan([one, two], background_is_negative=True)
    assert [c.name for c in plan.classes] == ["television", "monitor", "dog", "cat"]
    assert plan.classes[0].synonyms == ("tv",)
    assert plan.tables == ({0: 0, 1: 1, 2: 2}, {0: 0, 1: 3})


@pytest.mark.parametrize(
    ("name", "count"), [("voc", 15), ("coco_stuff", 156), ("ade20k_full", 572), ("coco_panoptic", 133)]
)
def test_a_published_set_is_trained_on_its_seen_classes_in_their_order(name, count):
    vocabulary = load_vocabulary(name)
    ref = ImageRef(id="a", image_uri="a.jpg", truth_uri="a.png")
    plan = training_plan(
        [Dataset(name=name, split="train", vocabulary=vocabulary, refs=(ref,))], background_is_negative=False
    )
    seen = [entry for entry in vocabulary.classes if entry.role == "seen"]
    assert [(c.name, c.synonyms) for c in plan.classes] == [(e.name, e.synonyms) for e in seen]
    assert len(seen) == count
    assert [plan.tables[0][entry.id] for entry in seen] == list(range(count))
    assert all(plan.tables[0][e.id] == EXCLUDED for e in vocabulary.classes if e.role != "seen")


def test_mini_trains_on_no_class_that_is_unseen_anywhere(shared):
    sets = recipe("mini").training.datasets
    datasets = [open_dataset(layout, str(shared / "data" / folder), "train") for layout, folder in sets]
    plan = training_plan(datasets, background_is_negative=True)
    names = {name for c in plan.classes for name in (c.name, *c.synonyms)}
    unseen = {"sheep", "sofa", "couch", "train", "tv", "tvmonitor", "potted plant", "cow", "cat", "chair", "boat",
              "tree", "aeroplane", "airplane", "bear", "suitcase", "mouse", "toilet", "fork"}  # fmt: skip
    assert not names & unseen
    for table, vocabulary in zip(plan.tables, plan.vocabularies):
        for entry in vocabulary.classes:
            if entry.role == "unseen":
                assert table[entry.id] == EXCLUDED


def test_real_crops_hold_no_pixel_of_an_unseen_class(shared):
    dataset = open_dataset("voc", str(shared / "data/voc_mini"), "train")
    plan = training_plan([dataset], background_is_negative=True)
    settings = TrainingConfig().augmentation
    for sample in range(20):
        _, labels = training_crop(plan, sample, settings, 3, read)
        targets = targets_from_labels(labels, class_index(len(plan.classes)), ignore_id=IGNORE)
        assert all(plan.classes[index].name not in UNSEEN for index in targets.classes.tolist())
        assert not bool((targets.masks & ~targets.valid).any())


def test_every_epoch_shows_every_picture_once_in_another_order():
    epochs = [[picture_of(e * 7 + i, 7, seed=5) for i in range(7)] for e in range(3)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert epochs[0] != epochs[1]


def test_a_sample_is_a_function_of_its_number(shared):
    dataset = open_dataset("voc", str(shared / "data/voc_mini"), "train")
    plan = training_plan([dataset], background_is_negative=True)
    settings = Augmentation(crop_px=64)
    first, again, other = (training_crop(plan, n, settings, 0, read) for n in (4, 4, 4 + len(plan.refs)))
    assert np.array_equal(first[0], again[0]) and np.array_equal(first[1], again[1])
    assert not np.array_equal(first[0], other[0])
    assert first[0].shape == (64, 64, 3) and first[1].dtype == np.int16


def test_truth_of_another_size_is_named(folder, tmp_path):
    plan = training_plan([folder], background_is_negative=True)
    (tmp_path / "one/masks/0.png").write_bytes(encode_label_png(np.zeros((5, 6), dtype=np.uint8)))
    with pytest.raises(ValueError, match=r"32x32 but its truth 6x5"):
        training_crop(plan, 0, PLAIN, 0, read)


def test_a_plan_without_seen_classes_is_refused(tmp_path):
    mask = np.zeros((8, 8), dtype=np.uint8)
    lonely = write_folder(tmp_path / "c", [("sheep", "unseen")], [mask])
    with pytest.raises(ValueError, match="0 seen classes"):
        training_plan([lonely], background_is_negative=True)


def test_each_thing_of_a_class_is_a_target_of_its_own(tmp_path):
    # Two persons (1 and 2), a crowd of them, a dog, and sky (187), in COCO's layout.
    colours = np.array([[(1, 0, 0), (0, 1, 0), (5, 0, 0), (0, 0, 1), (9, 9, 9), (0, 0, 0)]], np.uint8)
    segments = [(1, 1), (256, 1), (5, 1), (65536, 18), (9 * 65793, 187)]
    info = [{"id": n, "category_id": c, "iscrowd": int(n == 5)} for n, c in segments]
    for folder in ("images/train2017", "annotations/panoptic_train2017"):
        (tmp_path / folder).mkdir(parents=True)
        Image.fromarray(colours).save(tmp_path / folder / "7.png")
    listing = tmp_path / "annotations/panoptic_train2017.json"
    listing.write_text(json.dumps({"annotations": [{"file_name": "7.png", "segments_info": info}]}))
    plan = training_plan(
        [open_dataset("coco_panoptic", str(tmp_path), "train")], background_is_negative=False
    )
    still = replace(PLAIN, crop_px=6, scale_range=(1 / 6, 1 / 6), flip_probability=0.0)
    _, labels = training_crop(plan, 0, still, 0, read)
    classes = class_index(133, int(labels[labels < IGNORE].max()))
    targets = targets_from_labels(labels, classes, ignore_id=IGNORE, by_label=True)
    names = [plan.classes[index].name for index in targets.classes.tolist()]
    assert names == ["person", "dog", "sky", "person"]
    assert targets.masks[:, 0].int().tolist() == [
        [1, 0, 0, 0, 0, 0], [0, 0, 0, 1, 0, 0], [0, 0, 0, 0, 1, 0], [0, 1, 0, 0, 0, 0]
    ]  # fmt: skip
    assert targets.valid[0].tolist() == [True, True, False, True, True, False]
    listing.write_text(json.dumps({"annotations": [{"id": 7}]}))
    with pytest.raises(ValueError, match=r"panoptic_train2017\.json is no panoptic listing of COCO"):
        open_dataset("coco_panoptic", str(tmp_path), "train")


def test_segments_that_labels_cannot_tell_apart_are_refused():
    labels, instances = np.zeros((1, 2), np.int16), np.array([[0, 300]])
    with pytest.raises(
        ValueError, match="a class has 301 segments, of which 244 can be told apart among 133"
    ):
        with_segments(labels, instances, 133)


def test_targets_of_training_labels_keep_negatives_apart_from_void():
    labels = np.array([[0, 2, IGNORE]], dtype=np.int16)
    targets = targets_from_labels(labels, class_index(2), ignore_id=IGNORE)
    assert targets.classes.tolist() == [0]
    assert torch.equal(targets.valid, torch.tensor([[True, True, False]]))
