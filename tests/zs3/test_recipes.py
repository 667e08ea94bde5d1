"""What ships is what the recipe makes, and it never saw an unseen class."""

import json
from dataclasses import asdict

import pytest

from zs3.checkpoint import SHIPPED, WEIGHTS, load_checkpoint
from zs3.config import recipe_from_json
from zs3.recipes import RECIPES, recipe
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
