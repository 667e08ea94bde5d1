"""The door of training: what is asked for reaches the pipeline, and what is wrong is said in one line."""

import json

import pytest

import jobs.train as door
from pipelines.training.train import TrainResult
from pipelines.training.worker import TrainingProgress
from zs3.recipes import RECIPES

RESULT = TrainResult(checkpoint="runs/x/checkpoint", run="x", steps=7, resumed_at=3, seconds=1.0, digest="d")


@pytest.fixture
def asked(monkeypatch):
    calls = []

    def train(request, workers, *, on_progress):
        calls.append((request, workers))
        on_progress(
            TrainingProgress(step=7, steps=7, loss=1.5, terms={"loss_ce": 0.5}, images_per_second=2.0)
        )
        return RESULT

    monkeypatch.setattr(door, "train", train)
    monkeypatch.setattr(door, "start_ray", lambda execution: None)
    return calls


def test_fields_of_the_recipe_and_of_the_workers_are_set_from_the_command_line(asked, capsys):
    code = door.main(
        ["mini", "--data-root", "data", "--out", "runs", "--json", "--set.training.steps", "7",
         "--set.training.optimizer.learning-rate", "0.001", "--workers.num-workers", "2"]
    )  # fmt: skip
    request, workers = asked[0]
    assert code == 0
    assert request.recipe.training.steps == 7 and request.recipe.training.optimizer.learning_rate == 0.001
    assert request.recipe.training.batch_size == 8, "what is not set stays as the recipe has it"
    assert workers.num_workers == 2
    out, err = capsys.readouterr()
    assert json.loads(out.splitlines()[-1])["checkpoint"] == "runs/x/checkpoint"
    assert "step 7/7  loss 1.500  ce 0.500  2.0 images/s" in err and "zs3 label --checkpoint" in err


def test_an_unknown_recipe_ends_in_one_line(asked, capsys):
    assert door.main(["maxi", "--data-root", "data"]) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "recipe 'maxi' is not known; expected one of mini" in err
    assert not asked


def test_without_a_recipe_usage_is_shown(asked, capsys):
    assert door.main([]) == 2 and door.main(["--help"]) == 0
    assert "recipes: mini" in capsys.readouterr().err


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_lists_its_fields(asked, capsys, name):
    assert door.main([name, "--help"]) == 0
    assert "--set.training.backbone-weights" in capsys.readouterr().out
    assert door.main([name, "--data-root", "data"]) == 0
    assert asked[0][0].recipe == RECIPES[name](), "the command line changes nothing that it does not name"


def test_a_missing_data_root_is_wrong_usage(asked):
    assert door.main(["mini"]) == 2
