"""Released FC-CLIPs become ours whole, with their CLIP; checkpoints of other families are named."""

import json

import pytest
import torch

from tests.data.fcclip_networks import checkpoint_of, recorded_state, tiny_fcclip
from zs3.checkpoint import load_checkpoint
from zs3.config import contents
from zs3.convert.families import family_of
from zs3.convert.fcclip import CRITERION, DEEPEST, SIZES, VOID, inferred_recipe, network_state, training_names
from zs3.convert.fcclip_names import CLIP, released_name
from zs3.convert.zegformer import convert
from zs3.nets.networks import tensor_shapes
from zs3.recipes import recipe
from zs3.vocabulary import ClassEntry

RECORDED = {name: value for name, value in recorded_state("rn").items() if name != CRITERION}
"""Recorded with 14 training classes; the recipes have those of the releases."""


@pytest.fixture
def converted(tmp_path):
    """Converts a state dict by the recipe of the recorded ResNet."""
    (tmp_path / "recipe.json").write_text(json.dumps(contents(tiny_fcclip("rn"))))

    def run(state, out="out", **options):
        torch.save({"model": state, "iteration": 9}, tmp_path / "released.pth")
        return convert(
            str(tmp_path / "released.pth"), tmp_path / out, str(tmp_path / "recipe.json"), **options
        )

    return run


def test_the_recorded_checkpoint_keeps_every_value_and_names_with_its_own_clip(converted):
    done = converted(RECORDED)
    assert (done.clip_tensors_left_out, done.seen_classes, done.tensors) == (0, 133, len(RECORDED))
    checkpoint, recorded = load_checkpoint(done.checkpoint), checkpoint_of("rn")
    assert checkpoint.recipe == recorded.recipe and checkpoint.state.keys() == recorded.state.keys()
    assert all(torch.equal(checkpoint.state[name], value) for name, value in recorded.state.items())
    assert checkpoint.seen([ClassEntry(id=1, name="kid, clothes"), ClassEntry(id=2, name="Cat")]) == {
        1: True,
        2: False,
    }


def test_clip_may_lie_in_a_file_of_its_own(converted, tmp_path):
    clip = {name.removeprefix(CLIP): value for name, value in RECORDED.items() if name.startswith(CLIP)}
    torch.save(
        {"state_dict": {f"module.{name}": value for name, value in clip.items()}}, tmp_path / "clip.pt"
    )
    alone = {name: value for name, value in RECORDED.items() if not name.startswith(CLIP)}
    whole, joined = converted(RECORDED), converted(alone, "joined", clip=str(tmp_path / "clip.pt"))
    assert load_checkpoint(whole.checkpoint).digest == load_checkpoint(joined.checkpoint).digest
    with pytest.raises(
        FileNotFoundError, match="'soup' is neither a file nor a pretrained tag of rn_tinytest"
    ):
        converted(alone, "third", clip="soup")


def test_misfits_are_named_in_the_released_names_and_nothing_is_written(converted, tmp_path):
    state = dict(RECORDED)
    state.pop("sem_seg_head.predictor.decoder_norm.bias")
    state[VOID] = torch.ones(1, 7)
    with pytest.raises(ValueError) as refusal:
        converted(state)
    assert "1 missing (sem_seg_head.predictor.decoder_norm.bias)" in str(refusal.value)
    assert "void_embedding.weight is 1x7 instead of 1x96" in str(refusal.value)
    assert not (tmp_path / "out").exists()


def test_another_number_of_training_classes_is_refused(converted):
    with pytest.raises(ValueError, match=r"trained on 14 classes .*, but recipe 'tiny_rn' has 133"):
        converted(RECORDED | {CRITERION: torch.ones(15)})


def sized(channels, length, **more):
    return {DEEPEST: torch.zeros(256, channels, 1, 1), VOID: torch.zeros(1, length), **more}


@pytest.mark.parametrize(("size", "expected"), SIZES.items())
def test_the_recipe_follows_from_the_size_of_the_clip(size, expected):
    assert inferred_recipe(sized(*size), "x.pth")[0] == expected
    assert recipe(expected).model.text_dim == size[1]


def test_a_maft_plus_is_told_by_its_transfer_and_its_kind_by_its_classes():
    transfer = {"cdt.cross_atten.MLP.weight": torch.zeros(1)}
    for size, classes, expected in (
        ((1024, 640), 172, "maft_plus_base"),
        ((1536, 768), 172, "maft_plus_large"),
        ((1536, 768), 134, "maft_plus_large_panoptic"),
    ):
        state = sized(*size, **transfer) | {CRITERION: torch.ones(classes)}
        assert inferred_recipe(state, "x.pth")[0] == expected
        assert len(training_names(state, recipe(expected), "x.pth")) == classes - 1


def test_another_size_is_named_with_the_released_ones():
    with pytest.raises(
        ValueError, match=r"512 channels .* length 64, which is none of the released .* fcclip_r50"
    ):
        inferred_recipe(sized(512, 64), "x.pth")


def test_a_teacher_and_the_criterion_are_left_out_and_counters_may_be_missing():
    state = RECORDED | {"backbone_t.clip_model.logit_scale": torch.ones(()), CRITERION: torch.ones(15)}
    state = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    weights = network_state(state, tiny_fcclip("rn"), "x.pth")
    assert {name: tuple(value.shape) for name, value in weights.items()} == tensor_shapes(
        tiny_fcclip("rn").model
    )


@pytest.mark.parametrize(
    ("file", "name"), [("convnext_large_d_320", "fcclip_convnext_large"), ("RN50", "fcclip_r50")]
)
def test_the_released_names_and_shapes_are_what_a_recipe_wants(full_recordings_folder, file, name):
    listing = full_recordings_folder / "fcclip" / "released" / f"state_dict_keys_{file}.txt"
    state = {}
    for line in listing.read_text().splitlines():
        key, shape = line.split(" ", 1)
        state[key] = torch.zeros(()).expand(json.loads(shape[: shape.index("]") + 1]))
    assert family_of(state, "x.pth") == "FC-CLIP" and inferred_recipe(state, "x.pth")[0] == name
    assert len(training_names(state, recipe(name), "x.pth")) == 133
    ours = {released_name(one): shape for one, shape in tensor_shapes(recipe(name).model).items()}
    ours |= {VOID: (1, recipe(name).model.text_dim), CRITERION: (134,)}
    assert ours == {key: tuple(value.shape) for key, value in state.items()}


@pytest.mark.parametrize(
    ("family", "name"),
    [
        ("Mask-Adapter", "mask_adapter.fuse.weight"),
        ("SAN", "side_adapter_network.vit_model.cls_token"),
        ("Mask2Former", "sem_seg_head.predictor.transformer_cross_attention_layers.0.norm.weight"),
        ("MaskFormer", "sem_seg_head.predictor.class_embed.weight"),
        ("Mask2Former of transformers", "model.pixel_level_module.decoder.level_embed"),
    ],
)
def test_a_checkpoint_of_another_family_is_named(converted, family, name):
    with pytest.raises(
        ValueError, match=rf"is a checkpoint of {family} \(it has '{name}'\).* it converts ZegFormer"
    ):
        converted({name: torch.ones(1), **({VOID: torch.ones(1)} if family == "Mask-Adapter" else {})})
