"""Settings that were added later leave the digests of earlier runs as they were."""

from dataclasses import asdict, replace

import pytest

from zs3.config import NamingSettings, contents, digest_of
from zs3.recipes import recipe

# Computed before any field had the metadata `later`.
DIGESTS = {
    "mini": "1536a0c9db68b21cee2c9df1720dde7095c9944262636d18b7a86c83cd0e3076",
    "coco_stuff_r101": "909b613053815c90160bfdf6de5d7fd363f92a0d88de19f34ab0096bf1a2fcf6",
}
NAMING = "2ebb2b1b092ccff563997c846d05dd186311b1dcb5d25adcaa681aa369a6ddd2"


@pytest.mark.parametrize("name", DIGESTS)
def test_recipes_of_the_first_version_have_their_digests(name):
    assert recipe(name).digest == DIGESTS[name]


def test_a_later_field_counts_only_where_it_is_not_its_default():
    assert digest_of(contents(NamingSettings())) == NAMING
    changed = replace(NamingSettings(), image_weight_seen=0.5)
    assert contents(changed) == contents(NamingSettings()) | {"image_weight_seen": 0.5}


def test_contents_are_all_fields_where_no_default_is_left_out():
    made = recipe("fcclip_r50")
    later = {"image_weight_seen", "image_weight_unseen", "output"}
    assert {**asdict(made)["naming"]}.keys() - contents(made)["naming"].keys() == later
    assert contents(made)["query_text"]["rows"] == "synonym" and contents(made)["seen_by"] == "name"
