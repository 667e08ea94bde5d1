"""Areas under trade-offs, the best point, and what a report says of tuned settings."""

import json
import math

import numpy as np
import pytest

from zs3.metrics import PROTOCOLS, Confusion
from zs3.report.trade_off import markdown, picture
from zs3.tuning.calibration_sweep import Gammas
from zs3.tuning.curve import Curve, Point, best_setting, curve
from zs3.tuning.settings_file import Tuned, tuning_caveats
from zs3.vocabulary import ClassEntry

CLASSES = (
    ClassEntry(id=0, name="ground", role="background"),
    ClassEntry(id=1, name="cat"),
    ClassEntry(id=2, name="cow", role="unseen"),
)
DATASET = {"layout": "folder", "root": "farm", "split": "train", "images": 5, "vocabulary": "v", "truth": "t"}
TUNED_ON = {"title": "farm train", "dataset": DATASET}


def at(seen, unseen, naming=0, gamma=0.0, harmonic=0.0):
    return Point(naming=naming, gamma=gamma, seen=seen, unseen=unseen, harmonic=harmonic, all=0.0)


def test_the_area_is_that_of_the_figure_between_curve_and_axes():
    straight = Curve(points=(at(100, 0), at(50, 50), at(0, 100)))
    perfect = Curve(points=(at(100, 0), at(100, 100), at(0, 100)))
    nothing = Curve(points=(at(100, 0), at(0, 0), at(0, 100)))
    assert [one.area for one in (straight, perfect, nothing)] == pytest.approx([0.5, 1.0, 0.0])
    off_the_axes = Curve(points=(at(100, 20), at(100, 50), at(60, 50)))
    assert off_the_axes.area == pytest.approx(0.5)
    assert math.isnan(Curve(points=(at(1, 0), at(math.nan, 0), at(0, 1))).area)


def test_more_points_on_the_way_do_not_change_a_straight_curve():
    points = [at(80 * (1 - t), 60 * t) for t in np.linspace(0, 1, 9)]
    assert Curve(points=tuple(points)).area == pytest.approx(0.8 * 0.6 / 2)


def test_the_best_setting_is_a_setting_and_of_equals_the_nearest_to_the_own_one():
    ends = (at(0, 0, gamma=-math.inf, harmonic=99), at(0, 0, gamma=math.inf, harmonic=99))

    def settings(naming, *harmonics):
        inner = (at(1, 1, naming, gamma, one) for gamma, one in zip((-0.1, 0.0, 0.2), harmonics, strict=True))
        return Curve(points=(ends[0], *inner, ends[1]))

    curves = [settings(0, 5, 7, 7), settings(1, 7, 7, 7)]
    assert (best_setting(curves, 0.2).naming, best_setting(curves, 0.2).gamma) == (0, 0.2)
    assert best_setting(curves, 0.0).gamma == 0.0
    assert best_setting([curves[0], settings(1, 8, math.nan, 8)], 0.2).gamma == 0.2
    with pytest.raises(ValueError, match=r"no setting has a harmonic mean.*tune on a split that has both"):
        best_setting([settings(0, math.nan, math.nan, math.nan)], 0.0)


def test_a_curve_runs_from_seen_names_alone_to_unseen_names_alone():
    gammas = Gammas(values=(0.1, 0.2))
    right = np.array([1, 2])

    def held(
        prediction, bins, counts
    ):  # a pixel of each class, whose best class of the group is `prediction`
        return Confusion(
            truth=right, prediction=(np.full(2, prediction) + 2) * bins + counts, pixels=right * 0 + 1
        )

    counts = np.array([2, 1])
    sums = {(0, 0, 0): held(1, 1, 0), (0, 0, 1): held(2, 1, 0)}
    sums |= {(0, 2, 0): held(1, 3, counts), (0, 2, 1): held(2, 3, counts)}
    found = curve(sums, 0, gammas, CLASSES, PROTOCOLS["zs3"])
    assert [(one.gamma, one.seen, one.unseen) for one in found.points] == [
        (-math.inf, 50, 0),
        (0.1, 50, 0),
        (0.2, 100, 100),
        (math.inf, 0, 50),
    ]
    assert [one.gamma for one in found.settings] == [0.1, 0.2]


def test_a_settings_file_comes_back_and_others_are_refused():
    tuned = Tuned(changes={"weight": 0.5}, checkpoint="c", tuned_on=TUNED_ON)
    content = json.loads(json.dumps(tuned.to_json() | {"namings": []}))
    assert Tuned.from_json(content, "here") == tuned
    with pytest.raises(ValueError, match="here holds no tuned settings; give the --out of a `zs3 tune` run"):
        Tuned.from_json({"seen": 1}, "here")
    with pytest.raises(ValueError, match="here holds tuned settings of version 7, expected 1; tune again"):
        Tuned.from_json(content | {"version": 7}, "here")


@pytest.mark.parametrize(
    ("scored", "told"),
    [
        (DATASET, "the very split of these scores"),
        (DATASET | {"root": "elsewhere", "truth": "of fewer images"}, "the very split of these scores"),
        (DATASET | {"split": "copy"}, "the very split of these scores"),
        (DATASET | {"split": "val", "truth": "other"}, "these scores are of another split"),
        (DATASET | {"vocabulary": "w", "truth": "other"}, "these scores are of another split"),
    ],
)
def test_a_report_says_where_settings_were_tuned_and_whether_it_was_here(scored, told):
    (note,) = tuning_caveats(TUNED_ON, scored)
    assert "tuned on farm train (5 images)" in note and told in note
    assert tuning_caveats(None, scored) == []


def test_picture_and_words_show_points_without_numbers_too():
    point = {"naming": 0, "calibration": 0.0, "seen": 40.0, "unseen": 30.0, "harmonic": 34.3, "all": 37.0}
    ends = [point | {"calibration": "seen names alone", "unseen": None}]
    tuned = {
        "settings": {"weight": 0.5},
        "tuned_on": TUNED_ON
        | {"protocol": "zs3", "settings_tried": 2, "namings_tried": 2, "gammas_tried": 1},
        "current": point,
        "best": point | {"naming": 1},
        "notes": ["Mind the gap."],
        "namings": [
            {"settings": {}, "area": None, "best": point, "curve": [*ends, point]},
            {
                "settings": {"weight": 0.5},
                "area": 0.2,
                "best": point,
                "curve": [point, point | {"seen": 9.0}],
            },
        ],
    }
    assert picture(tuned).startswith(b"\x89PNG")
    words = markdown(tuned, "zs3 name --settings tuned/")
    for told in ("farm train", "| best harmonic mean | 40.0 | 30.0 | 34.3 | 0.2000 |", "zs3 name --settings"):
        assert told in words
    assert "Mind the gap." in words and "`weight` 0.5" in words
