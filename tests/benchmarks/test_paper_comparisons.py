"""The comparison's shortcuts change no number, and its split trains on no unseen pixel."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from zs3.checkpoint import load_checkpoint, save_checkpoint
from zs3.config import NamingSettings
from zs3.datasets import open_dataset, read_truth
from zs3.evaluation.matching import checked_prediction, class_matches
from zs3.images.codec import encode_label_png
from zs3.inference.labeller import Labeller, PixelLabeller
from zs3.label_rows import label_rows
from zs3.metrics import PROTOCOLS, confusion, scores
from zs3.nets.networks import build_network
from zs3.vocabulary import ClassEntry, load_vocabulary

VOC = load_vocabulary("voc")
GAMMAS = (0.0, 0.1, 0.25, 0.5, 0.9)
CLASSES = tuple(
    ClassEntry(id=i, name=f"class {i}", role=role)
    for i, role in enumerate(("background", "seen", "seen", "seen", "unseen", "unseen"))
)
IDS = [1, 2, 3, 4, 5]
UNSEEN = {entry.id for entry in VOC.classes if entry.role == "unseen"}


@pytest.fixture(scope="module")
def benchmark(repo):
    """The command's modules, found as they are when it runs."""
    sys.path.insert(0, str(repo / "benchmarks" / "model"))
    import comparison_scores
    import paper_comparisons

    yield paper_comparisons, comparison_scores
    sys.path.remove(str(repo / "benchmarks" / "model"))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """voc_mini in very small: four training pictures, one of them with a sheep, and one to evaluate."""
    root = tmp_path_factory.mktemp("data")
    voc = root / "voc_mini"
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (voc / folder).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, ids in {"a": [0, 1], "b": [0, 17], "c": [2, 255], "d": [3, 4], "e": [1, 8, 17]}.items():
        pixels = rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(voc / "JPEGImages" / f"{name}.jpg")
        mask = rng.choice(ids, (48, 64)).astype(np.uint8)
        (voc / "SegmentationClass" / f"{name}.png").write_bytes(encode_label_png(mask))
    (voc / "ImageSets/Segmentation/train.txt").write_text("a\nb\nc\nd\n")
    (voc / "ImageSets/Segmentation/val.txt").write_text("e\n")
    return root


def test_no_training_picture_has_an_unseen_pixel_and_none_is_evaluated(benchmark, root, tmp_path):
    told = benchmark[0].prepare_split(root, tmp_path)
    train, val = (open_dataset("voc", str(tmp_path / benchmark[0].SPLIT), s).refs for s in ("train", "val"))
    assert [ref.id for ref in train] == ["a", "c", "d"] and [ref.id for ref in val] == ["b", "e"]
    for ref in train:
        truth = read_truth("voc", Path(ref.truth_uri).read_bytes(), VOC)
        assert not UNSEEN & set(np.unique(truth).tolist())
    assert (told["train"], told["evaluated"], told["moved_from_train"]) == (3, 2, 1)
    assert benchmark[0].prepare_split(root, tmp_path) == told


@pytest.mark.parametrize("architecture", ["zegformer", "pixel_level"])
@pytest.mark.parametrize("gamma", [0.0, 0.05])
def test_the_confusions_are_those_of_labelling_and_evaluating(
    benchmark, root, tmp_path, tiny_recipe, architecture, gamma
):
    scoring = benchmark[1]
    torch.manual_seed(3)
    recipe = replace(tiny_recipe, model=replace(tiny_recipe.model, architecture=architecture))
    seen = [entry.name for entry in VOC.classes if entry.role == "seen"]
    save_checkpoint(tmp_path / "model", recipe, build_network(recipe.model), seen)
    held = load_checkpoint(str(tmp_path / "model"))
    dataset = open_dataset("voc", str(root / "voc_mini"), "train")
    scoring.evaluate(held.origin, dataset, tmp_path / "found.npz", None)
    way = "query" if architecture == "zegformer" else "pixels"
    with np.load(tmp_path / "found.npz") as stored:
        found = stored[way][:, scoring.GAMMAS.index(gamma)].sum(axis=0)
    kind = Labeller if architecture == "zegformer" else PixelLabeller
    naming = NamingSettings(branches="query", calibration=gamma)
    labeller = kind(held, VOC, device=torch.device("cpu"), naming=naming)
    expected = np.zeros_like(found)
    for ref in dataset.refs:
        pixels = np.asarray(Image.open(ref.image_uri))
        truth = read_truth("voc", Path(ref.truth_uri).read_bytes(), VOC)
        label_map, scores = labeller.label([pixels])[0]
        rows = label_rows(
            ref.id, ref.image_uri, label_map, labeller.names, labeller.seen, scores, "run", ignore_id=255
        )
        matches = class_matches(labeller.names.values(), VOC)
        image = confusion(truth, checked_prediction(rows, truth, matches), ignore_id=VOC.ignore_id)
        scored = image.truth > 0
        np.add.at(expected, (image.truth[scored], image.prediction[scored]), image.pixels[scored])
    assert found.sum() == expected.sum() > 0
    # At γ 0 the two ways compare the same numbers. Else s - γ < u and s - u < γ round apart on pixels within 1e-7 of a
    # tie: none of 9,000 measured; another γ of the grid moves hundreds.
    assert np.abs(found - expected).sum() <= (0 if gamma == 0 else 4)


