"""What ships is what the recipe makes, and it never saw an unseen class."""

import inspect
import json
import re
from dataclasses import asdict, replace
from functools import reduce

import pytest

from zs3.checkpoint import SHIPPED, WEIGHTS, load_checkpoint
from zs3.config import NamingSettings, SegmentSettings, recipe_from_json
from zs3.encoders import EncoderConfig
from zs3.learning.augmentation import Augmentation
from zs3.learning.losses import LossSettings
from zs3.learning.optimizer import OptimizerSettings
from zs3.learning.schedule import ScheduleSettings
from zs3.learning.settings import TrainingConfig
from zs3.nets.zegformer import ModelConfig
from zs3.recipes import RECIPES, recipe
from zs3.recipes.fcclip import fcclip_recipes
from zs3.vocabulary import concept, known, load_vocabulary

UNSEEN = [
    "potted plant", "sheep", "sofa", "train", "tvmonitor", "tree", "cow", "chair", "cat", "boat", "aeroplane",
    "parking meter", "bear", "suitcase", "frisbee", "snowboard", "fork", "sandwich", "hot dog", "toilet", "mouse",
    "toaster", "hair drier",
]  # fmt: skip


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_survives_json_and_keeps_its_digest(name):
    made = recipe(name)
    again = recipe_from_json(json.loads(json.dumps(asdict(made))), origin="test")
    assert again == made and again.digest == made.digest


def test_an_unknown_recipe_is_named_with_those_there_are():
    with pytest.raises(ValueError, match=r"'maxi' is not known; expected one of mini, mini_base"):
        recipe("maxi")


def test_the_shipped_model_is_what_its_recipe_says_and_small():
    shipped = load_checkpoint("zs3-mini")
    assert shipped.recipe == recipe("mini")
    assert (SHIPPED / "zs3-mini" / WEIGHTS).stat().st_size <= 25e6
    shipped.network()


def test_the_shipped_model_never_had_a_mask_of_a_class_that_is_unseen_in_any_of_its_sets():
    seen = load_checkpoint("zs3-mini").seen_concepts
    assert not seen & {concept(name) for name in UNSEEN}
    voc = {entry.name: known(entry, seen) for entry in load_vocabulary("voc").candidates}
    assert [name for name, flag in voc.items() if flag] == [
        "bicycle", "bird", "bottle", "bus", "car", "diningtable", "dog", "horse", "motorbike", "person"
    ]  # fmt: skip


# The published configurations, number by number: sections 1.5 to 1.8 and 3.1 to 3.5 of the specification.
VOC, COCO, ADE = ("voc", "VOC2012"), ("coco_stuff", "coco"), ("ade20k_full", "ADE20K_2021_17_01")
PUBLISHED = {
    # name: backbone, data, split, steps, crop, x of the short edges, longest training side, prompts in training
    "voc_r50": ("resnet50", VOC, "train_aug", 10_000, 512, range(5, 21), 2048, "single"),
    "voc_r101": ("resnet101", VOC, "train_aug", 30_000, 512, range(5, 21), 2048, "single"),
    "coco_stuff_r50": ("resnet50", COCO, "train", 60_000, 640, range(5, 16), 2560, "imagenet_select"),
    "coco_stuff_r101": ("resnet101", COCO, "train", 60_000, 640, range(5, 16), 2560, "imagenet_select"),
    "ade20k_full_r50": ("resnet50", ADE, "train", 60_000, 512, range(5, 21), 2048, "imagenet_select"),
}
AT_USE = {
    # name: prompts, ensembling (off: the image branch alone), γ, short side, longest side
    "voc_r50": ("single", False, 0.0, 512, 2048),
    "voc_r101": ("single", True, 0.1, 512, 2048),
    "coco_stuff_r50": ("imagenet_select", True, 0.1, 640, 2560),
    "coco_stuff_r101": ("single", True, 0.1, 640, 2560),
    "ade20k_full_r50": ("imagenet_select", True, 0.0, 512, 2048),
}
MIXED_PRECISION = {"coco_stuff_r50", "coco_stuff_r101"}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_recipe_trains_as_specified(name):
    made = recipe(name)
    backbone, data, split, steps, crop, edges, longest, prompts = PUBLISHED[name]
    assert made.name == name
    assert made.model == ModelConfig(
        backbone=backbone, backbone_width=64, pyramid_dim=256, mask_dim=256, hidden_dim=256, num_queries=100,
        num_heads=8, feedforward_dim=2048, num_layers=6, dropout=0.1, text_dim=512, temperature=0.01,
        image_mean=(123.675, 116.280, 103.530), image_std=(58.395, 57.120, 57.375), size_divisibility=32,
    )  # fmt: skip
    assert replace(made.training, templates="", checkpoint_every=0) == TrainingConfig(
        datasets=(data,),
        split=split,
        background_is_negative=False,
        steps=steps,
        batch_size=32,
        optimizer=OptimizerSettings(
            learning_rate=1e-4, backbone_multiplier=0.1, weight_decay=1e-4, norm_weight_decay=0.0,
            embedding_weight_decay=0.0, betas=(0.9, 0.999), eps=1e-8, clip_norm=0.01,
        ),
        schedule=ScheduleSettings(kind="poly", power=0.9, warmup_steps=0),
        precision="bfloat16" if name in MIXED_PRECISION else "float32",
        backbone_weights={"resnet50": "resnet50-0676ba61.pth", "resnet101": "resnet101-63fe2227.pth"}[backbone],
        frozen=(),
        augmentation=Augmentation(
            crop_px=crop, short_edges_px=tuple(int(0.1 * x * crop) for x in edges), max_long_edge_px=longest,
            crop_on_label_tries=1, brightness=32.0, contrast=0.5, saturation=0.5, hue_degrees=36.0,
            flip_probability=0.5, pad_value=128,
        ),
        losses=LossSettings(
            class_weight=1.0, mask_weight=20.0, dice_weight=1.0, no_object_weight=0.1, mask_resolution="full",
            void_is_negative=True, spare_queries_on_void=None,
        ),
        checkpoint_every=0,
    )  # fmt: skip
    assert (made.training.templates or made.query_text.templates) == prompts


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_recipe_labels_as_specified(name):
    made = recipe(name)
    prompts, ensembling, calibration, short, longest = AT_USE[name]
    assert made.segmenting == SegmentSettings(
        short_side_px=short, max_side_px=longest, crop_styles=("crop_and_mask",), image_branch=True,
        crop_empty_masks=True, min_share=0.0, prune="none",
    )  # fmt: skip
    assert made.naming == NamingSettings(
        branches="both" if ensembling else "image", weight=2 / 3, calibration=calibration, query_temperature=1.0,
        image_logit_scale=None, void_in_image_softmax=True, resize_first=False,
    )  # fmt: skip
    clip = EncoderConfig(kind="open_clip", architecture="ViT-B-16-quickgelu", weights="openai")
    assert made.query_text.encoder == made.image_text.encoder == clip
    assert (made.query_text.templates, made.image_text.templates) == (prompts, "imagenet_select_clip")
    # The shipped lists of VOC and COCO have synonyms of ours, which the release has not; ADE20K's are its own.
    assert made.query_text.synonyms == made.image_text.synonyms == (name == "ade20k_full_r50")
    assert made.query_text.embeddings == made.image_text.embeddings == ""


