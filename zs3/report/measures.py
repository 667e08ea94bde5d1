"""Every measure of a report beside mIoU, with intervals: what page, Markdown and terminal show in one table."""

from collections.abc import Mapping
from typing import Any

from zs3.report import SCORE_KEYS, interval

_MEASURES = {
    "boundary": "boundary IoU",
    "accuracy": "class accuracy",
    "pixel_accuracy": "pixel accuracy",
    "frequency_weighted_iou": "frequency-weighted IoU",
}


def measured(report: Mapping[str, Any]) -> list[tuple[str, list[tuple[float | None, str]]]]:
    """(what, value in percent and interval of each group) of every measure; none where the report has but the headline.

    Args:
        report: as `report.json` holds it.
    """
    held = {"boundary": report.get("boundary"), **report.get("metrics", {})}
    rows = [
        (label, [(_value(held[key][group]), interval(held[key][group])) for group in SCORE_KEYS])
        for key, label in _MEASURES.items()
        if held.get(key)
    ]
    if not rows:
        return []
    first = ("mIoU", [(report[group]["miou"], interval(report[group])) for group in SCORE_KEYS])
    errors = report.get("calibration_error")
    last = [("calibration error", [(errors[group], "") for group in SCORE_KEYS])] if errors else []
    return [first, *rows, *last]


def _value(entry: Mapping[str, Any]) -> float | None:
    """The number of a score, whatever its name."""
    value: float | None = entry["miou"] if "miou" in entry else entry["value"]
    return value
