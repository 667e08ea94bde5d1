"""Numbers and nested values of a report as text."""

import math
from collections.abc import Mapping
from typing import Any


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
    return (
        f"mIoU {seen} on classes with training masks (seen), {unseen} on classes known by name only "
        f"(unseen), harmonic mean {both}, on {report['images']} images."
    )


def flattened(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested provenance as rows of dotted key and text, in order; of a list of objects only the length is shown."""
    rows: list[tuple[str, str]] = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            rows += flattened(value, f"{prefix}{key}.")
        elif isinstance(value, list | tuple) and any(isinstance(entry, Mapping) for entry in value):
            rows.append((f"{prefix}{key}", f"{len(value)} entries"))
        elif isinstance(value, list | tuple):
            rows.append((f"{prefix}{key}", ", ".join(map(str, value)) or "none"))
        else:
            rows.append((f"{prefix}{key}", "none" if value is None else str(value)))
    return rows
