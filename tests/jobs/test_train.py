"""`zs3 train`: the command line changes the fields it names, trains a tiny recipe, and reports what it made."""

import json
import re

import pytest

from jobs import train as command
from jobs.main import COMMANDS, MANUAL
from zs3.checkpoint import load_checkpoint
from zs3.recipes import RECIPES, note


def test_a_small_recipe_is_trained_and_the_same_command_finds_it_finished(trained_run, monkeypatch, capfd):
    result = trained_run.result
    assert (result["steps"], result["resumed_at"]) == (8, 0)
    checkpoint = load_checkpoint(result["checkpoint"])
    assert checkpoint.digest == result["digest"] and checkpoint.recipe == trained_run.recipe
    assert re.search(r"^step 8/8  loss \d+\.\d+  ce \d+\.\d+  mask \d+\.\d+  dice \d", trained_run.err, re.M)
    assert f"zs3 label --checkpoint {result['checkpoint']}" in trained_run.err
    monkeypatch.setitem(RECIPES, "small", lambda: trained_run.recipe)
    assert command.main(trained_run.argv) == 0
    out = capfd.readouterr().out
    again = json.loads(out)
    assert out.count("\n") == 1 and again["resumed_at"] == 8 and again["digest"] == result["digest"]


@pytest.mark.parametrize("name", RECIPES)
def test_the_command_line_changes_no_field_that_it_does_not_name(name):
    recipe = RECIPES[name]()
    options = command.parse_options([name, "--data-root", "data"])
    assert options.set == recipe and (options.data_root, options.out) == ("data", "runs")


def test_fields_of_the_recipe_and_of_the_workers_are_set_from_the_command_line():
    argv = ["mini", "--data-root", "data", "--set.training.steps", "7", "--workers.num-workers", "2"]
    options = command.parse_options([*argv, "--set.training.optimizer.learning-rate", "0.001"])
    training, unchanged = options.set.training, RECIPES["mini"]().training
    assert (training.steps, training.optimizer.learning_rate, options.workers.num_workers) == (7, 0.001, 2)
    assert training.batch_size == unchanged.batch_size and training.losses == unchanged.losses


def test_an_unknown_recipe_ends_in_one_line(capsys):
    assert command.main(["maxi", "--data-root", "data"]) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "recipe 'maxi' is not known; expected one of mini" in err


def test_without_a_recipe_usage_is_shown(capsys):
    assert command.main([]) == 2 and command.main(["--help"]) == 0
    assert "recipes: mini" in capsys.readouterr().err
    assert "train" in COMMANDS and "    train       " in MANUAL


def test_help_lists_the_required_option_first_and_the_fields_of_the_recipe(capsys):
    assert command.main(["mini", "--help"]) == 0
    known, _, options = capsys.readouterr().out.partition("show this help message")
    assert all(f"\n{word}: " in known for word in ("Paper", "Command"))
    assert (
        options.index("--data-root") < options.index("--out") and "--set.training.backbone-weights" in options
    )


@pytest.mark.parametrize("name", RECIPES)
def test_what_is_known_of_a_recipe_names_its_data_and_its_cost_or_its_page(name):
    words = note(name)
    assert "DATA" in words or "weights are those of" in words or "as maft_plus_large" in words
    assert "Reproduced: " in words and (
        "Cost: " in words or "docs/mini.md" in words or "MAFT" in name.upper()
    )


def test_a_missing_data_root_is_wrong_usage():
    assert command.main(["mini"]) == 2


def test_data_or_a_checkpoint_that_is_not_there_is_found_before_ray_starts(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(command, "start_ray", lambda execution: pytest.fail("started Ray"))
    assert command.main(["mini", "--data-root", str(tmp_path / "nowhere")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert f"data set {tmp_path}/nowhere/" in line and "check --data-root" in line
    for name, folder, weights, expected in (
        ("voc_r50", "VOC2012", f"{tmp_path}/absent.pth", f"no weights at '{tmp_path}/absent.pth'"),
        (
            "fcclip_r50",
            "coco",
            "openai2",
            "'openai2' is neither a file nor a pretrained tag of RN50-quickgelu",
        ),
    ):
        (tmp_path / folder).mkdir()
        argv = [name, "--data-root", str(tmp_path), "--set.training.backbone-weights", weights]
        assert command.main(argv) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert expected in line


def test_what_zs3_cannot_train_is_said_before_ray_starts(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(command, "start_ray", lambda execution: pytest.fail("started Ray"))
    assert command.main(["maft_plus_base", "--data-root", str(tmp_path)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "'maft_plus_base' is a MAFT+, which zs3 does not train; zs3 convert makes a checkpoint" in line
