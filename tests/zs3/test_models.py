"""The list of models is true: parameters are counted, recipes exist, and every command is one that can be typed."""

import importlib
import inspect
import shlex

import pytest
import torch

from jobs.main import COMMANDS
from zs3.checkpoint import SHIPPED, load_checkpoint
from zs3.models import Model, how_to_make, model, models
from zs3.nets.clip_trunk import build_clip
from zs3.nets.networks import build_network
from zs3.recipes import RECIPES, note, recipe


def row(one: Model) -> str:
    """The line of a model in docs/models.md."""
    trained = f" ({one.trained / 1e6:.1f} M)" if one.trained else ""
    how = {"shipped": "in the package", "convert": "`zs3 convert`", "train": "`zs3 train`"}[one.source]
    numbers = ", ".join(f"{key} {value:g}" for key, value in one.published.items()) or one.published_in
    return (
        f"| `{one.name}` | {one.what} | {one.parameters / 1e6:.1f} M{trained} | {how} | {numbers} | "
        f"{one.code_licence}; {one.weights_licence} |"
    )


def test_every_model_has_its_line_in_the_page(repo):
    lines = (repo / "docs/models.md").read_text().splitlines()
    assert [line for line in lines if line.startswith("| `")][: len(models())] == [
        row(one) for one in models().values()
    ]


def test_every_recipe_and_every_shipped_checkpoint_is_a_model():
    shipped = {file.parent.name for file in SHIPPED.glob("*/recipe.json")}
    assert set(models()) == shipped | set(RECIPES)
    assert {name for name, one in models().items() if one.source == "shipped"} == shipped
    assert all(one.recipe in RECIPES and one.name in (one.recipe, "zs3-mini") for one in models().values())


@pytest.mark.parametrize("name", models())
def test_the_parameters_of_a_model_are_those_that_its_network_has(name):
    one = model(name)
    with torch.device("meta"):
        values = list(build_network(recipe(one.recipe).model).parameters())
    assert sum(value.numel() for value in values) == one.parameters
    assert one.trained in (None, sum(value.numel() for value in values if value.requires_grad))


def test_the_clip_of_zegformer_has_the_parameters_that_are_said():
    with torch.device("meta"):
        count = sum(value.numel() for value in build_clip("ViT-B-16-quickgelu").parameters())
    assert f"{count / 1e6:.1f} million parameters" in model("coco_stuff_r101").encoders


@pytest.mark.parametrize("name", models())
def test_the_commands_of_a_model_are_commands_that_end_with_labels(name):
    commands = [shlex.split(command) for command in model(name).commands]
    assert commands[-1][1] == "label" and 1 <= len(commands) <= 3
    for program, command, *options in commands:
        assert program == "zs3" and command in COMMANDS
        module = importlib.import_module(f"jobs.{command}")
        if command == "train":
            assert module.parse_options(options).set.name == options[0]
            continue
        (kind,) = (
            value
            for _, value in inspect.getmembers(module, inspect.isclass)
            if value.__name__ == f"{command.capitalize()}Options"
        )
        if command == "label":
            from jobs.cli.run_options import parse_run_options as parse
        else:
            from jobs.cli.options import parse_command_line as parse
        parsed = parse(kind, f"zs3 {command}", options)
        made = commands[0][-1] if commands[0][1] == "convert" else None
        if command == "label" and made:
            assert parsed.checkpoint == made


@pytest.mark.parametrize("name", [name for name, one in models().items() if one.source == "convert"])
def test_published_numbers_are_those_of_the_recipe(name):
    values = model(name).published
    words = note(name)
    held = [f"{value:.1f}" in words for value in values.values()]
    # The note on all FC-CLIPs has every number of ConvNeXt-Large, and one of each ResNet.
    assert all(held) if name != "fcclip_r50" and not name.startswith("fcclip_r") else held[0]
    assert values and "unknown" in model(name).redistribution


def test_the_name_of_a_recipe_that_is_no_checkpoint_gets_the_command_that_makes_it_one():
    with pytest.raises(ValueError, match=r"fcclip_r50 is a recipe; make its checkpoint with `zs3 convert "):
        load_checkpoint("fcclip_r50")
    assert how_to_make("zs3-mini") == how_to_make("somewhere/else") == ""
    with pytest.raises(ValueError, match="no model 'fc_clip_r50'; is it one of fcclip_r50, "):
        model("fc_clip_r50")
