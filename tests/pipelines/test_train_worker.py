"""What a training worker starts from: the network of the recipe's architecture and the bank of its names."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from pipelines.train_worker import initial_network, training_bank
from zs3.config import TextConfig
from zs3.learning.samples import TrainingClass, TrainingPlan
from zs3.nets.pixel_level import PixelLevel
from zs3.recipes import mini


def test_both_architectures_start_from_the_same_backbone_with_the_same_parts_frozen():
    base = mini()
    recipe = replace(base, model=replace(base.model, architecture="pixel_level"))
    plain, pixels = initial_network(base), initial_network(recipe)
    assert isinstance(pixels, PixelLevel)
    pairs = list(zip(plain.backbone.named_parameters(), pixels.backbone.named_parameters(), strict=True))
    assert all(torch.equal(one, other) for (_, one), (_, other) in pairs)
    frozen = [
        [name for name, p in network.backbone.named_parameters() if not p.requires_grad]
        for network in (plain, pixels)
    ]
    assert frozen[0] == frozen[1] != []


def test_stored_names_are_found_for_the_training_classes(tmp_path, tiny_recipe):
    np.save(tmp_path / "embeddings.npy", np.eye(3))
    (tmp_path / "names.json").write_text(json.dumps(["sheep", "tv", "dog"]))
    classes = (
        TrainingClass(name="dog", synonyms=()),
        TrainingClass(name="tvmonitor", synonyms=("television",)),
    )
    plan = TrainingPlan(refs=(), layouts=(), vocabularies=(), classes=classes, tables=())
    text = TextConfig(embeddings=str(tmp_path))
    recipe = replace(tiny_recipe, query_text=text, model=replace(tiny_recipe.model, text_dim=3))
    assert training_bank(recipe, plan, torch.device("cpu")).tolist() == [[0, 0, 1], [0, 1, 0]]
    with pytest.raises(
        ValueError, match=r"have 3 numbers, but model\.text_dim is 384; set model.text_dim to 3"
    ):
        training_bank(replace(recipe, model=tiny_recipe.model), plan, torch.device("cpu"))
