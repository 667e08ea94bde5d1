"""What labels mean in a data set, how one image is scored and shown, and the caveats of a report."""

import numpy as np
import pytest

from zs3.evaluation.caveats import caveats
from zs3.evaluation.image_scores import image_score_row
from zs3.evaluation.matching import chosen, class_matches, predicted_ids
from zs3.label_rows import label_rows
from zs3.metrics import UNKNOWN, UNLABELLED
from zs3.vocabulary import ClassEntry, Vocabulary

DATA = Vocabulary(
    name="data",
    classes=(
        ClassEntry(id=0, name="background", role="background"),
        ClassEntry(id=3, name="sofa"),
        ClassEntry(id=7, name="cat"),
        ClassEntry(id=9, name="cow", role="unseen"),
    ),
)
NAMES = {1: "couch", 2: "Cat", 5: "unicorn", 9: "cow"}
SEEN = {1: True, 2: True, 5: False, 9: False}


def rows(label_map_HW: np.ndarray) -> list[dict]:
    """Label rows of an image called `a`, labelled with other ids than the data set's."""
    return label_rows("a", "a.jpg", label_map_HW, NAMES, SEEN, dict.fromkeys(NAMES, 0.5), "run")


def test_labels_are_matched_by_name_then_by_concept_never_by_id() -> None:
    matches = class_matches(NAMES.values(), DATA)
    assert matches == {"couch": 3, "Cat": 7, "unicorn": UNKNOWN, "cow": 9}
    label_map_HW = np.array([[1, 2, 5], [9, 255, 255]], np.int32)
    assert predicted_ids(rows(label_map_HW), matches).tolist() == [
        [3, 7, UNKNOWN],
        [9, UNLABELLED, UNLABELLED],
    ]


def test_a_label_that_could_mean_two_classes_is_refused_unless_one_has_its_very_name() -> None:
    twins = Vocabulary(name="twins", classes=(ClassEntry(id=1, name="sofa"), ClassEntry(id=2, name="couch")))
    assert class_matches(["couch"], twins) == {"couch": 2}
    with pytest.raises(ValueError, match=r"'settee' could mean \['sofa', 'couch'\] of 'twins'"):
        class_matches(["settee"], twins)


def test_sizes_that_differ_are_told_with_image_and_both_sizes() -> None:
    labelled = rows(np.full((4, 6), 2, np.int32))
    with pytest.raises(ValueError, match=r"'a' are 6x4 pixels and its truth 4x6"):
        image_score_row(labelled, np.zeros((6, 4), np.int32), DATA, class_matches(NAMES.values(), DATA))


def test_an_image_without_any_label_scores_zero_and_is_no_error() -> None:
    labelled = rows(np.full((2, 3), 255, np.int32))
    columns, miou = image_score_row(labelled, np.full((2, 3), 7, np.int32), DATA, {})
    assert columns["prediction"] == [UNLABELLED] and miou == 0.0


def test_a_region_without_a_name_is_refused() -> None:
    labelled = rows(np.full((2, 3), 2, np.int32))
    with pytest.raises(ValueError, match="without a name"):
        predicted_ids([{**labelled[0], "class_name": ""}], {"Cat": 7})


def test_the_gallery_takes_a_third_of_each_kind_whatever_the_order_of_images() -> None:
    mious = {f"i{k:02}": float(k) for k in range(30)} | {"void": float("nan")}
    picked = chosen(mious, 6, seed=1)
    assert picked[:4] == [("i00", "worst"), ("i01", "worst"), ("i29", "best"), ("i28", "best")]
    assert [kind for _, kind in picked[4:]] == ["random", "random"]
    assert picked == chosen(dict(reversed(mious.items())), 6, seed=1)
    assert picked != chosen(mious, 6, seed=2)


def test_a_gallery_larger_than_the_data_set_shows_every_image_once() -> None:
    mious = {"a": 1.0, "b": 2.0, "c": 3.0, "d": 4.0}
    picked = [image_id for image_id, _ in chosen(mious, 12, seed=0)]
    assert sorted(picked) == sorted(mious)
    assert chosen(mious, 0, seed=0) == [] and chosen({}, 12, seed=0) == []


def sentences(**changes: object) -> str:
    """The caveats of a faultless evaluation with some changes."""
    values: dict = {
        "had_masks": {"sofa": True, "cat": True, "cow": False},
        "offered": ["cat", "cow"],
        "whole_list": False,
        "missing": {"without_labels": (0, []), "without_truth": (0, [])},
        "runs": ["r"],
    }
    return " ".join(caveats(DATA, **(values | changes)))


def test_caveats_say_why_numbers_may_mislead() -> None:
    assert sentences() == ""
    assert "not zero-shot" in sentences(had_masks={"sofa": True, "cat": True, "cow": True})
    assert "never had training masks of cat" in sentences(
        had_masks={"sofa": True, "cat": False, "cow": False}
    )
    assert sentences(had_masks=dict.fromkeys(("sofa", "cat", "cow"))) == "", "a table that does not say"
    assert "labels of them count as wrong: unicorn" in sentences(offered=["cat", "cow", "unicorn"])
    assert "they have no labels: a, b (2 in all)" in sentences(
        missing={"without_labels": (2, ["a", "b"]), "without_truth": (0, [])}
    )
    assert "mixes 2 labelling runs" in sentences(runs=["r", "s"])
    assert "no name for cat:" in sentences(offered=["couch", "cow"], whole_list=True)
