"""What a report says must be what was measured: as JSON, as a page, as Markdown and in a terminal."""

import base64
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from zs3.metrics import PROTOCOLS, confusion, scores, total
from zs3.report import markdown, page
from zs3.report.error_split import (
    region_diagnostics,
    split_classes,
    split_diagnostics,
    split_sentence,
    split_values,
)
from zs3.report.formats import flattened
from zs3.report.gallery import GalleryItem, LegendEntry
from zs3.report.layers import Layer
from zs3.report.overlays import colour, shrunk
from zs3.report.terminal import summary
from zs3.report.values import checked_diagnostic, confusion_matrix, report_values
from zs3.vocabulary import ClassEntry

CLASSES = (
    ClassEntry(id=0, name="cat"),
    ClassEntry(id=1, name="dog"),
    ClassEntry(id=2, name="cow", role="unseen"),
    ClassEntry(id=3, name="yak", role="unseen"),
)


def report(
    name: str = "cat", note: str = "look out", title: str = "data val", value: str = "v1"
) -> dict[str, Any]:
    """A small report in which yak is absent from the truth."""
    truth = np.array([[0, 0, 1, 1, 2, 2, 2, 2]])
    prediction = np.array([[0, 0, 1, 0, 2, 2, 2, 0]])
    classes = (ClassEntry(id=0, name=name), *CLASSES[1:])
    return report_values(
        title=title,
        scores=scores(confusion(truth, prediction, ignore_id=255), classes, PROTOCOLS["zs3"]),
        protocol=PROTOCOLS["zs3"],
        images=3,
        missing={"without_labels": (2, ["b", "a"]), "without_truth": (0, [])},
        notes=[note],
        diagnostics=[
            {"title": "Masks alone", "seen": 80.0, "unseen": float("nan"), "harmonic": 84, "note": note}
        ],
        provenance={"labels": {"digest": value, "runs": ["r1", "r2"]}, "seed": 0},
    )


ITEM = GalleryItem(
    image_id="2007_000001",
    kind="worst",
    miou=12.3,
    width=10,
    height=8,
    photo="data:image/jpeg;base64,AAAA",
    truth=(Layer(classes=(2,), uri="data:image/png;base64,BBBB", mark=(50.0, 25.0)),),
    prediction=(Layer(classes=(2,), uri="data:image/png;base64,CCCC"),),
    errors=(Layer(classes=(2, 2), uri="data:image/png;base64,DDDD"),),
    void=None,
    wrong=4.0,
    legend=(
        LegendEntry(class_id=2, name="cow", colour="#123456", seen=False, iou=None, labelled=24.6, true=0.0),
    ),
)


def test_report_json_keeps_the_contract_that_scripts_rely_on() -> None:
    values = json.loads(json.dumps(report(), allow_nan=False))
    assert values["seen"]["miou"] == pytest.approx((50 + 50) / 2)
    assert values["unseen"]["miou"] == pytest.approx(75.0)
    assert values["harmonic"]["miou"] == pytest.approx(2 * 50 * 75 / 125)
    assert values["all"]["miou"] == pytest.approx((50 + 50 + 75) / 3)
    assert values["classes"][2] == {
        "name": "cow",
        "seen": False,
        "iou": 75.0,
        "accuracy": 75.0,
        "pixels": 4,
        "labelled": 3,
    }
    assert values["classes"][3] == {
        "name": "yak",
        "seen": False,
        "iou": None,
        "accuracy": None,
        "pixels": 0,
        "labelled": 0,
    }
    assert values["absent"] == ["yak"] and values["images"] == 3
    assert values["protocol"]["name"] == "zs3" and len(values["protocol"]["words"]) >= 4
    assert values["provenance"]["labels"]["digest"] == "v1"
    assert values["missing"]["without_labels"] == {"count": 2, "ids": ["a", "b"]}
    assert values["diagnostics"][0]["unseen"] is None


