"""Charts of a report stand where their numbers say, and are left out where there is nothing to draw."""

import pytest

from zs3.report.charts import SIDE, reliability, trade_off
from zs3.report.details import MAX_MISTAKES, confusion_rows, largest_mistakes
from zs3.report.formats import flattened


def test_the_reliability_curve_has_a_dot_for_each_bin_with_pixels() -> None:
    bins = [
        {"low": 0.0, "high": 0.5, "pixels": 0, "score": None, "accuracy": None},
        {"low": 0.5, "high": 0.9, "pixels": 100, "score": 0.6, "accuracy": 0.25},
        {"low": 0.9, "high": 1.0, "pixels": 300, "score": 1.0, "accuracy": 1.0},
    ]
    curve = reliability(bins)
    assert curve is not None
    assert [(dot["x"], dot["y"]) for dot in curve["dots"]] == [(0.6 * SIDE, 0.75 * SIDE), (SIDE, 0)]
    assert [dot["share"] for dot in curve["dots"]] == [25.0, 75.0]
    assert curve["dots"][0]["radius"] < curve["dots"][1]["radius"]
    assert reliability(bins[:1]) is None and reliability([]) is None


def tuning(**changes: object) -> dict:
    """What a label table says of a tuning run with a curve of three points."""
    points = [(60.0, 0.0), (40.0, 20.0), (0.0, 30.0)]
    curve = [{"calibration": k, "seen": seen, "unseen": unseen} for k, (seen, unseen) in enumerate(points)]
    return {"title": "pets val", "seen": 40.0, "unseen": 20.0, "harmonic": 26.7, "curve": curve} | changes


def test_the_trade_off_runs_between_its_axes_with_the_chosen_point_on_it() -> None:
    drawn = trade_off(tuning())
    assert drawn is not None
    top = 1.15 * 60
    assert [(dot["x"], dot["y"]) for dot in drawn["dots"]] == [
        (pytest.approx(60 / top * SIDE, abs=0.1), SIDE),
        (pytest.approx(40 / top * SIDE, abs=0.1), pytest.approx((1 - 20 / top) * SIDE, abs=0.1)),
        (0.0, pytest.approx((1 - 30 / top) * SIDE, abs=0.1)),
    ]
    assert drawn["chosen"] == {key: drawn["dots"][1][key] for key in "xy"}
    assert [level["harmonic"] for level in drawn["levels"]] == ["10", "20", "30", "40", "50", "60"]
    for level in drawn["levels"]:
        for x, y in (map(float, point.split(",")) for point in level["line"].split()):
            seen, unseen = x / SIDE * top, (1 - y / SIDE) * top
            assert 2 * seen * unseen / (seen + unseen) == pytest.approx(float(level["harmonic"]), abs=0.1)


@pytest.mark.parametrize("best", [0.0, 0.3, 4.0, 31.0, 100.0])
def test_a_trade_off_of_any_height_has_axes_and_lines_within_it(best: float) -> None:
    """Scores of a model that has learned nothing once asked for lines above the chart."""
    ends = [{"calibration": k, "seen": best * k, "unseen": best * (1 - k)} for k in (0, 1)]
    drawn = trade_off(tuning(curve=ends, seen=best, unseen=0.0))
    assert drawn is not None and 2 <= len(drawn["ticks"]) <= 7 and drawn["levels"]
    for level in drawn["levels"]:
        places = [float(part) for point in level["line"].split() for part in point.split(",")]
        assert min(places) >= 0 and max(places) <= SIDE


def test_without_a_curve_there_is_no_trade_off() -> None:
    assert trade_off(None) is None and trade_off(tuning(curve=[])) is None
    assert trade_off({"title": "an older tuning"}) is None
    undefined = [{"calibration": 0, "seen": None, "unseen": 1.0}] * 3
    assert trade_off(tuning(curve=undefined)) is None
    drawn = trade_off(tuning(seen=None))
    assert drawn is not None and drawn["chosen"] is None


def test_a_curve_in_the_provenance_is_counted_not_printed() -> None:
    assert flattened({"tuning": tuning()})[-1] == ("tuning.curve", "3 entries")


CONFUSION = {"classes": ["cat", "cow"], "pixels": [[6, 2], [0, 0]], "other": [2, 0]}


def test_rows_of_the_matrix_are_shares_of_the_true_class() -> None:
    held = confusion_rows(CONFUSION, {"cat": True, "cow": False})
    assert held is not None and held["columns"] == [("cat", True), ("cow", False)]
    cat, cow = held["rows"]
    assert [cell["share"] for cell in cat["cells"]] == [60.0, 20.0, 20.0]
    assert [cell["right"] for cell in cat["cells"]] == [True, False, False]
    assert [cell["share"] for cell in cow["cells"]] == [None] * 3 and not cow["seen"]
    assert confusion_rows({"classes": [], "pixels": [], "other": []}, {}) is None


def test_the_largest_mistakes_come_first_and_right_pixels_are_none() -> None:
    held = confusion_rows(CONFUSION, {})
    assert held is not None
    assert [(entry["truth"], entry["taken"], entry["pixels"]) for entry in largest_mistakes(held)] == [
        ("cat", "cow", 2),
        ("cat", "other", 2),
    ]
    wide = confusion_rows(
        {"classes": list("abcdefghijklm"), "pixels": [[1] * 13] * 13, "other": [0] * 13}, {}
    )
    assert wide is not None and len(largest_mistakes(wide)) == MAX_MISTAKES
