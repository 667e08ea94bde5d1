"""A grid is every value with every other, each naming once, the checkpoint's own first; absurd ones are refused."""

from dataclasses import replace

import pytest

from zs3.config import NamingSettings
from zs3.tuning.grid import Naming, NamingGrid, gammas_of, namings_of, range_caveats

OWN = NamingSettings(weight=0.6, calibration=0.07, branches="both_own")
ALONE = NamingGrid(weight=None, calibration=None, templates=None)


def test_values_are_crossed_behind_the_checkpoints_own():
    grid = replace(ALONE, weight=(0.5, 0.6), void_in_image_softmax=("yes", "no"), templates=("own", "photo"))
    namings = namings_of(grid, OWN, {"plain"})
    assert namings[0] == Naming(settings=OWN, templates=None)
    assert len(namings) == len(set(namings)) == 2 * 2 * 2, "the own one is among the crossed ones"
    assert {(n.settings.weight, n.settings.void_in_image_softmax, n.templates) for n in namings} == {
        (weight, void, name) for weight in (0.5, 0.6) for void in (True, False) for name in (None, "photo")
    }
    assert {n.settings.calibration for n in namings} == {0.07}


def test_without_values_everything_stays_as_it_is():
    assert namings_of(ALONE, OWN, {"plain"}) == (Naming(settings=OWN, templates=None),)
    assert gammas_of(ALONE, OWN).values == (0.07,)


def test_the_default_grid_is_about_a_hundred_settings_or_two():
    grid = NamingGrid()
    settings = len(namings_of(grid, OWN, {"plain"})) * len(gammas_of(grid, OWN).values)
    assert 100 <= settings <= 300
    assert 0.07 in gammas_of(grid, OWN).values


def test_a_prompt_set_that_all_branches_have_is_no_change():
    grid = replace(ALONE, templates=("own", "plain", "photo"))
    assert [n.templates for n in namings_of(grid, OWN, {"plain"})] == [None, "photo"]
    assert [n.templates for n in namings_of(grid, OWN, {"plain", "single"})] == [None, "plain", "photo"]
    assert [n.templates for n in namings_of(grid, OWN, ())] == [None], "stored embeddings know no prompt"


def test_changes_are_what_differs_from_the_checkpoint():
    naming = Naming(settings=replace(OWN, weight=0.9), templates="photo")
    assert naming.changes(OWN, 0.07) == {"weight": 0.9, "templates": "photo"}
    assert Naming(settings=OWN, templates=None).changes(OWN, 0.1) == {"calibration": 0.1}


def test_the_best_of_a_range_is_told_when_it_lies_at_its_end():
    grid = replace(ALONE, weight=(0.0, 0.5, 0.9), query_temperature=(1.0, 2.0), calibration=(0.0, 0.1, 0.3))
    namings, gammas = namings_of(grid, OWN, {"plain"}), gammas_of(grid, OWN)

    def told(weight, temperature, gamma):
        best = Naming(settings=replace(OWN, weight=weight, query_temperature=temperature), templates=None)
        return [line.split(",")[0] for line in range_caveats(namings, gammas, best, gamma)]

    assert told(0.5, 2.0, 0.3) == ["The best query_temperature", "The best calibration"]
    assert told(0.0, 1.0, 0.1) == ["The best query_temperature"], "a share cannot be less than 0"
    assert told(0.9, 1.0, 0.0) == ["The best weight", "The best query_temperature", "The best calibration"]
    assert range_caveats(namings[:1], gammas_of(ALONE, OWN), namings[0], 0.07) == [], (
        "nothing was tried beside it"
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"weight": ()}, "weight is to be tried at no value; give one or more"),
        ({"templates": ()}, "templates is to be tried at no value"),
        ({"weight": (1.5,)}, r"weight is to be tried at 1\.5; expected a share in \[0, 1\]"),
        ({"query_temperature": (0.0,)}, "query_temperature is to be tried at 0.0; expected more than 0"),
        ({"image_logit_scale": (float("nan"),)}, "image_logit_scale is to be tried at nan"),
        ({"templates": ("poem",)}, "templates is to be tried at 'poem'; expected one of own, imagenet"),
        ({"branches": ("left",)}, "branches is to be tried at 'left'; expected one of both, both_own"),
        (
            {"weight": tuple(i / 2000 for i in range(2000))},
            "2000 ways of naming, not counting γ; at most 1000 are allowed",
        ),
    ],
)
def test_what_cannot_be_tried_is_named(values, message):
    with pytest.raises(ValueError, match=message):
        namings_of(replace(ALONE, **values), OWN, {"plain"})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((), "calibration is to be tried at no value"),
        ((float("inf"),), "calibration is to be tried at inf; expected a finite number"),
        (tuple(i / 9000 for i in range(2000)), "calibration is to be tried at 2000 values"),
    ],
)
def test_what_cannot_be_gamma_is_named(values, message):
    with pytest.raises(ValueError, match=message):
        gammas_of(replace(ALONE, calibration=values), OWN)


def test_shares_that_the_fusion_does_not_use_are_not_tried():
    own = replace(OWN, branches="geometric_ensemble")
    grid = replace(ALONE, weight=(0.1, 0.9), image_weight_seen=(0.2, 0.6), image_weight_unseen=(0.7,))
    tried = {(n.settings.weight, n.settings.image_weight_seen) for n in namings_of(grid, own, ["plain"])[1:]}
    assert tried == {(0.6, 0.2), (0.6, 0.6)}
    tried = {(n.settings.weight, n.settings.image_weight_seen) for n in namings_of(grid, OWN, ["plain"])[1:]}
    assert tried == {(0.1, 0.4), (0.9, 0.4)}
    with pytest.raises(
        ValueError, match=r"image_weight_seen is to be tried at 2; expected a share in \[0, 1\]"
    ):
        namings_of(replace(grid, image_weight_seen=(2,)), own, ["plain"])