class Seen(HTMLParser):
    """Tags with their attributes, addresses that a browser would fetch, and the text of scripts."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.scripts: list[str] = []

    @property
    def addresses(self) -> list[str]:
        return [value for key, value in self.attributes if key in ("src", "href", "srcset")]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(key, value or "") for key, value in attrs]

    def handle_data(self, data: str) -> None:
        if self.tags[-1:] == ["script"] and self.get_starttag_text() == "<script>":
            self.scripts.append(data)


def read(text: str) -> Seen:
    """What a browser would see."""
    seen = Seen()
    seen.feed(text)
    return seen


def test_the_page_fetches_nothing_and_runs_its_own_script_alone() -> None:
    text = page.render(report(), [ITEM])
    seen = read(text)
    own = [layer.uri for layer in (*ITEM.truth, *ITEM.prediction, *ITEM.errors)]
    assert [address for address in seen.addresses if not address.startswith("#")] == own
    assert not {"link", "iframe", "object", "base"} & set(seen.tags) and seen.tags.count("script") == 1
    assert re.findall(r"url\(([^)]*)\)", text) == [ITEM.photo] and not re.search(r"@import|https?://", text)
    assert "prefers-color-scheme: dark" in text and 'name="viewport"' in text
    policy = next(value for key, value in seen.attributes if value.startswith("default-src"))
    digest = hashlib.sha256("".join(seen.scripts[:1]).encode()).digest()
    assert f"script-src 'sha256-{base64.b64encode(digest).decode()}'" in policy
    assert "default-src 'none'" in policy and "unsafe-inline'; script-src" in policy


HOSTILE = (
    '</script></style><script>alert("x")</script><img src=x onerror=alert(1)>'
    '" onload="alert(2)\'|`\n&\x1b[31m\x00\x9b\u202e'
)
CONTROLS = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
"""All but the ends of lines."""


def test_names_from_outside_cannot_become_markup() -> None:
    values = report(name=HOSTILE, note=HOSTILE, title=HOSTILE, value=HOSTILE)
    values["missing"] = {"without_labels": {"count": 1, "ids": [HOSTILE]}}
    values["failures"] = {HOSTILE: HOSTILE}
    values["confusion"] = {"classes": [HOSTILE, "dog"], "pixels": [[1, 2], [3, 4]], "other": [0, 0]}
    values["absent"], values["protocol"]["words"] = [HOSTILE], [HOSTILE]
    values["diagnostics"][0] |= {"title": HOSTILE, "note": HOSTILE}
    values["error_split"] = split()
    for oracle in values["error_split"].values():
        oracle["classes"][0]["name"] = HOSTILE
    curve = [
        {"seen": 1.0, "unseen": 2.0, "calibration": 0.1},
        {"seen": 2.0, "unseen": 1.0, "calibration": 0.2},
    ]
    values["provenance"] |= {HOSTILE: HOSTILE}
    values["provenance"]["labels"] |= {
        "tuning": {"title": HOSTILE, "curve": curve},
        "uri": f"/photos/{HOSTILE}",
    }
    entry = replace(ITEM.legend[0], name=HOSTILE)
    text = page.render(values, [replace(ITEM, image_id=HOSTILE, legend=(entry,))])
    seen = read(text)
    assert not CONTROLS.search(text) and "\\x1b[31m" in text
    harmless = read(page.render(report(), [ITEM]))
    assert seen.tags.count("script") == 1 and seen.scripts == harmless.scripts
    assert seen.tags.count("img") == harmless.tags.count("img")
    assert not [key for key, _ in seen.attributes if key.startswith("on")]
    written = markdown.render(values)
    assert "<script" not in written and not CONTROLS.search(written)
    rows = [line for line in written.splitlines() if line.startswith("| ") and "alert" in line]
    assert rows and all(len(re.findall(r"(?<!\\)\|", row)) in (3, 5, 7, 8) for row in rows)


@pytest.mark.parametrize("form", ["page", "markdown", "terminal"])
def test_every_form_shows_the_numbers_the_notes_and_the_absent_classes(form: str) -> None:
    if form == "terminal":
        console = Console(width=120, record=True, quiet=False, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
        console.print(summary(report()))
        text = console.export_text()
    else:
        text = page.render(report(), [ITEM]) if form == "page" else markdown.render(report())
    for expected in (
        "60.0",
        "50.0",
        "75.0",
        "58.3",
        "cow",
        "unseen",
        "look out",
        "yak",
        "Masks alone",
        "80.0",
        "–",
    ):
        assert expected in text, expected


def whole_report() -> dict[str, Any]:
    """A report with all that an evaluation adds: intervals, measures, confusions, reasons."""
    values = report()
    scores = ("seen", "unseen", "harmonic", "all")
    values |= {key: values[key] | {"low": 12.3, "high": 87.6} for key in scores}
    values["classes"] = [
        entry | {"low": 31.4, "high": 97.1, "boundary_iou": 5.5} for entry in values["classes"]
    ]
    values["boundary"] = {key: {"miou": 23.4, "low": 22.2, "high": None} for key in scores}
    values["metrics"] = {"accuracy": {key: {"value": 45.6, "low": 41.9, "high": 49.9} for key in scores}}
    values["calibration_error"] = dict.fromkeys(scores, 17.8)
    values["calibration"] = [{"low": 0.5, "high": 1.0, "pixels": 8, "score": 0.7, "accuracy": 0.5}]
    values["confusion"] = {
        "classes": ["dog", "cow"],
        "pixels": [[1, 0], [0, 3]],
        "other": [1, 1],
    }
    values["failures"] = {"a": "cut short"}
    return values


@pytest.mark.parametrize("form", ["page", "markdown", "terminal"])
def test_every_form_shows_intervals_and_the_protocol(form: str) -> None:
    values = whole_report()
    if form == "terminal":
        console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
        console.print(summary(values))
        text = console.export_text()
    else:
        text = page.render(values, []) if form == "page" else markdown.render(values)
    assert "12.3 to 87.6" in text and "zs3" in text
    if form != "terminal":
        for expected in ("31.4 to 97.1", "boundary IoU", "23.4", "45.6", "41.9 to 49.9", "17.8", "cut short"):
            assert expected in text, expected
        assert "22.2 to" not in text  # half an interval is none


def test_what_was_left_out_is_listed_with_its_reason_and_the_rest_counted() -> None:
    values = whole_report()
    values["missing"]["without_truth"] = {"count": 1234, "ids": ["s1", "s2"]}
    text, written = page.render(values, []), markdown.render(values)
    assert "In the data set, without labels: 2" in text and "<b>a</b><span>cut short</span>" in text
    assert "and 1,232 more" in text and "- and 1,232 more" in written and "- a: cut short" in written


def split() -> dict[str, Any]:
    """The error of four pixels, each true class labelled as another, which an oracle puts right; yak is absent."""
    truth = np.array([[0, 1, 2, 2]])
    labelled = confusion(truth, np.array([[0, 2, 2, 1]]), ignore_id=255)
    oracles = {
        "oracle_names": confusion(truth, truth, ignore_id=255),
        "true_masks": labelled,
        "oracle_group": confusion(truth, np.array([[0, 0, 2, 2]]), ignore_id=255),
    }
    return split_values(labelled, oracles, CLASSES, PROTOCOLS["zs3"])


def test_the_split_holds_four_scores_of_each_class_in_the_truth_and_what_each_oracle_adds() -> None:
    held = json.loads(json.dumps(split(), allow_nan=False))
    assert held["predicted_names"]["seen"] == 50.0 and held["predicted_names"]["classes"][3]["iou"] is None
    assert [name for name, *_ in split_classes(held)] == ["cat", "dog", "cow"]
    assert split_classes(held)[1] == ("dog", True, [0.0, 100.0, 0.0, 0.0])
    assert split_classes(held)[2] == (
        "cow",
        False,
        [pytest.approx(100 / 3), 100.0, pytest.approx(100 / 3), 100.0],
    )
    assert "is 40.0. It would be 100.0 (+60.0) if each piece of the same masks" in split_sentence(held)
    assert "40.0 (+0.0) if the true masks" in split_sentence(held)
    assert checked_diagnostic(split_diagnostics(held)[0])["all"] == 100.0
    nothing = split()
    nothing["predicted_names"]["harmonic"] = None
    assert "The harmonic mean is –. It would be 100.0 if" in split_sentence(nothing)


@pytest.mark.parametrize("form", ["page", "markdown", "terminal"])
def test_every_form_shows_where_the_error_is(form: str) -> None:
    values = report() | {"error_split": split(), "diagnostics": split_diagnostics(split())}
    if form == "terminal":
        console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
        console.print(summary(values))
        text = console.export_text()
    else:
        text = page.render(values, []) if form == "page" else markdown.render(values)
    for expected in ("oracle names", "true masks", "oracle group", "(+60.0)", "33.3"):
        assert expected in text.lower(), expected
    assert form != "page" or '<td class="n most">100.0</td>' in text


def test_a_long_class_list_is_cut_to_its_worst_in_a_terminal_only() -> None:
    values = report()
    values["classes"] = [
        {"name": f"class {k}", "seen": True, "iou": float(k), "accuracy": 1.0, "pixels": 1, "labelled": 1}
        for k in range(90)
    ]
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    console.print(summary(values, max_classes=10))
    text = console.export_text()
    assert "class 9 " in text and "class 10 " not in text and "10 worst of 90" in text
    assert "class 89" in page.render(values, [])


def test_a_report_without_a_single_number_still_renders() -> None:
    empty = scores(confusion(np.array([[255]]), np.array([[0]]), ignore_id=255), CLASSES, PROTOCOLS["paper"])
    values = report_values(
        title="nothing",
        scores=empty,
        protocol=PROTOCOLS["paper"],
        images=1,
        missing={},
        notes=[],
        diagnostics=[],
        provenance={},
    )
    assert values["harmonic"]["miou"] is None
    assert "–" in page.render(values, []) and "–" in markdown.render(values)
    Console(file=open("/dev/null", "w")).print(summary(values))  # noqa: PTH123, SIM115


def test_diagnostics_from_outside_are_checked() -> None:
    nested = {"title": "t", "seen": {"miou": 1.0}, "unseen": 2, "harmonic": None}
    assert checked_diagnostic(nested) == {
        "title": "t",
        "note": "",
        "seen": 1.0,
        "unseen": 2,
        "harmonic": None,
    }
    with pytest.raises(ValueError, match="no title"):
        checked_diagnostic({"seen": 1.0})
    with pytest.raises(ValueError, match="unseen = 'high'"):
        checked_diagnostic({"title": "t", "unseen": "high"})


def test_provenance_is_flattened_in_its_order() -> None:
    assert flattened({"b": {"x": 1, "y": [1, 2]}, "a": None, "c": []}) == [
        ("b.x", "1"),
        ("b.y", "1, 2"),
        ("a", "none"),
        ("c", "none"),
    ]


def test_colours_are_fixed_and_differ_between_classes() -> None:
    assert colour(7) == colour(7)
    assert len({colour(class_id) for class_id in range(256)}) == 256
    nearest = min(
        np.abs(np.subtract(colour(first), colour(second))).sum()
        for first in range(20)
        for second in range(first)
    )
    assert nearest > 40  # sum over three channels; below about 25 two tints over a photograph look the same


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 40))
def test_shrinking_keeps_proportions_and_invents_no_class(height: int, width: int, limit: int) -> None:
    labels = np.random.default_rng(0).integers(-2, 9, (height, width), np.int32)
    small = shrunk(labels, limit)
    photo = shrunk(np.zeros((height, width, 3), np.uint8), limit)
    assert small.shape == photo.shape[:2] and max(small.shape) <= limit
    assert set(np.unique(small)) <= set(np.unique(labels))


def test_the_confusion_matrix_holds_the_classes_of_most_mistakes_and_loses_no_pixel_of_a_row() -> None:
    animals = (
        ClassEntry(id=0, name="ground", role="background"),
        ClassEntry(id=1, name="cat"),
        ClassEntry(id=2, name="cow", role="unseen"),
    )
    truth = np.array([[1] * 6 + [2] * 4 + [0, 255]])
    given = np.array([[1, 1, 1, 2, 2, -1, 2, 2, 2, 1, 1, 1]])
    whole = total([confusion(truth, given, ignore_id=255)])
    held = confusion_matrix(whole, animals, PROTOCOLS["zs3"])
    assert held == {"classes": ["cat", "cow"], "pixels": [[3, 2], [1, 3]], "other": [1, 0]}
    assert confusion_matrix(whole, animals, PROTOCOLS["zs3"], max_classes=1)["pixels"] == [[3]]


def test_oracles_of_a_label_table_come_as_diagnostics_of_a_report() -> None:
    both = region_diagnostics(np.zeros((3, 4)), total([]), CLASSES, PROTOCOLS["zs3"])
    assert [entry["title"] for entry in both] == ["Masks alone", "Names alone"]
    assert all(entry.keys() == {"title", "note", "seen", "unseen", "harmonic", "all"} for entry in both)
