"""Numbers and nested values of a report as text."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from zs3.wording import number_of


def percent(value: float | None, digits: int = 1) -> str:
    """A percentage; an en dash where it is undefined."""
    return "–" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def interval(entry: Mapping[str, Any]) -> str:
    """The 95 % interval of a score or class; empty where it has none."""
    if entry.get("low") is None or entry.get("high") is None:
        return ""
    return f"{percent(entry['low'])} to {percent(entry['high'])}"


def headline(report: Mapping[str, Any]) -> str:
    """The result in one sentence."""
    seen, unseen, both = (percent(report[key]["miou"]) for key in ("seen", "unseen", "harmonic"))
    words = group_words(report["classes"])
    return (
        f"mIoU {seen} on seen classes ({words['seen']}), {unseen} on unseen classes ({words['unseen']}), "
        f"harmonic mean {both}, on {number_of(report['images'], 'image')}."
    )


def group_words(classes: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """What the data set's groups `seen` and `unseen` mean for this labeller: which of their classes had training masks.

    Args:
        classes: `classes` of `report.json`; those that the truth lacks are in no mean.
    """
    words = {}
    for group, expected, usual in (
        ("seen", True, "had training masks"),
        ("unseen", False, "known by name only"),
    ):
        entries = [entry for entry in classes if entry["seen"] is expected and entry["iou"] is not None]
        masks = [entry["trained"] for entry in entries if entry.get("trained") is not None]
        if not masks or len(masks) < sum("trained" in entry for entry in entries):
            words[group] = f"{group} in this data set"
        elif all(value is expected for value in masks):
            words[group] = usual
        else:
            words[group] = f"{sum(masks)} of {len(masks)} had training masks"
    return words


def masks_word(entry: Mapping[str, Any]) -> str:
    """Whether the labeller had training masks of a class; an en dash where that is not known."""
    trained = entry.get("trained")
    return "–" if trained is None else "yes" if trained else "no"


def flattened(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested provenance as rows of dotted key and text, in order; of a list of objects only the length is shown."""
    rows: list[tuple[str, str]] = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            rows += flattened(value, f"{prefix}{key}.")
        elif isinstance(value, list | tuple) and any(isinstance(entry, Mapping) for entry in value):
            rows.append((f"{prefix}{key}", number_of(len(value), "entry", "entries")))
        elif isinstance(value, list | tuple):
            rows.append((f"{prefix}{key}", ", ".join(map(str, value)) or "none"))
        else:
            rows.append((f"{prefix}{key}", "none" if value is None else str(value)))
    return rows