@pytest.mark.parametrize("name", fcclip_recipes())
def test_an_fcclip_trains_as_specified(name):
    made, convnext = recipe(name), name == "fcclip_convnext_large"
    assert (made.model.num_queries, made.model.num_layers, made.model.feedforward_dim) == (250, 9, 2048)
    assert made.training == TrainingConfig(
        datasets=(("coco_panoptic", "coco"),),
        steps=368_750,
        batch_size=16,
        optimizer=OptimizerSettings(
            learning_rate=1e-4, weight_decay=0.05, norm_weight_decay=0.0, embedding_weight_decay=0.0,
            betas=(0.9, 0.999), eps=1e-8, clip_norm=0.01,
        ),
        schedule=ScheduleSettings(kind="steps", warmup_steps=0, falls_at=(327_778, 355_092)),
        precision="bfloat16",
        backbone_weights="laion2b_s29b_b131k_ft_soup" if convnext else "openai",
        augmentation=Augmentation(
            crop_px=1024, fit_range=(0.1, 2.0), crop_on_label_tries=1, brightness=0.0, contrast=0.0,
            saturation=0.0, hue_degrees=0.0, flip_probability=0.5, pad_value=128,
        ),
        losses=LossSettings(
            class_weight=2.0, mask_weight=5.0, dice_weight=5.0, no_object_weight=0.1, num_points=12_544,
            void_is_negative=True, spare_queries_on_void=None,
        ),
        checkpoint_every=5000,
    )  # fmt: skip
    assert made.query_text.templates == "vild" and made.training.templates == ""


@pytest.mark.parametrize(("column", "name"), [(3, "coco_stuff_r101"), (4, "mini")])
def test_the_switches_of_the_document_have_the_values_that_it_gives(repo, column, name):
    made, told = recipe(name), {}
    for line in (repo / "docs/numerics.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) == 6 and (field := re.fullmatch(r"`(\w+(?:\.\w+)+)`", cells[2])):
            told[field[1]] = cells[column]
    assert len(told) > 10
    for field, expected in told.items():
        value = reduce(getattr, field.split("."), made)
        words = {True: "on", False: "off", None: "none", "": "as used"}
        plain = ", ".join(value) if isinstance(value, tuple) else value
        held = f"{plain:g}" if isinstance(plain, float) else words.get(plain, plain)
        assert held == expected, field


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_note_of_a_published_recipe_has_its_parts(name):
    note = inspect.getdoc(RECIPES[name])
    for part in ("Paper", "Released weights", "etrained by", f"zs3 train {name} ", "Cost:", "Reproduced: no"):
        assert part in note, part


def test_short_edges_of_the_published_recipes_are_those_of_their_files():
    # int(0.1 x 512) rounds down what floats make of 0.3 x 512 and the like; written out once.
    assert recipe("voc_r50").training.augmentation.short_edges_px == (
        256, 307, 358, 409, 460, 512, 563, 614, 665, 716, 768, 819, 870, 921, 972, 1024,
    )  # fmt: skip
    assert recipe("coco_stuff_r50").training.augmentation.short_edges_px == (
        320, 384, 448, 512, 576, 640, 704, 768, 832, 896, 960,
    )  # fmt: skip
