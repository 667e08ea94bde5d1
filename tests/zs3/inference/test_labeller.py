"""Labels are names of segments: bit for bit, whatever the order, for any class list."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from zs3.checkpoint import load_checkpoint, save_checkpoint
from zs3.classification.provenance import provenance
from zs3.config import NamingSettings
from zs3.inference.labeller import Labeller, load_labeller
from zs3.nets.zegformer import ZegFormer
from zs3.vocabulary import parse_class_list

CPU = torch.device("cpu")
CLASSES = parse_class_list("dog\nsheep*\ngrass\nsofa: couch, settee\n", "four")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, tiny_recipe):
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("labelling") / "model"
    save_checkpoint(folder, tiny_recipe, ZegFormer(tiny_recipe.model), ["dog", "sheep", "grass"])
    return load_checkpoint(str(folder))


def pictures(count=3):
    rng = np.random.default_rng(2)
    return [rng.integers(0, 256, (40 + 9 * i, 70 - 11 * i, 3), dtype=np.uint8) for i in range(count)]


def test_labelling_is_naming_after_segmenting(checkpoint):
    labeller = Labeller(checkpoint, CLASSES, device=CPU)
    for picture, (label_map, scores) in zip(pictures(), labeller.label(pictures())):
        segments = labeller.segmenter.segment([picture])[0]
        again, scores_again = labeller.classifier.name(segments)
        assert np.array_equal(label_map, again) and scores == scores_again
        assert label_map.shape == picture.shape[:2] and label_map.dtype == np.int32
        assert set(np.unique(label_map)) == set(scores) <= {entry.id for entry in CLASSES.candidates}


def test_a_class_counts_as_seen_when_the_checkpoint_knows_it_and_the_list_does_not_deny_it(checkpoint):
    labeller = Labeller(checkpoint, CLASSES, device=CPU)
    assert [labeller.seen[entry.id] for entry in CLASSES.candidates] == [True, False, True, False]


def test_permuting_the_class_list_permutes_the_scores_and_keeps_every_label(checkpoint):
    reversed_list = parse_class_list("sofa: couch, settee\ngrass\nsheep*\ndog\n", "four")
    one, two = (Labeller(checkpoint, vocabulary, device=CPU) for vocabulary in (CLASSES, reversed_list))
    segments = one.segmenter.segment(pictures(1))[0]
    torch.testing.assert_close(one.classifier.scores(segments).flip(1), two.classifier.scores(segments))
    names = [np.vectorize(labeller.names.get)(labeller.label(pictures(1))[0][0]) for labeller in (one, two)]
    assert np.array_equal(names[0], names[1])


def test_the_digest_tells_what_defines_the_labels(checkpoint):
    base = provenance(checkpoint, CLASSES)
    other_list = provenance(checkpoint, parse_class_list("dog\ncat\n", "two"))
    other_naming = provenance(checkpoint, CLASSES, naming=NamingSettings(calibration=0.3))
    assert {key for key in base if base[key] != other_list[key]} == {"vocabulary"}
    assert {key for key in base if base[key] != other_naming[key]} == {"naming"}
    assert Labeller(checkpoint, CLASSES, device=CPU).provenance == base


def test_a_labeller_loads_by_place(checkpoint):
    loaded = load_labeller(checkpoint.origin, CLASSES)
    here = Labeller(checkpoint, CLASSES, device=CPU)
    assert loaded.digest == here.digest
    assert np.array_equal(loaded.label(pictures(1))[0][0], here.label(pictures(1))[0][0])


def test_a_text_bank_can_come_from_a_file(checkpoint, tmp_path):
    rows = np.random.default_rng(0).normal(size=(4, 384)).astype(np.float16)
    np.save(tmp_path / "bank.npy", rows)
    text = replace(checkpoint.recipe.query_text, embeddings=str(tmp_path / "bank.npy"))
    stored = replace(checkpoint, recipe=replace(checkpoint.recipe, query_text=text))
    bank = Labeller(stored, CLASSES, device=CPU).classifier.query_bank
    assert bank.names == tuple(entry.name for entry in CLASSES.candidates)
    expected = rows.astype(np.float32) / np.linalg.norm(rows.astype(np.float32), axis=1, keepdims=True)
    np.testing.assert_allclose(bank.embeddings, expected, atol=1e-6)
    five = parse_class_list("a\nb\nc\nd\ne\n", "five")
    with pytest.raises(ValueError, match="expected a float matrix with 5 rows"):
        Labeller(stored, five, device=CPU)
