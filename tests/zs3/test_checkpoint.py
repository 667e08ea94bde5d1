"""A checkpoint comes back as it was saved, or says in one line why it cannot."""

import json
import os
import resource

import pytest
import safetensors.torch
import torch

from zs3.checkpoint import CLASSES, RECIPE, WEIGHTS, load_checkpoint, save_checkpoint
from zs3.nets.zegformer import ZegFormer


@pytest.fixture
def saved(tmp_path, tiny_recipe):
    torch.manual_seed(0)
    network = ZegFormer(tiny_recipe.model)
    save_checkpoint(tmp_path / "model", tiny_recipe, network, ["dog", "television"])
    return tmp_path / "model", tiny_recipe, network


def test_weights_recipe_and_seen_classes_survive_the_disk(saved):
    folder, recipe, network = saved
    checkpoint = load_checkpoint(str(folder))
    assert checkpoint.recipe == recipe
    assert checkpoint.seen_concepts >= {"dog"} and len(checkpoint.seen_concepts) == 2
    ours, theirs = checkpoint.network().state_dict(), network.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_the_digest_is_that_of_content_not_of_place(saved, tmp_path):
    _, recipe, network = saved
    save_checkpoint(tmp_path / "copy", recipe, network, ["dog", "television"])
    save_checkpoint(tmp_path / "other", recipe, network, ["dog"])
    digests = [load_checkpoint(str(tmp_path / name)).digest for name in ("model", "copy", "other")]
    assert digests[0] == digests[1] != digests[2]


def test_half_precision_halves_the_file_and_computes_in_float32(saved, tmp_path):
    folder, recipe, network = saved
    save_checkpoint(tmp_path / "half", recipe, network, ["dog"], half=True)
    assert (tmp_path / "half" / WEIGHTS).stat().st_size < 0.6 * (folder / WEIGHTS).stat().st_size
    assert all(v.dtype == torch.float32 for v in load_checkpoint(str(tmp_path / "half")).state.values())


def test_saving_over_a_checkpoint_replaces_it_whole(saved):
    folder, recipe, network = saved
    save_checkpoint(folder, recipe, network, ["horse"])
    assert load_checkpoint(str(folder)).seen_classes == ("horse",)
    assert [p.name for p in folder.parent.iterdir()] == ["model"]


def test_a_missing_checkpoint_names_what_was_expected(tmp_path):
    with pytest.raises(
        ValueError, match=r"'.*nowhere' has no recipe.json; expected a folder that zs3 train wrote"
    ):
        load_checkpoint(str(tmp_path / "nowhere"))


def test_weights_of_another_model_are_refused_with_the_first_difference(saved):
    folder, _, network = saved
    state = network.state_dict()
    state.pop("projection.bias")
    safetensors.torch.save_file(state, folder / WEIGHTS)
    with pytest.raises(ValueError, match=r"do not fit the recipe .*projection\.bias"):
        load_checkpoint(str(folder)).network()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_at_load_and_at_save(saved, tmp_path, value):
    folder, recipe, network = saved
    state = network.state_dict()
    state["projection.bias"][3] = value
    safetensors.torch.save_file(state, folder / WEIGHTS)
    message = r"1 of \d+ numbers of tensor 'projection\.bias' are not finite, the first at \[3\]"
    with pytest.raises(ValueError, match=message):
        load_checkpoint(str(folder))
    with pytest.raises(ValueError, match=message):
        save_checkpoint(tmp_path / "other", recipe, network, ["dog"])
    state["projection.bias"][3] = 1e6
    save_checkpoint(tmp_path / "other", recipe, network, ["dog"])
    with pytest.raises(ValueError, match=message):  # beyond float16
        save_checkpoint(tmp_path / "half", recipe, network, ["dog"], half=True)
    assert not (tmp_path / "half").exists()


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        (
            "num_queries",
            200_000_000,
            r"'decoder\.query_embed\.weight' is of shape .* and of shape \[200000000, ",
        ),
        ("feedforward_dim", 200_000_000, r"of shape .* in the weights and of shape .*200000000"),
        ("num_layers", 10_000_000, "num_layers is 10000000"),
    ],
)
def test_sizes_that_a_recipe_claims_are_compared_before_memory_is_taken(saved, field, value, message):
    folder, _, _ = saved
    recipe = json.loads((folder / RECIPE).read_text())
    recipe["model"][field] = value
    (folder / RECIPE).write_text(json.dumps(recipe))
    checkpoint = load_checkpoint(str(folder))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=f"do not fit the recipe .*{message}"):
        checkpoint.network()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000, "kilobytes"


def test_a_truncated_file_is_named(saved):
    folder, _, _ = saved
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-100])
    with pytest.raises(ValueError, match="cannot be read"):
        load_checkpoint(str(folder))


@pytest.mark.parametrize(
    ("change", "words"),
    [({"surprise": 1}, "surprise"), ({"naming": {"weight": "much"}}, r"naming\.weight")],
)
def test_a_recipe_with_a_strange_field_is_refused_by_its_name(saved, change, words):
    folder, _, _ = saved
    described = json.loads((folder / RECIPE).read_text()) | change
    (folder / RECIPE).write_text(json.dumps(described))
    with pytest.raises(ValueError, match=words):
        load_checkpoint(str(folder))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not valid JSON"),
        ("5", "is 5, expected a list of class names"),
        ("[1]", r"is \[1\], expected"),
        ('"cat"', "is 'cat', expected"),
        ("[" * 200_000, "nested too deeply"),
    ],
)
def test_seen_classes_that_are_no_list_are_refused_with_what_they_are(saved, content, message):
    folder, _, _ = saved
    (folder / CLASSES).write_text(content)
    with pytest.raises(ValueError, match=rf"cannot be read: seen_classes\.json .*{message}"):
        load_checkpoint(str(folder))


def test_parts_that_are_pipes_or_devices_are_refused_at_once(saved):
    folder, _, _ = saved
    (folder / CLASSES).unlink()
    os.mkfifo(folder / CLASSES)
    with pytest.raises(OSError, match="is not a regular file"):
        load_checkpoint(str(folder))
    (folder / RECIPE).unlink()
    (folder / RECIPE).symlink_to("/dev/zero")
    with pytest.raises(OSError, match="is not a regular file"):
        load_checkpoint(str(folder))
