"""Segments to keep: what `Labeller` groups, what defines it, and how far two branches disagree."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from zs3.checkpoint import load_checkpoint, save_checkpoint
from zs3.classification.provenance import segments_provenance
from zs3.classification.settings import naming_provenance, naming_settings
from zs3.inference.labeller import Labeller
from zs3.inference.segment_exporter import (
    SegmentExporter,
    disagreement,
    load_segment_exporter,
)
from zs3.nets.zegformer import ZegFormer
from zs3.vocabulary import parse_class_list

CPU = torch.device("cpu")
CLASSES = parse_class_list("dog\nsheep*\n", "two")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, tiny_recipe):
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("grouping") / "model"
    save_checkpoint(folder, tiny_recipe, ZegFormer(tiny_recipe.model), ["dog", "sheep", "grass"])
    return load_checkpoint(str(folder))


def test_an_exporter_gives_the_segments_of_a_labeller(checkpoint):
    picture = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    ((ours, apart),) = load_segment_exporter(checkpoint.origin, "lossless").segment([picture])
    (theirs,) = Labeller(checkpoint, CLASSES, device=CPU).segmenter.segment([picture])
    assert torch.equal(ours.mask_logits_Khw, theirs.mask_logits_Khw)
    assert torch.equal(ours.query_embeddings_KD, theirs.query_embeddings_KD)
    assert apart == 0, "this model has one branch"


def test_no_class_list_but_weights_settings_and_store_define_segments(checkpoint):
    parts = segments_provenance(checkpoint, "compact")
    assert set(parts) == {"checkpoint", "segmenting", "zs3", "store"}
    assert SegmentExporter(checkpoint, "compact", device=CPU).provenance == parts
    assert parts != segments_provenance(checkpoint, "lossless")
    assert parts != segments_provenance(replace(checkpoint, digest="other"), "compact")


def test_what_defines_labels_of_stored_segments(checkpoint):
    own = Labeller(checkpoint, CLASSES, device=CPU).provenance
    settings = naming_settings(checkpoint, {})
    lossless, compact = (segments_provenance(checkpoint, store) for store in ("lossless", "compact"))
    assert naming_provenance(checkpoint, CLASSES, settings, lossless) == own
    assert naming_provenance(checkpoint, CLASSES, settings, compact) == own | {"store": "compact"}
    older = naming_provenance(checkpoint, CLASSES, settings, lossless | {"zs3": "0.0.9"})
    assert older == own | {"segments_by_zs3": "0.0.9"}
    changed = naming_settings(checkpoint, {"calibration": 0.1})
    differing = naming_provenance(checkpoint, CLASSES, changed, lossless)
    assert {key for key in own if own[key] != differing[key]} == {"naming"}
    with pytest.raises(
        ValueError, match="no naming setting 'gamma'; there are: branches, weight, calibration"
    ):
        naming_settings(checkpoint, {"gamma": 0.1})


rows = st.lists(st.lists(st.floats(0.01, 1), min_size=4, max_size=4), min_size=3, max_size=3)


@given(one=rows, two=rows, factor=st.floats(0.1, 10))
def test_disagreement_is_symmetric_blind_to_scale_and_between_0_and_1(one, two, factor):
    one, two, weights = torch.tensor(one), torch.tensor(two), torch.tensor([1.0, 2.0, 0.5])
    value = disagreement(one, two, weights)
    assert 0 <= value <= 1
    # Sums of twelve doubles of about 1: 1e-9 is a million units in the last place. float32 inputs are scaled first.
    assert math.isclose(value, disagreement(two, one, weights), abs_tol=1e-9)
    assert math.isclose(value, disagreement(one * factor, two, weights), abs_tol=1e-5)
    assert disagreement(one, one, weights) < 1e-9


def test_disagreement_counts_segments_by_their_weight():
    same, other = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert disagreement(same, other, torch.tensor([3.0, 1.0])) == pytest.approx(0.25)
    assert disagreement(same, other, torch.zeros(2)) == 0