def test_the_interval_is_students(benchmark):
    held = benchmark[1].interval([1.0, 2.0, 3.0])
    # t(0.975, 2) = 4.3027 from a table; half width = 4.3027 · 1 / √3.
    assert (held["low"], held["high"]) == pytest.approx((2 - 2.4841, 2 + 2.4841), abs=1e-3)
    assert benchmark[1].interval([1.0])["low"] is None


def test_the_report_pairs_seeds_and_says_what_is_missing(benchmark, tmp_path):
    scoring = benchmark[1]
    size = (2, len(scoring.GAMMAS), 21, 21)
    found = {}
    for number, (name, way) in enumerate((("zegformer_clip", "query"), ("pixel_level_clip", "pixels"))):
        for seed in (0, 1):
            halves = np.zeros(size, np.int64)
            for class_id in (1, 17):
                halves[:, :, class_id, class_id], halves[:, :, class_id, 2] = 10, 10 * number + seed
            found[name, seed] = tmp_path / f"{name}-{seed}.npz"
            np.savez(found[name, seed], seconds_per_picture=0.5, checkpoint="c", **{way: halves})
    text = scoring.write_report(
        tmp_path,
        found,
        split={"train": 3, "evaluated": 2, "moved_from_train": 1},
        budget={"steps": 1, "batch_size": 1, "crop_px": 1, "pyramid_dim": 1},
        temperatures={"zegformer_clip": 0.01},
        missing=["zegformer_words seed 0"],
    )
    report = json.loads((tmp_path / "comparison.json").read_text())
    (difference,) = report["differences"]
    assert difference["question"] == "Decoupled minus pixel-level, CLIP text"
    # IoU of the unseen class: 10 / 10 and 10 / 11 decoupled, 10 / 20 and 10 / 21 pixel-level.
    expected = [100 - 50, 100 * (10 / 11 - 10 / 21)]
    assert difference["plain"]["unseen"]["values"] == pytest.approx(expected)
    assert (
        "Not finished: zegformer_words seed 0." in text and (tmp_path / "comparison.md").read_text() == text
    )


@given(st.integers(0, 2**32 - 1))
def test_each_gamma_gives_the_confusion_of_its_own_label_map(benchmark, seed):
    rng = np.random.default_rng(seed)
    # Eighths, so that leads and γ meet exactly now and then: ties go to the seen class.
    scores_CHW = (rng.integers(0, 9, (5, 6, 7)) / 8).astype(np.float32)
    truth = rng.choice([0, 255, *IDS], (6, 7))
    best = benchmark[1]._best(torch.from_numpy(scores_CHW), torch.tensor([True] * 3 + [False] * 2))
    found = benchmark[1].confusions_by_gamma(truth, best, GAMMAS, IDS)
    counted = np.where(np.isin(truth, IDS), truth, 255)
    for gamma, dense in zip(GAMMAS, found):
        # Leads are exact eighths, so float32 rounding decides nothing here but where γ is the lead itself.
        offset = np.array([gamma] * 3 + [0] * 2, np.float32)[:, None, None]
        painted = np.array(IDS)[(scores_CHW - offset).argmax(axis=0)]
        expected = confusion(counted, painted, ignore_id=255)
        assert dense.sum() == expected.pixels.sum()
        assert np.array_equal(dense[expected.truth, expected.prediction], expected.pixels)


def test_dense_and_sparse_confusions_score_alike(benchmark):
    rng = np.random.default_rng(1)
    truth, prediction = rng.integers(1, 6, (2, 40, 40))
    sparse = confusion(truth, prediction, ignore_id=255)
    dense = np.zeros((6, 6), np.int64)
    np.add.at(dense, (truth, prediction), 1)
    assert benchmark[1].dense_scores(dense, CLASSES, PROTOCOLS["zs3"]) == scores(
        sparse, CLASSES, PROTOCOLS["zs3"]
    )


def test_each_half_is_scored_under_the_gamma_of_the_other(benchmark):
    right, wrong = np.eye(6, dtype=np.int64) * 10, np.roll(np.eye(6, dtype=np.int64) * 10, 1, axis=1)
    for matrix in (right, wrong):
        matrix[0] = matrix[:, 0] = 0
    halves = np.stack([np.stack([wrong] * 5), np.stack([wrong] * 5)])
    halves[0, 3], halves[1, 1] = right, right
    held, gammas = benchmark[1].cross_validated(halves, GAMMAS, CLASSES, PROTOCOLS["zs3"])
    assert gammas == (0.1, 0.5)
    assert held.harmonic == pytest.approx(
        benchmark[1].dense_scores(2 * wrong, CLASSES, PROTOCOLS["zs3"]).harmonic
    )
    halves[0, 1] = right
    held, gammas = benchmark[1].cross_validated(halves, GAMMAS, CLASSES, PROTOCOLS["zs3"])
    assert gammas == (0.1, 0.1) and held.harmonic == 100
