"""Tables that page and Markdown both show: every measure, the largest mistakes, and the images that were left out."""

from collections.abc import Mapping
from typing import Any

from zs3.metrics import GROUPS
from zs3.report.formats import interval

MAX_MISTAKES = 10
"""Mistakes that are listed in words."""

MAX_LISTED = 200
"""Left-out images that a report lists, for each reason."""

_MEASURES = {
    "boundary": "boundary IoU",
    "accuracy": "class accuracy",
    "pixel_accuracy": "pixel accuracy",
    "frequency_weighted_iou": "frequency-weighted IoU",
}
_LEFT_OUT = {
    "without_labels": "In the data set, without labels",
    "without_truth": "Labelled, but not in the split",
}


def measures(report: Mapping[str, Any]) -> list[tuple[str, list[tuple[float | None, str]]]]:
    """(name, value in percent and interval of each group) of every measure; none where the report has only mIoU."""
    stored = {"boundary": report.get("boundary"), **report.get("metrics", {})}
    rows = [
        (
            label,
            [
                (entry.get("miou", entry.get("value")), interval(entry))
                for entry in map(stored[key].get, GROUPS)
            ],
        )
        for key, label in _MEASURES.items()
        if stored.get(key)
    ]
    if not rows:
        return []
    first = ("mIoU", [(report[group]["miou"], interval(report[group])) for group in GROUPS])
    errors = report.get("calibration_error")
    last = [("calibration error", [(errors[group], "") for group in GROUPS])] if errors else []
    return [first, *rows, *last]


def confusion_rows(confusion: Mapping[str, Any], seen: Mapping[str, bool]) -> dict[str, Any] | None:
    """The confusion matrix as shares of each true class in percent; none where no class is in any mistake.

    Args:
        confusion: `confusion` of `report.json`.
        seen: name of each class -> whether it is seen.

    Returns:
        `columns` (name, whether seen), without the last, which is every other label together; `rows` (name, whether
        seen, pixels, cells), a cell with its share of the row, its pixels, and whether it is `right`; classes without
        true pixels have cells without a share.
    """
    names = confusion["classes"]
    if not names:
        return None
    rows = []
    for place, name in enumerate(names):
        counts = [*confusion["pixels"][place], confusion["other"][place]]
        total = sum(counts)
        cells = [
            {
                "share": 100 * pixels / total if total else None,
                "pixels": pixels,
                "right": column == place,
                "taken": names[column] if column < len(names) else "other",
            }
            for column, pixels in enumerate(counts)
        ]
        rows.append({"name": name, "seen": seen.get(name, True), "pixels": total, "cells": cells})
    return {"columns": [(name, seen.get(name, True)) for name in names], "rows": rows}


def largest_mistakes(matrix: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The mistakes with most pixels: the true class, its wrong label, pixels, and share of the true class.

    Args:
        matrix: as `confusion_rows` gives it.
    """
    wrong = [
        {"truth": row["name"], **{key: cell[key] for key in ("taken", "pixels", "share")}}
        for row in matrix["rows"]
        for cell in row["cells"]
        if cell["pixels"] and not cell["right"]
    ]
    return sorted(wrong, key=lambda entry: -entry["pixels"])[:MAX_MISTAKES]


def left_out(report: Mapping[str, Any]) -> list[tuple[str, int, list[tuple[str, str]]]]:
    """Why images were not scored, how many there are, and id and reason of the first."""
    reasons = report.get("failures", {})
    return [
        (
            _LEFT_OUT.get(why, why),
            entry["count"],
            [(image_id, reasons.get(image_id, "")) for image_id in entry["ids"][:MAX_LISTED]],
        )
        for why, entry in report["missing"].items()
        if entry["count"]
    ]
