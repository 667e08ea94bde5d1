"""Protocols as values: what each counts, what is stored of it, and how two are told apart."""

from dataclasses import dataclass, replace

import numpy as np
import pytest

from zs3.metrics import PROTOCOLS, UNKNOWN, UNLABELLED, Protocol, confusion, scores
from zs3.metrics.protocols import chosen_protocols, differences


@dataclass(frozen=True)
class Entry:
    id: int
    name: str
    role: str = "seen"


CLASSES = (
    Entry(0, "background", "background"),
    Entry(1, "cat"),
    Entry(2, "cow", "unseen"),
    Entry(3, "x", "excluded"),
)
TRUTH = np.array([[0, 0, 0, 0, 1, 1, 2, 2, 3, 255]])
GIVEN = np.array([[UNLABELLED, UNKNOWN, 1, 0, 1, UNLABELLED, 2, 1, 1, 1]])


def test_voc21_counts_background_as_a_class_and_no_label_as_background() -> None:
    result = scores(confusion(TRUTH, GIVEN, ignore_id=255), CLASSES, PROTOCOLS["voc21"])
    by_name = {entry.name: entry for entry in result.classes}
    assert by_name["background"].iou == pytest.approx(100 * 3 / 5)  # hits 0, 1, 3; a miss; a cat taken for it
    assert by_name["cat"].iou == pytest.approx(100 * 1 / 4)
    assert by_name["cow"].iou == pytest.approx(50)
    assert by_name["background"].seen and result.seen == pytest.approx((60 + 25) / 2)
    assert result.pixels == 8


def test_zs3_leaves_the_same_pixels_void() -> None:
    result = scores(confusion(TRUTH, GIVEN, ignore_id=255), CLASSES, PROTOCOLS["zs3"])
    assert [(entry.name, entry.iou) for entry in result.classes] == [
        ("cat", pytest.approx(100 / 3)),
        ("cow", 50.0),
    ]
    assert result.pixels == 4


def test_restricted_candidates_count_pixels_of_unseen_classes_only() -> None:
    only = replace(PROTOCOLS["zs3"], name="only", candidates="restricted")
    result = scores(confusion(TRUTH, GIVEN, ignore_id=255), CLASSES, only)
    assert (
        [entry.name for entry in result.classes] == ["cow"] and result.pixels == 2 and result.unseen == 50.0
    )
    assert any("Only unseen names" in sentence for sentence in only.words)


def test_a_stored_protocol_is_read_back_equal_and_differences_name_field_and_both_values() -> None:
    for held in PROTOCOLS.values():
        assert Protocol.from_json(held.to_json()) == held
        assert differences(held.to_json(), held.to_json()) == []
    told = differences(PROTOCOLS["zs3"].to_json(), PROTOCOLS["paper"].to_json())
    assert told == ["name: zs3 against paper", "absent: skip against nan"]
    other = replace(PROTOCOLS["zs3"], transductive=True)
    assert differences(PROTOCOLS["zs3"].to_json(), other.to_json()) == ["transductive: False against True"]
    with pytest.raises(ValueError, match="without 'absent'"):
        Protocol.from_json({"name": "old", "void_roles": [], "candidates": "generalised"})


def test_voc21_needs_exactly_one_background_class_and_all_leaves_it_out_with_a_reason() -> None:
    without = CLASSES[1:]
    with pytest.raises(ValueError, match=r"'voc21' needs one class with the role background.*0 \(none\)"):
        chosen_protocols("voc21", without)
    held, reasons = chosen_protocols("all", without)
    assert [one.name for one in held] == ["zs3", "paper"] and len(reasons) == 1
    held, reasons = chosen_protocols("all", CLASSES, transductive=True)
    assert [one.name for one in held] == ["zs3", "paper", "voc21"] and reasons == []
    assert all(one.transductive for one in held)
    with pytest.raises(ValueError, match="there are: zs3, paper, voc21, all"):
        chosen_protocols("mine", CLASSES)
