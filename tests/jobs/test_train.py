"""`zs3 train`: the command line changes the fields it names, trains a tiny recipe, and reports what it made."""

import json

import pytest

from jobs import train as command
from jobs.main import COMMANDS, MANUAL
from tests.support.shapes import write_shapes
from zs3.checkpoint import load_checkpoint
from zs3.recipes import RECIPES

QUICK = [
    "--workers.threads", "1", "--workers.cpus-per-worker", "0.5", "--workers.decode-tasks", "1",
    "--workers.report-every-s", "0",
]  # fmt: skip


def test_a_tiny_recipe_is_trained_and_the_same_command_finds_it_finished(
    ray_session, tiny_recipe, monkeypatch, tmp_path, capfd
):
    monkeypatch.setitem(RECIPES, "tiny", lambda: tiny_recipe)
    argv = ["tiny", "--data-root", str(write_shapes(tmp_path)), "--out", str(tmp_path / "runs"), "--json"]
    argv += ["--set.training.steps", "2", *QUICK]
    assert command.main(argv) == 0
    out, err = capfd.readouterr()
    result = json.loads(out)
    assert (result["steps"], result["resumed_at"], out.count("\n")) == (2, 0, 1)
    checkpoint = load_checkpoint(result["checkpoint"])
    assert checkpoint.digest == result["digest"] and checkpoint.seen_classes == ("apple", "sky")
    assert (checkpoint.recipe.training.steps, checkpoint.recipe.training.batch_size) == (2, 4)
    assert "step 2/2  loss " in err and f"zs3 label --checkpoint {result['checkpoint']}" in err
    assert command.main(argv) == 0
    again = json.loads(capfd.readouterr().out)
    assert again["resumed_at"] == 2 and again["digest"] == result["digest"]


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
    text = capsys.readouterr().out
    assert text.index("--data-root") < text.index("--out") and "--set.training.backbone-weights" in text


def test_a_missing_data_root_is_wrong_usage():
    assert command.main(["mini"]) == 2


def test_data_or_a_checkpoint_that_is_not_there_is_found_before_ray_starts(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(command, "start_ray", lambda execution: pytest.fail("started Ray"))
    assert command.main(["mini", "--data-root", str(tmp_path / "nowhere")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert f"data set {tmp_path}/nowhere/" in line and "check --data-root" in line
