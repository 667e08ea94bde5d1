"""What a training worker starts from: the network of the recipe's architecture and the bank of its names."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from pipelines.training.train import TrainRequest, refuse_missing, run_name
from pipelines.training.worker import initial_network, seen_names, training_bank
from tests.data.composed_parts import encoder_folder, mask_source_folder
from tests.data.fcclip_networks import network_of, tiny_fcclip
from zs3.checkpoint import load_checkpoint, save_checkpoint
from zs3.config import TextConfig
from zs3.convert.compose import compose
from zs3.learning.samples import TrainingClass, TrainingPlan
from zs3.nets.networks import build_network
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


def test_a_network_starts_from_a_checkpoint_and_what_that_lacks_starts_at_random(tmp_path, tiny_recipe):
    torch.manual_seed(1)
    save_checkpoint(tmp_path / "base", tiny_recipe, build_network(tiny_recipe.model), ["dog"])
    base = load_checkpoint(str(tmp_path / "base"))
    pooled = replace(tiny_recipe, model=replace(tiny_recipe.model, segment_features="query_and_pooled"))
    started, random = initial_network(pooled, base).state_dict(), initial_network(pooled).state_dict()
    assert all(torch.equal(started[name], value) for name, value in base.state.items())
    added = started.keys() - base.state.keys()
    assert added and all(torch.equal(started[name], random[name]) for name in added)
    other = replace(tiny_recipe, model=replace(tiny_recipe.model, num_queries=11))
    with pytest.raises(
        ValueError, match=r"'decoder.query_embed.weight' of shape \(10, 16\), .* has \(11, 16\)"
    ):
        initial_network(other, base)


def test_a_backbone_starts_from_the_weights_of_a_file_and_the_rest_at_random(tiny_recipe):
    random = initial_network(tiny_recipe)
    given = {name: torch.rand_like(value) for name, value in random.backbone.state_dict().items()}
    started = initial_network(tiny_recipe, backbone=given)
    assert all(torch.equal(started.backbone.state_dict()[name], value) for name, value in given.items())
    rest = [name for name in random.state_dict() if not name.startswith("backbone.")]
    assert all(torch.equal(started.state_dict()[name], random.state_dict()[name]) for name in rest)


def test_a_run_is_another_one_when_its_backbone_file_changes_and_not_when_it_moves(tmp_path, tiny_recipe):
    plan = TrainingPlan(refs=(), layouts=(), vocabularies=(), classes=(), tables=())
    for name, content in (("one.pth", b"1"), ("two.pth", b"2"), ("moved.pth", b"1")):
        (tmp_path / name).write_bytes(content)

    def name_with(weights):
        training = replace(tiny_recipe.training, backbone_weights=weights)
        request = TrainRequest(recipe=replace(tiny_recipe, training=training), data_root="data", out="runs")
        return run_name(request, plan)

    one, two, moved = (name_with(str(tmp_path / f"{name}.pth")) for name in ("one", "two", "moved"))
    assert one == moved != two
    with pytest.raises(FileNotFoundError, match=r"no weights at .*absent\.pth"):
        name_with(str(tmp_path / "absent.pth"))


def test_a_run_is_another_one_when_what_it_starts_from_changes(tmp_path, tiny_recipe):
    plan = TrainingPlan(refs=(), layouts=(), vocabularies=(), classes=(), tables=())
    names = []
    for seed, folder in ((1, "one"), (2, "one"), (2, "two")):
        torch.manual_seed(seed)
        save_checkpoint(tmp_path / folder, tiny_recipe, build_network(tiny_recipe.model), ["dog"])
        training = replace(tiny_recipe.training, start=str(tmp_path / folder))
        request = TrainRequest(recipe=replace(tiny_recipe, training=training), data_root="data", out="runs")
        names.append(run_name(request, plan))
    assert names[0] != names[1] and names[1] == names[2]


def test_a_composed_model_is_neither_started_from_nor_trained(tmp_path, tiny_recipe):
    masks, encoder = mask_source_folder("eomt", tmp_path / "eomt"), encoder_folder("vit", tmp_path / "vit")
    compose(str(masks), str(encoder), tmp_path / "model")
    training = replace(tiny_recipe.training, datasets=(), start=str(tmp_path / "model"))
    request = TrainRequest(recipe=replace(tiny_recipe, training=training), data_root="data", out="runs")
    with pytest.raises(ValueError, match=r"training\.start is '.*model', a composed model"):
        refuse_missing(request)
    with pytest.raises(ValueError, match="a composed model has no network of ours"):
        build_network(load_checkpoint(str(tmp_path / "model")).recipe.model)


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
    network, device = initial_network(tiny_recipe), torch.device("cpu")
    assert training_bank(recipe, plan, device, network).embeddings.tolist() == [[0, 0, 1], [0, 1, 0]]
    with pytest.raises(
        ValueError, match=r"have 3 numbers, but model\.text_dim is 384; set model.text_dim to 3"
    ):
        training_bank(replace(recipe, model=tiny_recipe.model), plan, device, network)


def test_an_fcclip_keeps_its_clip_frozen_and_names_classes_with_it():
    recipe = tiny_fcclip("convnext")
    clip = {
        name: torch.rand_like(value) for name, value in network_of("convnext").backbone.state_dict().items()
    }
    network = initial_network(recipe, backbone=clip)
    assert all(torch.equal(value, clip[name]) for name, value in network.backbone.state_dict().items())
    assert {name.partition(".")[0] for name, p in network.named_parameters() if p.requires_grad} == {
        "pixel_decoder", "decoder", "mask_pooling", "class_embed", "logit_scale", "void_embedding"
    }  # fmt: skip
    classes = (
        TrainingClass(name="dog", synonyms=("puppy",)),
        TrainingClass(name="sky", synonyms=()),
    )
    plan = TrainingPlan(refs=(), layouts=(), vocabularies=(), classes=classes, tables=())
    network = initial_network(recipe, backbone=network_of("convnext").backbone.state_dict())
    bank = training_bank(recipe, plan, torch.device("cpu"), network)
    assert bank.embeddings.shape == (3, 64) and bank.class_of_row.tolist() == [0, 0, 1]
    assert seen_names(recipe, plan) == ["dog,puppy", "sky"]


def test_a_tag_of_open_clip_is_part_of_a_run_by_its_name():
    plan = TrainingPlan(refs=(), layouts=(), vocabularies=(), classes=(), tables=())
    recipe = tiny_fcclip("convnext")
    other = replace(recipe, training=replace(recipe.training, backbone_weights="openai"))
    names = {
        run_name(TrainRequest(recipe=one, data_root="data", out="runs"), plan) for one in (recipe, other)
    }
    assert len(names) == 2
