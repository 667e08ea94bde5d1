"""Images that a report does not score: how many, which, and why, as far as that is known."""

from collections.abc import Mapping
from typing import Any

LISTED_FAILURES = 200
"""Images of each kind that a report lists one by one."""

_TITLES = {
    "without_labels": "In the data set, without labels",
    "without_truth": "Labelled, but not in the split",
}


def left_out(report: Mapping[str, Any]) -> list[tuple[str, int, list[tuple[str, str]]]]:
    """What is wrong with images that were not scored, how many there are, and the first of them with the reason.

    Args:
        report: as `report.json` holds it.
    """
    reasons = report.get("failures", {})
    return [
        (
            _TITLES.get(why, why),
            held["count"],
            [(image_id, reasons.get(image_id, "")) for image_id in held["ids"][:LISTED_FAILURES]],
        )
        for why, held in report["missing"].items()
        if held["count"]
    ]
