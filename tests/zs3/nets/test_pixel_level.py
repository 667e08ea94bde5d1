"""The pixel-level baseline: unit embeddings for every cell, painted at picture size, used like any checkpoint."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from zs3.checkpoint import SHIPPED, load_checkpoint, save_checkpoint
from zs3.classification.pixel_level import CellLogits, pixel_semantic_map, probability_strips
from zs3.config import NamingSettings
from zs3.inference.labeller import Labeller, PixelLabeller, load_labeller
from zs3.nets.networks import build_network
from zs3.nets.pixel_level import PixelLevel, cell_logits
from zs3.nets.zegformer import ModelConfig, ZegFormer
from zs3.vocabulary import parse_class_list

CPU = torch.device("cpu")
CLASSES = parse_class_list("dog\nsheep*\ngrass\nsofa: couch, settee\n", "four")


@pytest.fixture(scope="module")
def baseline(tmp_path_factory, tiny_recipe):
    """A checkpoint of the baseline with random weights."""
    torch.manual_seed(1)
    recipe = replace(tiny_recipe, model=replace(tiny_recipe.model, architecture="pixel_level"))
    folder = tmp_path_factory.mktemp("baseline") / "model"
    save_checkpoint(folder, recipe, build_network(recipe.model), ["dog", "sheep", "grass"])
    return load_checkpoint(str(folder))


def picture(height=50, width=70):
    return np.random.default_rng(2).integers(0, 256, (height, width, 3), dtype=np.uint8)


def cells(classes=5, height=37, width=53, *, spread=3.0):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(classes, 16, 16, generator=generator) * spread
    return CellLogits(logits_Chw=logits, covered_hw=(13.5, 16.0), height=height, width=width)


def test_every_cell_has_a_unit_embedding(baseline):
    network = baseline.network()
    assert isinstance(network, PixelLevel)
    embeddings = network(torch.randn(2, 3, 64, 96))
    assert embeddings.shape == (2, 384, 16, 24)
    # Rounding of a float32 norm of 384 numbers is below 1e-6; a forgotten normalisation is off by far more.
    torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(2, 16, 24), atol=1e-5, rtol=0)


def test_logits_are_cosines_over_the_temperature():
    embeddings, bank = (F.normalize(torch.randn(shape), dim=1) for shape in ((1, 8, 2, 3), (5, 8)))
    logits = cell_logits(embeddings, bank, 0.05)
    assert logits.shape == (1, 5, 2, 3)
    torch.testing.assert_close(logits[0, 4, 1, 2], embeddings[0, :, 1, 2] @ bank[4] / 0.05)


def test_the_baseline_has_the_backbone_and_pixel_decoder_of_zegformer(tiny_recipe):
    plain, pixels = (
        build_network(replace(tiny_recipe.model, architecture=a)) for a in ("zegformer", "pixel_level")
    )
    assert isinstance(plain, ZegFormer)
    shared = ("backbone.", "pixel_decoder.")
    names = [{k: v.shape for k, v in n.state_dict().items() if k.startswith(shared)} for n in (plain, pixels)]
    assert names[0] == names[1]
    assert {k.split(".")[0] for k in pixels.state_dict()} == {"backbone", "pixel_decoder", "projection"}


def test_strips_are_bilinear_resizing_then_softmax():
    held = replace(cells(), covered_hw=(16.0, 16.0))
    expected = F.interpolate(held.logits_Chw[None], size=(37, 53), mode="bilinear")[0].softmax(dim=0)
    # 2e-6 measured: positions are computed in float64 here and in float32 by torch. A shift of a tenth of a pixel
    # moves probabilities by 1e-2.
    torch.testing.assert_close(torch.cat(list(probability_strips(held)), dim=1), expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("strip_rows", [1, 7, 64, 1000])
def test_the_height_of_strips_changes_no_label(strip_rows):
    seen = torch.tensor([True, True, False, True, False])
    expected, painted = (pixel_semantic_map(cells(), seen, 0.3, strip_rows=rows) for rows in (37, strip_rows))
    assert torch.equal(expected[0], painted[0])
    # 6e-8 measured: torch's softmax takes other instructions for the last few numbers of a tensor. A row taken from
    # the wrong place is off by 1e-2 and more.
    torch.testing.assert_close(expected[1], painted[1], atol=1e-6, rtol=0)


def test_calibration_takes_pixels_from_seen_classes_only():
    seen = torch.tensor([True, True, False, True, False])
    maps = [pixel_semantic_map(cells(), seen, gamma)[0] for gamma in (0.0, 0.4, 1.0)]
    assert not seen[maps[2]].any()
    for before, after in pairwise(maps):
        moved = before != after
        assert bool(moved.any()) and bool(seen[before[moved]].all())
        assert not seen[after[moved & ~seen[after]]].any()


def test_padding_cells_name_no_pixel():
    held = cells()
    padded = held.logits_Chw.clone()
    padded[:, 15:] += 100.0 * torch.arange(5)[:, None, None]
    other = replace(held, logits_Chw=padded)
    seen = torch.zeros(5, dtype=torch.bool)
    assert torch.equal(pixel_semantic_map(held, seen, 0.0)[0], pixel_semantic_map(other, seen, 0.0)[0])


def test_a_baseline_labels_pictures_as_any_checkpoint_does(baseline):
    labeller = load_labeller(baseline.origin, CLASSES)
    assert isinstance(labeller, PixelLabeller)
    assert list(labeller.seen.values()) == [True, False, True, False]
    (label_map, scores), again = labeller.label([picture()])[0], labeller.label([picture(), picture()])[1]
    assert label_map.shape == (50, 70) and label_map.dtype == np.int32
    assert set(np.unique(label_map)) == set(scores) <= {1, 2, 3, 4}
    assert np.array_equal(label_map, again[0]) and scores == again[1]


def test_permuting_the_class_list_keeps_every_label(baseline):
    other = parse_class_list("sofa: couch, settee\ngrass\nsheep*\ndog\n", "four")
    named = []
    for classes in (CLASSES, other):
        labeller = PixelLabeller(baseline, classes, device=CPU, naming=NamingSettings(calibration=0.01))
        named.append(np.vectorize(labeller.names.get)(labeller.label([picture()])[0][0]))
    assert np.array_equal(*named)


def test_calibration_is_part_of_the_digest_and_of_the_labels(baseline):
    plain, none_seen = (
        PixelLabeller(baseline, CLASSES, device=CPU, naming=NamingSettings(calibration=gamma))
        for gamma in (0.0, 1.0)
    )
    assert plain.digest != none_seen.digest
    assert set(np.unique(none_seen.label([picture()])[0][0])) <= {2, 4}


def test_what_needs_segments_refuses_a_baseline_and_the_other_way_round(baseline):
    with pytest.raises(ValueError, match="pixel_level model, which makes no segments; zs3 label works"):
        Labeller(baseline, CLASSES, device=CPU)
    with pytest.raises(ValueError, match="is a zegformer model, not pixel_level"):
        PixelLabeller(load_checkpoint("zs3-mini"), CLASSES, device=CPU)


def test_a_recipe_from_before_the_field_is_a_zegformer():
    assert '"architecture": "pixel' not in (SHIPPED / "zs3-mini" / "recipe.json").read_text()
    assert load_checkpoint("zs3-mini").recipe.model.architecture == ModelConfig().architecture == "zegformer"
